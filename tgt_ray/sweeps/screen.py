"""Draws a running sweep on one screen, and says in one line how far it is; imports neither torch nor ray."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from tgt_ray.core.progress import duration
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.table import ENDED, SHOWN, number, render, steps_of, tried

if TYPE_CHECKING:
    from tgt_ray.distributed.run_queue import LaneState
    from tgt_ray.sweeps.watch import Seen

#: Most lanes that have a line each.
LANES = 8
#: Rows of the screen that the table takes beside its trials.
AROUND = 7
#: Fewest trials that the table shows.
FEWEST = 3


@dataclass
class Pace:
    """Measures how fast a sweep's trials go, in training steps of all of them together.

    - steps: done before this command, as after a resume; they count for no speed
    """

    began: float | None = None
    steps: dict[str, float] = field(default_factory=dict)

    def begin(self, now: float, table: pd.DataFrame) -> None:
        """Note that the first trial of this command begins."""
        if self.began is None:
            self.began, self.steps = now, _steps(table)

    def left_s(self, sweep: SweepConfig, table: pd.DataFrame, now: float) -> float | None:
        """Return the seconds that are left, from the steps that trials have made and those that they will make.

        Trials that have not ended are taken to be stopped as early as those that have, on average. None where nothing
        can be told yet.
        """
        done = sum(_steps(table).values()) - sum(self.steps.values())
        if self.began is None or done <= 0:
            return None
        return _steps_left(sweep, table) * (now - self.began) / done


def _steps(table: pd.DataFrame) -> dict[str, float]:
    return {row["trial"]: row["step"] for row in table.to_dict("records") if row["step"] == row["step"]}


def _steps_left(sweep: SweepConfig, table: pd.DataFrame) -> float:
    """Return how many steps trials will make yet, of all of the sweep."""
    rows: list[dict[Any, Any]] = table.to_dict("records")
    searched = [row for row in rows if row["status"] in ("finished", "stopped early") and not row["control"]]
    shares = [row["step"] / steps_of(sweep, row) for row in searched if row["step"] == row["step"]]
    usual = sum(shares) / len(shares) if shares else 1.0
    left = 0.0
    for row in rows:
        if row["status"] not in ENDED:
            all_of_it = steps_of(sweep, row)
            done = row["step"] if row["step"] == row["step"] else 0.0
            expected = all_of_it if row["control"] or done >= usual * all_of_it else usual * all_of_it
            left += max(0.0, expected - done)
    typical = sum(steps_of(sweep, row) for row in rows) / len(rows) if rows else sweep.experiment.train.steps
    return left + max(0, sweep.num_trials - len(rows)) * usual * typical


def line_of(sweep: SweepConfig, table: pd.DataFrame, seconds: float, left_s: float | None) -> str:
    """Return the line that says how far a sweep is.

    - seconds: since the command began its trials
    """
    ended = int(table.status.isin(ENDED).sum())
    runs = int((table.status == "running").sum())
    left = f", about {duration(left_s)} left" if left_s is not None else ""
    best = _best(sweep, table)
    tail = f"; best so far: {best}" if best else ""
    return f"sweep: {ended} of {sweep.num_trials} trials ended, {runs} running, in {duration(seconds)}{left}{tail}"


def _best(sweep: SweepConfig, table: pd.DataFrame) -> str | None:
    metric = sweep.search.metric
    scored = table[table.control.isna() & table[metric].notna()]
    if not len(scored):
        return None
    row = scored.iloc[0]
    return f"{row.trial}, validation {metric} {number(row[metric])} at step {number(row['step'])}"


def screen(
    sweep: SweepConfig,
    table: pd.DataFrame,
    seen: Seen | None,
    seconds: float,
    left_s: float | None,
    width: int = 10_000,
    height: int = 1000,
) -> RenderableType:
    """Draw a running sweep: how far it is, what runs where, the generators, and as many trials as there is room for.

    - seen: what lanes do; None where it isn't known yet
    - seconds: since the command began its trials
    - left_s: None where it isn't known yet
    - width, height: of the terminal, in columns and rows
    """
    left = f", about {duration(left_s)} left" if left_s is not None else ""
    best = _best(sweep, table)
    lines = [f"time: {duration(seconds)}{left}", *([f"best so far: {best}"] if best else [])]
    if seen is not None:
        lines += _lanes(sweep, table, seen)
    shown = [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]
    rows = max(FEWEST, min(SHOWN, height - len(shown) - AROUND))
    return Group(*shown, render(sweep, table, None, width, rows))


def _lanes(sweep: SweepConfig, table: pd.DataFrame, seen: Seen) -> Iterator[str]:
    """Say what runs where, and what the generators do."""
    rows = {row["trial"]: row for row in table.to_dict("records")}
    lanes, several = seen.overview.lanes, len({node for nodes in seen.nodes.values() for node in nodes}) > 1
    for lane in lanes[:LANES]:
        where = f" on {', '.join(seen.nodes.get(lane.name, []))}" if several and seen.nodes.get(lane.name) else ""
        yield f"{lane.name}{where}: {_work(sweep, lane, rows)}"
    if len(lanes) > LANES:
        busy = sum(lane.run is not None for lane in lanes[LANES:])
        yield f"and {len(lanes) - LANES} more lanes, {busy} of them with a trial"
    wanted = sum(lane.generators for lane in lanes)
    if wanted:
        running = [rows[lane.run] for lane in lanes if lane.run in rows]
        yield f"generators: {seen.generators} of {wanted} alive{_speed(running)}"
    if seen.overview.queued:
        yield f"waiting for a lane: {seen.overview.queued} trial(s)"


def _work(sweep: SweepConfig, lane: LaneState, rows: dict[str, dict[Any, Any]]) -> str:
    if lane.run is None:
        return "waits for a trial" if lane.ready else "starts"
    row = rows.get(lane.run)
    if row is None or row["step"] != row["step"]:
        return f"{lane.run}, has no report yet" if lane.ready else f"{lane.run}, starts"
    speed = f", {number(row['step'] / row['train_s'])} steps/s" if row.get("train_s", 0) > 0 else ""
    waits = f", waits for rows {row['wait_share']:.0%} of the time" if row.get("wait_share", 0) > 0.005 else ""
    what = f"step {number(row['step'])} of {steps_of(sweep, row)}{speed}{waits}"
    return f"{lane.run}, {what} ({tried(sweep, row)})"


def _speed(running: list[dict[Any, Any]]) -> str:
    """Say how many requests the trials that run get, and how busy the generators are."""
    made = [row for row in running if row.get("requests_granted", 0) > 0 and row.get("train_s", 0) > 0]
    if not made:
        return ""
    requests = sum(row["requests_granted"] / row["train_s"] for row in made)
    busy = sum(row.get("generator_utilisation", 0.0) for row in made) / len(made)
    return f", {number(requests)} requests/s, {busy:.0%} busy"
