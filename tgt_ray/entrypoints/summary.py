"""The last lines of a sweep."""

from __future__ import annotations

from rich.console import Console

from tgt_ray.entrypoints.api import SweepResult
from tgt_ray.sweeps.table import render


def print_result(result: SweepResult) -> None:
    """The final table, and how the best student compares with the controls on the test split."""
    console = Console(width=None if Console().is_terminal else 160)
    metric = result.config.search.metric
    console.print(render(result.config, result.trials))
    if result.best is None:
        console.print("no trial has finished")
        return
    line = f"best: {result.best.trial}, test {metric} {result.best[f'test_{metric}']:.2f}"
    controls = result.trials[result.trials.control.notna() & (result.trials.status == "finished")].to_dict("records")
    for row in controls:
        line += f"; {row['control']} {row[f'test_{metric}']:.2f}"
    teacher = result.record["teacher"]["labeler"].get("quality", {}).get("test", {}).get(metric)
    console.print(line + (f"; teacher {teacher:.2f}" if teacher is not None else ""), soft_wrap=True)
    sign = 1 if result.config.search.mode == "max" else -1
    for row in controls:
        # Over one seed no reason to take the control for the better one, but one not to take the best trial for a gain.
        if sign * row[metric] >= sign * result.best[metric]:
            console.print(
                f"the control {row['control']} is not behind the best trial by validation {metric} ({row[metric]:.2f} beside"
                f" {result.best[metric]:.2f}): this sweep shows no gain over it",
                soft_wrap=True,
            )
    console.print(f"table, best student and records: {result.folder}", soft_wrap=True)
