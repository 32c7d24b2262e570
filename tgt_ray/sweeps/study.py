"""Makes Optuna's study of a sweep from the sweep's journal, anew for each command: nothing of it is read back."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tgt_ray.core.fingerprint import digest
from tgt_ray.core.patience import patiently
from tgt_ray.core.storage import Storage
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.journal import Journal, Known
from tgt_ray.sweeps.space import to_optuna, values_of_levels

#: Optuna's journal, for optuna-dashboard.
STUDY_FILE = "optuna_journal.log"
#: Optuna's state of a trial by its status in the table; others have not ended.
STATES = {"finished": TrialState.COMPLETE, "stopped early": TrialState.PRUNED, "failed": TrialState.FAIL}


def study_path(folder: Storage) -> Path:
    """Return the path of Optuna's journal: in the sweep's folder, or on this machine where the folder is remote.

    Optuna can only write its journal to a file of a local file system.
    """
    if folder.is_local:
        return Path(folder.base) / STUDY_FILE
    private = Path.home() / ".cache" / "tgt_ray" / digest(folder.root)
    private.mkdir(parents=True, exist_ok=True)
    return private / STUDY_FILE


class _Patient(JournalFileBackend):
    """Optuna's journal, of which a write that fails leaves nothing, and is tried again."""

    def __init__(self, path: Path):
        super().__init__(str(path))
        self._place = Storage(path.parent), path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        patiently(lambda: self._append(logs))

    def _append(self, logs: list[dict[str, Any]]) -> None:
        folder, path = self._place
        with folder.writing(path.name):
            size = path.stat().st_size
            try:
                super().append_logs(logs)
            except RuntimeError as err:  # its lock could not be given back, of which it forgets the reason
                os.truncate(path, size)
                raise OSError(str(err)) from err
            except OSError:
                os.truncate(path, size)
                raise


def open_journal(path: Path) -> JournalStorage:
    """Open Optuna's journal, or begin one."""
    return JournalStorage(_Patient(path))


def make_study(sweep: SweepConfig, folder: Storage, journal: Journal) -> optuna.Study:
    """Make the study of a sweep with all trials that have ended; those that go on are asked for by the search."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = study_path(folder)
    path.unlink(missing_ok=True)
    direction = "maximize" if sweep.search.mode == "max" else "minimize"
    name = Path(folder.base).name
    study = optuna.create_study(study_name=name, storage=open_journal(path), direction=direction)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([sweep.search.metric])
    for number in sorted(journal.trials):
        known = journal.trials[number]
        if known.status is not None:
            if known.control is None:
                _add(sweep, study, known)
            note_end(sweep, study, known)
    return study


def about(sweep: SweepConfig, known: Known) -> dict[str, Any]:
    """Return the attributes that a study has of a trial."""
    return {"trial": known.name, **values_of_levels(sweep.space, known.values)}


def note_end(sweep: SweepConfig, study: optuna.Study, known: Known) -> None:
    """Note what the study's own trials can't say: how a control has ended, and why a trial failed."""
    if known.status == "failed":
        study.set_user_attr(f"error {known.name}", known.reason)
    elif known.control is not None:
        names = (sweep.search.metric, f"test_{sweep.search.metric}", "step")
        found = {name: known.result[name] for name in names if name in known.result}
        study.set_user_attr(f"control {known.control}", {"trial": known.name, **found})


def end(sweep: SweepConfig, study: optuna.Study, trial: optuna.Trial, known: Known) -> None:
    """Tell the study how a trial has ended."""
    state, value = outcome(sweep, known)
    study.tell(trial.number, value, state)


def outcome(sweep: SweepConfig, known: Known) -> tuple[TrialState, float | None]:
    """Return the state of a trial that has ended, and its value; Optuna gives a pruned one that of its last report."""
    state, score = STATES[str(known.status)], known.result.get(sweep.search.metric)
    if state == TrialState.FAIL or score is None or not math.isfinite(score):
        return TrialState.FAIL, None
    return state, score if state == TrialState.COMPLETE else None


def reports_of(sweep: SweepConfig, known: Known) -> dict[int, float]:
    """Return a trial's reports as the study has them: without the last one of a finished trial, which is its value."""
    metric, kept = sweep.search.metric, known.reports[:-1] if known.status == "finished" else known.reports
    return {int(each["step"]): each[metric] for each in kept if _is_number(each.get(metric))}


def _add(sweep: SweepConfig, study: optuna.Study, known: Known) -> None:
    state, value = outcome(sweep, known)
    reports = reports_of(sweep, known)
    if state == TrialState.PRUNED and reports:
        value = reports[max(reports)]
    study.add_trial(
        optuna.trial.create_trial(
            state=state,
            value=value,
            params=to_optuna(sweep.space, known.values),
            distributions={key: distribution.to_optuna() for key, distribution in sweep.space.items()},
            intermediate_values=reports,
            user_attrs=about(sweep, known),
        )
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
