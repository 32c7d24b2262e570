"""Defines the results of runs and sweeps, and prints their last lines."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tgt_ray.core.storage import shown
from tgt_ray.results import speed
from tgt_ray.results.ledger import ledger, line
from tgt_ray.sweeps.config import SweepConfig

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

#: Columns of the table where the output is no terminal: a file, or the log of a job.
NO_TERMINAL = 160
#: How trials stand in the table that haven't ended.
LEFT = ["running", "pending", "paused"]


@dataclass(frozen=True, repr=False)
class RunResult:
    """Holds the result of a finished run.

    - folder: holds its records and its student
    - metrics: one row a report; the last one has the metrics of the test split
    - record: as in record.json
    """

    folder: str
    metrics: pd.DataFrame
    record: dict[str, Any]

    def __repr__(self) -> str:
        last = self.metrics.iloc[-1]
        tested = [f"test {key.removeprefix('test_')} {last[key]:.2f}" for key in last.index if key.startswith("test_")]
        sums = [line(made) for made in [ledger([last.to_dict()])] if made]
        small = speed.lines(self.record)
        return "\n".join([*tested, *small, *sums, f"student, records and report.html: {shown(self.folder)}"])


@dataclass(frozen=True, repr=False)
class SweepResult:
    """Holds the result of a sweep that has ended or was interrupted.

    - folder: holds its table, its records and the best student
    - config: the sweep
    - trials: its table, one row a trial and best first
    - best: the row of the best trial, controls left out; None where no trial has finished
    - record: as in record.json
    """

    folder: str
    config: SweepConfig
    trials: pd.DataFrame
    best: pd.Series | None
    record: dict[str, Any]

    @property
    def interrupted(self) -> bool:
        """Whether trials are left that `--resume` would run."""
        return len(self.trials) < self.config.num_trials or bool(self.trials.status.isin([*LEFT, "interrupted"]).any())

    def as_left(self) -> SweepResult:
        """Return it as a command leaves it that ends at once: what it hasn't written any more runs no longer."""
        return replace(self, trials=self.trials.assign(status=self.trials.status.replace(LEFT, "interrupted")))

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """Yield how the best student compares with controls and teacher on the test split, one fact a line."""
        if self.best is None:
            yield "no trial has finished"
        else:
            yield from self._comparison(self.best)
        if sums := ledger(self.trials.to_dict("records")):
            yield line(sums)
        yield f"table, best student, records and report.html: {shown(self.folder)}"

    def _comparison(self, best: pd.Series) -> Iterator[str]:
        metric, trials = self.config.search.metric, self.trials
        yield f"best: {best.trial}, test {metric} {best[f'test_{metric}']:.2f}"
        controls = trials[trials.control.notna() & (trials.status == "finished")].to_dict("records")
        for row in controls:
            yield f"  control {row['control']}: {row[f'test_{metric}']:.2f}"
        teacher = self.record["teacher"]["labeler"].get("quality", {}).get("test", {}).get(metric)
        if teacher is not None:
            yield f"  teacher: {teacher:.2f}"
        yield from speed.lines(self.record, best.trial)
        sign = 1 if self.config.search.mode == "max" else -1
        for row in controls:
            # One seed doesn't show that the control is better, but the sweep then shows no gain over it.
            if sign * row[metric] >= sign * best[metric]:
                yield (
                    f"the control {row['control']} is not behind the best trial by validation {metric}"
                    f" ({row[metric]:.2f} beside {best[metric]:.2f}): this sweep shows no gain over it"
                )


def say_result(result: SweepResult) -> None:
    """Show the final table and the lines below it as a message, so that Python says what the command says."""
    from tgt_ray.sweeps.table import render

    text = io.StringIO()
    console = Console(file=text, width=None if Console().is_terminal else NO_TERMINAL)
    console.print(render(result.config, result.trials, width=console.width))
    table = text.getvalue().rstrip()
    log.info("%s", "\n".join([table, *result.lines()]))


def print_result(result: SweepResult, with_table: bool = True) -> None:
    """Print the final table and the lines below it."""
    from tgt_ray.sweeps.table import render

    console = Console(width=None if Console().is_terminal else NO_TERMINAL)
    if with_table:
        console.print(render(result.config, result.trials, width=console.width))
    for each in result.lines():
        console.print(each, soft_wrap=True, highlight=False, markup=False, emoji=False)
