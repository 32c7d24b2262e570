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
from tgt_ray.core.storage import Storage
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.search import note_failure
from tgt_ray.sweeps.table import ENDED, line, render, trial_table

log = logging.getLogger(__name__)


def _draws() -> bool:
    """Return whether there is a terminal to draw in, and messages are shown there."""
    return sys.stdout.isatty() and log.isEnabledFor(logging.INFO)


class Leaderboard(Callback):
    """Shows a live table in a terminal, and elsewhere prints one line for each trial that ends.

    It keeps trials.csv and trials.parquet in the sweep's folder up to date.
    """

    def __init__(self, sweep: SweepConfig, folder: Storage):
        self.sweep, self.folder = sweep, folder
        self.started = time.time()
        self._live: Live | None = None
        self._drawn = 0.0

    def __getstate__(self) -> dict[str, Any]:
        # Tune stores its callbacks, and a terminal can't be stored.
        return {**self.__dict__, "_live": None}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if not _draws() or time.time() - self._drawn < 0.5:
            return
        if self._live is None:
            # Transient, since the sweep's last lines show the final table.
            self._live = Live(console=Console(), auto_refresh=False, transient=True)
            self._live.start()
        self._drawn = time.time()
        seconds, width = time.time() - self.started, self._live.console.width
        self._live.update(render(self.sweep, trial_table(self.sweep, trials), seconds, width), refresh=True)

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
