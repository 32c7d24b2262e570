"""Makes one table of a sweep's trials, and renders it for people; imports neither torch nor ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from tgt_ray.core import records
from tgt_ray.sweeps.config import SweepConfig

#: Most rows of the table that are shown.
SHOWN = 15

#: Statuses of trials that are over.
ENDED = ("finished", "stopped early", "failed")


def trial_table(sweep: SweepConfig, trials: list[Any], newer: dict[str, str] | None = None) -> pd.DataFrame:
    """Make the table of trials, one row each and best first; of those that are equal, the one that was chosen first.

    Its columns are status, why the trial failed, values of the space, metrics and times.

    - newer: Tune's status of trials by id, where it is known before the trial itself has it
    """
    rows = [_row(sweep, trial, (newer or {}).get(trial.trial_id, trial.status)) for trial in trials]
    columns = ["trial", "number", "status", "reason", "control", *sweep.space, "step", sweep.search.metric]
    table = pd.DataFrame(rows)
    table = records.plain_text(table.reindex(columns=[*columns, *(c for c in table.columns if c not in columns)]))
    return best_first(sweep, table)


def best_first(sweep: SweepConfig, table: pd.DataFrame) -> pd.DataFrame:
    """Sort trials by the metric of the search, and those that are equal by their numbers.

    Nothing else may decide: the order in which Tune lists trials changes with a resume, and test metrics must not
    choose anything.
    """
    # Tables of older versions have no numbers; they are sorted by id then.
    tie = "number" if "number" in table.columns else "trial"
    up = sweep.search.mode == "min"
    return table.sort_values([sweep.search.metric, tie], ascending=[up, True], na_position="last")


def number_of(trial: Any) -> int | None:
    """Return a trial's number, from 1, in the order in which values were chosen; None where Tune gave it none.

    A resume keeps it: Tune stores it at the beginning of the trial's tag.
    """
    first = (trial.experiment_tag or "").partition("_")[0]
    return int(first) if first.isdigit() else None


def _row(sweep: SweepConfig, trial: Any, tune_status: str) -> dict[str, Any]:
    result = {
        k: v for k, v in (trial.last_result or {}).items() if isinstance(v, int | float | str) and k not in TUNES_OWN
    }
    status = status_of(sweep, tune_status, trial.last_result or {})
    reason = None
    if status == "failed":
        # The local file first: the storage has it only after Tune has reported the failure.
        here = Path(trial.error_file) if trial.error_file else None
        error = here.read_text(encoding="utf-8") if here is not None and here.exists() else trial.get_error()
        reason = reason_of(str(error or ""))
    return {
        "trial": trial.trial_id,
        "number": number_of(trial),
        "status": status,
        "reason": reason,
        "control": trial.config.get("control"),
        **{key: trial.config.get(key) for key in sweep.space},
        **result,
        "seconds": trial.last_result.get("time_total_s") if trial.last_result else None,
    }


def reason_of(error: str) -> str:
    """Return why a trial failed: the cause is at the bottom of Ray's nested tracebacks."""
    return error.strip().splitlines()[-1] if error.strip() else "the trial's process was lost"


#: What Tune adds to a report.
TUNES_OWN = {
    "trial_id", "date", "timestamp", "time_this_iter_s", "time_total_s", "pid", "hostname", "node_ip", "done",
    "time_since_restore", "iterations_since_restore", "experiment_tag", "training_iteration", "should_checkpoint",
}  # fmt: skip


def status_of(sweep: SweepConfig, tune_status: str, result: dict[str, Any]) -> str:
    """Return a trial's status in the table, from Tune's and from its last report."""
    if tune_status == "ERROR":
        return "failed"
    if tune_status not in ("TERMINATED", "COMPLETE"):
        return tune_status.lower()
    # Only the last report measures the test split.
    if f"test_{sweep.search.metric}" in result:
        return "finished"
    # An interruption terminates trials as well, but without the mark that they are done.
    return "stopped early" if tune_status == "COMPLETE" or result.get("done") else "interrupted"


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
