"""Shows a sweep while it runs, and rewrites the files of its table whenever a trial ends."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import pandas as pd
from ray.tune import Callback
from rich.console import Console
from rich.live import Live

from tgt_ray.core import records
from tgt_ray.core.progress import FIRST_S, next_line_s
from tgt_ray.core.storage import Storage
from tgt_ray.distributed.board import board_name
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.screen import Pace, line_of, screen
from tgt_ray.sweeps.search import note_failure
from tgt_ray.sweeps.table import ENDED, line, trial_table
from tgt_ray.sweeps.watch import Watch

log = logging.getLogger(__name__)

#: Seconds between two looks at the trials.
DRAWN_EVERY_S = 0.5


def _draws() -> bool:
    """Return whether there is a terminal to draw in, and messages are shown there."""
    return sys.stdout.isatty() and log.isEnabledFor(logging.INFO)


class Leaderboard(Callback):
    """Shows a sweep on one screen in a terminal; elsewhere prints a line for each trial that ends, and how far it is.

    It keeps trials.csv and trials.parquet in the sweep's folder up to date.
    """

    def __init__(self, sweep: SweepConfig, folder: Storage):
        self.sweep, self.folder = sweep, folder
        self.pace, self._watch = Pace(), Watch(board_name(folder))
        self._live: Live | None = None
        self._drawn, self._due = 0.0, FIRST_S

    def __getstate__(self) -> dict[str, Any]:
        # Tune stores its callbacks, and a terminal can't be stored.
        return {**self.__dict__, "_live": None, "_watch": Watch(self._watch.board)}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if self.pace.began is None:
            self.pace.begin(time.monotonic(), trial_table(self.sweep, trials))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.pace.began is None or time.monotonic() - self._drawn < DRAWN_EVERY_S:
            return
        self._drawn = time.monotonic()
        seconds = self._drawn - self.pace.began
        if _draws():
            self._draw(trial_table(self.sweep, trials), seconds)
        elif seconds >= self._due:
            table = trial_table(self.sweep, trials)
            log.info(line_of(self.sweep, table, seconds, self.pace.left_s(self.sweep, table, self._drawn)))
            self._due = next_line_s(seconds)

    def _draw(self, table: pd.DataFrame, seconds: float) -> None:
        if self._live is None:
            # Transient, since the sweep's last lines show the final table.
            self._live = Live(console=Console(), auto_refresh=False, transient=True)
            self._live.start()
        left, size = self.pace.left_s(self.sweep, table, self._drawn), self._live.console.size
        drawn = screen(self.sweep, table, self._watch.look(), seconds, left, size.width, size.height)
        self._live.update(drawn, refresh=True)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # Tune calls this before it changes the trial's own status.
        self._ended(trials, trial, "COMPLETE")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        table = self._ended(trials, trial, "ERROR")
        note_failure(self.folder, trial.trial_id, str(table[table.trial == trial.trial_id].iloc[0].reason))

    def _ended(self, trials: list[Any], trial: Any, status: str) -> pd.DataFrame:
        table = trial_table(self.sweep, trials, {trial.trial_id: status})
        records.write_table(self.folder, table, "trials")
        if not _draws():
            row = table[table.trial == trial.trial_id].iloc[0]
            ended = int(table.status.isin(ENDED).sum())
            log.info(line(self.sweep, row, ended, self.sweep.num_trials))
        return table

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        table = trial_table(self.sweep, trials)
        records.write_table(self.folder, table, "trials")
        if self._live is not None:
            self._live.stop()
            self._live = None
