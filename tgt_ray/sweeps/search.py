"""Connects Optuna's samplers to Tune, and runs the controls first."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from tgt_ray.core.fingerprint import digest
from tgt_ray.core.storage import Storage
from tgt_ray.distributed.ray_train import reopen_study, study_of, study_trial
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.space import from_optuna, to_optuna, values_of_levels
from tgt_ray.sweeps.study import about_control, name_of, open_journal

STUDY_FILE = "optuna_journal.log"


class ControlledSearch(OptunaSearch):
    """Suggests the controls first, then what Optuna suggests, and tells Optuna how trials end.

    The config of a control's trial is {"control": name}. Controls are no trials of Optuna's study, which has their
    results as attributes. A trial that was stopped early is pruned there, with its reports and no value.
    """

    def __init__(self, sweep: SweepConfig, points: list[dict[str, Any]], **options: Any):
        controls, space = sweep.search.controls, sweep.space
        super().__init__(
            # Given here and not to the Tuner, which would fill keys that a control lacks with unresolved distributions.
            space={key: distribution.to_optuna() for key, distribution in space.items()},
            points_to_evaluate=[to_optuna(space, point) for point in points],
            **options,
        )
        self._searched = space
        self._controls_left = list(controls)
        self._control_ids: set[str] = set()
        if study_of(self).metric_names is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study_of(self).set_metric_names([self.metric])

    def restore(self, checkpoint_path: str) -> None:
        """Go on from Tune's file of this search, with the study as the journal has it now."""
        study = study_of(self)
        super().restore(checkpoint_path)
        reopen_study(self, study, {each.user_attrs["trial"]: each for each in study.trials if each.user_attrs})

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self._controls_left:
            self._control_ids.add(trial_id)
            return {"control": self._controls_left.pop(0)}
        chosen = super().suggest(trial_id)
        if chosen is None:
            return None
        trial = study_trial(self, trial_id)
        trial.set_user_attr("trial", trial_id)
        values = from_optuna(self._searched, chosen)
        for key, value in values_of_levels(self._searched, values).items():
            trial.set_user_attr(key, value)
        return values

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id not in self._control_ids and self._is_open(trial_id):
            super().on_trial_result(trial_id, {**result, "training_iteration": result["step"]})

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id in self._control_ids:
            if result:
                self._note_control(trial_id, result)
        elif not self._is_open(trial_id):
            return
        elif error or not result or not math.isfinite(result[self.metric]):
            super().on_trial_complete(trial_id, error=error or bool(result))
        elif f"test_{self.metric}" in result:
            super().on_trial_complete(trial_id, result)
        elif result.get("done"):  # an interruption stops trials as well, and a resume goes on with them
            # Optuna refuses a value of a pruned trial: it goes by the reports.
            self.on_trial_result(trial_id, result)
            super().on_trial_complete(trial_id)

    def _is_open(self, trial_id: str) -> bool:
        """Return whether Optuna still takes reports: a restored search may have forgotten that the trial has ended."""
        number = study_trial(self, trial_id).number
        return not study_of(self).get_trials(deepcopy=False)[number].state.is_finished()

    def _note_control(self, trial_id: str, result: dict[str, Any]) -> None:
        about = about_control(self.metric, trial_id, result)
        study_of(self).set_user_attr(f"control {result.get('config/control', trial_id)}", about)


def note_failure(folder: Storage, trial_id: str, reason: str) -> None:
    """Write into the sweep's study why a trial failed: as an attribute of the study, since a failed trial is closed."""
    study = optuna.load_study(study_name=name_of(folder, study_path(folder)), storage=open_journal(study_path(folder)))
    study.set_user_attr(f"error {trial_id}", reason)


def make_sampler(sweep: SweepConfig) -> optuna.samplers.BaseSampler:
    """Make what chooses the values of trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = sweep.search
    if search.algorithm == "tpe":
        return optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=search.startup_trials, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=search.seed)


def first_values(sweep: SweepConfig) -> list[dict[str, Any]]:
    """Return the values of the trials that follow from the seed alone: of tpe those before its model takes over."""
    study, search, points = optuna.create_study(sampler=make_sampler(sweep)), sweep.search, sweep.first_points()
    for point in points:
        study.enqueue_trial(to_optuna(sweep.space, point))
    if search.algorithm == "grid":
        return points
    space = {key: distribution.to_optuna() for key, distribution in sweep.space.items()}
    count = search.trials if search.algorithm == "random" else min(search.trials, search.startup_trials)
    return [from_optuna(sweep.space, study.ask(fixed_distributions=space).params) for _ in range(count)]


def make_search(sweep: SweepConfig, folder: Storage, resume: bool = False) -> ControlledSearch:
    """Make the sweep's search algorithm, whose study is stored in the sweep's folder.

    - resume: the study is there already, and Tune restores the rest
    """
    search = sweep.search
    return ControlledSearch(
        sweep,
        metric=search.metric,
        mode=search.mode,
        sampler=make_sampler(sweep),
        points=[] if resume else sweep.first_points(),
        study_name=name_of(folder, study_path(folder)),
        storage=open_journal(study_path(folder)),
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
