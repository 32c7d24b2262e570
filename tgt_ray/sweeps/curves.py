"""Writes what TensorBoard shows of a sweep: curves over training steps, and a row of the HParams tab for each trial."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from ray.tune.logger import TBXLoggerCallback
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from tgt_ray.core.storage import Storage
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.table import TUNES_OWN, number_of, tried

#: Folders in `tune/`, each with a folder for each trial: its curves, and its scores alone, for the HParams tab.
CURVES, SCORES = "curves", "hparams"
#: Longest name of a trial's folder.
LONGEST = 120


class Curves(TBXLoggerCallback):
    """Writes events under names that say what was tried.

    HParams takes the first table of columns that it finds below its folder, so none is written: it then makes one of
    all trials of all sweeps there. Scores have a folder of their own, since it lists whatever lies beside them.
    """

    def __init__(self, sweep: SweepConfig, folder: Storage):
        super().__init__()  # as one of Tune's own, so that Tune adds no other
        self.sweep, self.folder = sweep, folder
        self._writers: dict[str, SummaryWriter] = {}

    def log_trial_start(self, trial: Any) -> None:
        if trial.trial_id not in self._writers:
            self._writers[trial.trial_id] = self._open(trial, CURVES)

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        self.log_trial_start(trial)
        for name, value in result.items():
            if name not in TUNES_OWN and name != "step" and _is_number(value):
                self._writers[trial.trial_id].add_scalar(name, value, global_step=result["step"])
        self._writers[trial.trial_id].flush()

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        if writer := self._writers.pop(trial.trial_id, None):
            writer.close()
        result = trial.last_result or {}
        metric = self.sweep.search.metric
        found = {k: v for k, v in result.items() if (k == metric or k.startswith("test_")) and _is_number(v)}
        if metric not in found:
            return
        # HParams shows the first five in alphabetical order, and the metric of the search may be called worst_*.
        first = {metric: f"1_validation_{metric}", f"test_{metric}": f"2_test_{metric}"}
        scores = {first.get(name, name): value for name, value in found.items()}
        values = {key: trial.config[key] for key in self.sweep.space if key in trial.config}
        known = {k: v if isinstance(v, str | bool | int | float) else str(v) for k, v in values.items()}
        about = {"sweep": Path(self.folder.base).name, "control": trial.config.get("control", ""), **known}
        _, begin, end = hparams(about, scores)
        writer = self._open(trial, SCORES)
        for summary in (begin, end):
            writer.file_writer.add_summary(summary)
        for name, value in scores.items():
            writer.add_scalar(name, value, global_step=result["step"])
        writer.close()

    def _open(self, trial: Any, kind: str) -> SummaryWriter:
        # Tune copies its folder on this machine to a storage that is none.
        tune = self.folder.within("tune").base if self.folder.is_local else Path(trial.local_path).parent
        number = number_of(trial)
        called = f"{trial.trial_id if number is None else f'{number:02}'} {tried(self.sweep, trial.config)}"
        return SummaryWriter(str(Path(tune, kind, re.sub(r"[^\w .,=+-]", "_", called)[:LONGEST].strip())))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
