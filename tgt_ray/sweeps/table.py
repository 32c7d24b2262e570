"""Makes one table of a sweep's trials, and renders it for people; imports neither torch nor ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tgt_ray.core import records
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.journal import Known

#: Most rows of the table that are shown.
SHOWN = 15

#: Statuses of trials that are over.
ENDED = ("finished", "stopped early", "failed")


def trial_table(sweep: SweepConfig, trials: Iterable[Known], now: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Make the table of trials, one row each and best first; of those that are equal, the one that was chosen first.

    Its columns are status, why the trial failed, values of the space, metrics and times.

    - now: what trials do that have not ended, by id; those that it lacks are interrupted
    """
    rows = [_row(sweep, trial, trial.status or (now or {}).get(trial.name, "interrupted")) for trial in trials]
    columns = ["trial", "number", "status", "reason", "control", *sweep.space, "step", sweep.search.metric]
    table = pd.DataFrame(rows)
    table = records.plain_text(table.reindex(columns=[*columns, *(c for c in table.columns if c not in columns)]))
    return best_first(sweep, table)


def best_first(sweep: SweepConfig, table: pd.DataFrame) -> pd.DataFrame:
    """Sort trials by the metric of the search, and those that are equal by their numbers.

    Nothing else may decide: test metrics must not choose anything.
    """
    # Tables of older versions have no numbers; they are sorted by id then.
    tie = "number" if "number" in table.columns else "trial"
    up = sweep.search.mode == "min"
    return table.sort_values([sweep.search.metric, tie], ascending=[up, True], na_position="last")


def _row(sweep: SweepConfig, trial: Known, status: str) -> dict[str, Any]:
    return {
        "trial": trial.name,
        "number": trial.number,
        "status": status,
        "reason": trial.reason,
        "control": trial.control,
        **{key: trial.values.get(key) for key in sweep.space},
        **{key: value for key, value in trial.result.items() if isinstance(value, int | float | str)},
        "seconds": trial.seconds,
    }


def reason_of(error: str) -> str:
    """Return why a trial failed: the cause is at the bottom of Ray's nested tracebacks."""
    return error.strip().splitlines()[-1] if error.strip() else "the trial's process was lost"


def line(sweep: SweepConfig, row: pd.Series, ended: int, total: int) -> str:
    """Return the line that is printed of a trial when it ends.

    - row: the trial's, of the table
    - ended, total: numbers of trials
    """
    what = tried(sweep, row)
    score = row.get(sweep.search.metric)
    tail = f": {row.reason}" if row.reason else ""
    where = f"{sweep.search.metric} {number(score)} at step {number(row.get('step'))}"
    return f"[{ended}/{total}] {row.trial} {row.status}, {where} ({what}){tail}"


def tried(sweep: SweepConfig, values: Any) -> str:
    """Say what a trial tries: its values of the space, or the name of a control.

    - values: the trial's by key, perhaps with more
    """
    if values.get("control"):
        return f"control {values.get('control')}"
    return ", ".join(f"{key.split('.')[-1]} {number(values.get(key))}" for key in sweep.space)


def number(value: Any) -> str:
    """Return a value as text: four digits of a float, "-" where there is none."""
    if value is None or value != value:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def steps_of(sweep: SweepConfig, row: Any) -> int:
    """Return how many steps a trial makes if it isn't stopped early."""
    own = row.get("train.steps")
    return sweep.experiment.train.steps if own is None or own != own else int(own)


def render(
    sweep: SweepConfig,
    table: pd.DataFrame,
    seconds: float | None = None,
    width: int = 10_000,
    shown: int = SHOWN,
) -> RenderableType:
    """Render the table for people, with the validation metric for all trials and the test metric for finished ones.

    - seconds: since the sweep began; None: not shown
    - width: columns of the terminal. Where the table is wider, the reasons of failures go below it. Where that isn't
      enough, headers are broken between words, and then the last keys of the space are left out, with a line that says
      so and names trials.csv.
    - shown: most rows
    """
    ended = int(table.status.isin(ENDED).sum())
    title = f"{ended} of {sweep.num_trials} trials ended" + (f", {seconds:.0f} s" if seconds else "")
    rows: list[dict[Any, Any]] = table.head(shown).to_dict("records")
    keys = list(sweep.space)
    below: list[str] = []
    drawn = _draw(sweep, rows, keys, title)
    if _wide(drawn) > width:
        below = [f"{row['trial']} failed: {row['reason']}" for row in rows if row["reason"]]
        drawn = _draw(sweep, rows, keys, title, reasons=False)
    if _wide(drawn) > width:
        drawn = _draw(sweep, rows, keys, title, reasons=False, narrow=True)
    while _wide(drawn) > width and keys:
        keys.pop()
        drawn = _draw(sweep, rows, keys, title, reasons=False, narrow=True)
    if len(keys) < len(sweep.space):
        below.append(f"not shown, but in trials.csv: {', '.join(list(sweep.space)[len(keys) :])}")
    # As Text, since the text of an error may look like markup to rich.
    return Group(drawn, *(Text(each) for each in below))


def _draw(
    sweep: SweepConfig,
    rows: list[dict[Any, Any]],
    keys: list[str],
    title: str,
    reasons: bool = True,
    narrow: bool = False,
) -> Table:
    """Draw the table; narrow: with the metric in its title, and with headers and statuses broken between words."""
    metric = sweep.search.metric
    scores = ("validation", "test") if narrow else (f"validation {metric}", f"test {metric}")
    out = Table(title=f"{title}; {metric}" if narrow else title, title_justify="left")
    if narrow:
        out.box, out.padding, out.pad_edge, out.show_edge = SIMPLE_HEAD, (0, 1, 0, 0), False, False
    for name in ("trial", "status", *(key.split(".")[-1] for key in keys), "step", *scores):
        header = name.replace("_", "_\n") if narrow else name
        out.add_column(header, justify="left" if name in ("trial", "status") else "right", no_wrap=True)
    for row in rows:
        status = f"{row['status']}: {row['reason']}" if row["reason"] and reasons else row["status"]
        status = status.replace(" ", "\n") if narrow else status
        numbers = [number(row.get(key)) for key in (*keys, "step", metric, f"test_{metric}")]
        if row["status"] == "running" and numbers[len(keys)] != "-":
            numbers[len(keys)] += f"/{steps_of(sweep, row)}"
        cells = [Text(str(cell)) for cell in (row["control"] or row["trial"], status, *numbers)]
        out.add_row(*cells, style="dim" if row["control"] else None)
    return out


def _wide(table: Table) -> int:
    """Return the columns that a table takes when nothing in it is cut."""
    console = Console(width=10_000)
    return Measurement.get(console, console.options, table).maximum
