"""Connects Optuna's samplers to Tune, and runs the controls first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray.tune.search.optuna import OptunaSearch

from tgt_ray.core.fingerprint import digest
from tgt_ray.core.storage import Storage
from tgt_ray.sweeps.config import SweepConfig

STUDY_FILE = "optuna_journal.log"


class ControlledSearch(OptunaSearch):
    """Suggests the controls first, then what Optuna suggests.

    The config of a control's trial is {"control": name}. Optuna's study doesn't see these trials.
    """

    def __init__(self, controls: list[str], **options: Any):
        super().__init__(**options)
        self._controls_left = list(controls)
        self._control_ids: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self._controls_left:
            self._control_ids.add(trial_id)
            return {"control": self._controls_left.pop(0)}
        return super().suggest(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id not in self._control_ids:
            super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id not in self._control_ids:
            super().on_trial_complete(trial_id, result, error)


def make_search(sweep: SweepConfig, folder: Storage) -> ControlledSearch:
    """Make the sweep's search algorithm, whose study is stored in the sweep's folder."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = sweep.search
    if search.algorithm == "tpe":
        sampler: Any = optuna.samplers.TPESampler(
            seed=search.seed, n_startup_trials=search.startup_trials, constant_liar=True
        )
    else:
        sampler = optuna.samplers.RandomSampler(seed=search.seed)
    return ControlledSearch(
        search.controls,
        # Given here and not to the Tuner, which would fill keys that a control lacks with unresolved distributions.
        space={key: distribution.to_optuna() for key, distribution in sweep.space.items()},
        metric=search.metric,
        mode=search.mode,
        sampler=sampler,
        points_to_evaluate=sweep.first_points(),
        study_name=Path(folder.shown).name,
        storage=JournalStorage(JournalFileBackend(str(study_path(folder)))),
    )


def study_path(folder: Storage) -> Path:
    """Return the path of Optuna's journal: in the sweep's folder, or on this machine where the folder is remote.

    Optuna can only write its journal to a file of a local file system.
    """
    if folder.is_local:
        return Path(folder.base) / STUDY_FILE
    private = Path.home() / ".cache" / "tgt_ray" / digest(folder.root)
    private.mkdir(parents=True, exist_ok=True)
    return private / STUDY_FILE
