"""Mends Optuna's study of a sweep from what Ray Tune knows of its trials."""

from __future__ import annotations

import json
import logging
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import Damaged
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.space import to_optuna, values_of_levels

log = logging.getLogger(__name__)

#: Optuna's state of a trial by its status in the table; others have not ended.
STATES = {"finished": TrialState.COMPLETE, "stopped early": TrialState.PRUNED, "failed": TrialState.FAIL}


def name_of(folder: Storage, path: Path) -> str:
    """Return the name of a sweep's study: that of its folder when it began, which may have been renamed since.

    - path: of the journal
    """
    there = _names(_whole(path.read_bytes())) if path.exists() else []
    return there[0] if len(there) == 1 else Path(folder.base).name


def open_journal(path: Path) -> JournalStorage:
    """Open Optuna's journal, or begin one."""
    return JournalStorage(JournalFileBackend(str(path)))


def about_control(metric: str, trial_id: str, result: dict[str, Any]) -> dict[str, Any]:
    """Return what a study says of a control, as an attribute: controls are no trials of the study."""
    names = (metric, f"test_{metric}", "step")
    return {"trial": trial_id, **{name: result[name] for name in names if name in result}}


@dataclass(frozen=True)
class Known:
    """What Tune knows of a trial.

    - values: of the space, or {"control": name}
    - status: as in the table
    - reports: the metric by training step
    - result: its last report
    - reason: why it failed
    """

    name: str
    values: dict[str, Any]
    status: str
    reports: dict[int, float]
    result: dict[str, Any]
    reason: str | None = None


def mend(sweep: SweepConfig, path: Path, name: str, trials: list[Known]) -> None:
    """Let a sweep's study say of all trials what Tune knows of them; the whole lines of a damaged journal go on.

    - path, name: of the journal, and of the study in it
    - trials: in the order in which they were chosen
    """
    damaged = _keep_whole_lines(path, name)
    storage, direction = open_journal(path), "maximize" if sweep.search.mode == "max" else "minimize"
    if name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
    else:
        study = optuna.create_study(study_name=name, storage=storage, direction=direction)
    for trial in trials:
        control = trial.values.get("control")
        if control is None:
            _mend_trial(sweep, study, trial)
        elif trial.status == "finished" and f"control {control}" not in study.user_attrs:
            about = about_control(sweep.search.metric, trial.name, trial.result)
            study.set_user_attr(f"control {control}", about)
        if trial.reason is not None and f"error {trial.name}" not in study.user_attrs:
            study.set_user_attr(f"error {trial.name}", trial.reason)
    lost = _close_lost(study, {trial.name for trial in trials})
    if damaged or lost:
        tried = [trial.values for trial in trials if "control" not in trial.values]
        _queue_again(sweep, study, [to_optuna(sweep.space, values) for values in tried])


def _keep_whole_lines(path: Path, name: str) -> bool:
    """Cut a journal behind its last line that is whole; return whether there was something to cut."""
    content = path.read_bytes() if path.exists() else b""
    whole = _whole(content)
    if whole and _names(whole) != [name]:
        whole = b""
    if whole and whole == content:
        return False
    why = "it is cut off, or has other bytes than were written" if content else "it is empty"
    log.warning(
        "%s; its %d whole lines go on, and what Tune's state says of trials is added",
        Damaged.of(str(path), why if path.exists() else "it is missing").fact,
        whole.count(b"\n"),
    )
    draft = path.with_name(f"{path.name}.draft")
    draft.write_bytes(whole)
    draft.replace(path)
    return True


def _whole(content: bytes) -> bytes:
    """Return a journal up to its first line that isn't whole."""
    whole = b""
    for line in content.splitlines(keepends=True):
        if not (line.endswith(b"\n") and _is_entry(line)):
            break
        whole += line
    return whole


def _is_entry(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and isinstance(entry.get("op_code"), int)


def _names(journal: bytes) -> list[str]:
    """Return the names of the studies in a journal; none where Optuna can't read it."""
    folder = tempfile.mkdtemp(prefix="tgt_ray_study_")
    try:
        copy = Path(folder, "journal")
        copy.write_bytes(journal)
        return optuna.get_all_study_names(open_journal(copy))
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, AssertionError):
        return []  # entries that don't follow from those before them
    finally:
        shutil.rmtree(folder)


def _mend_trial(sweep: SweepConfig, study: optuna.Study, trial: Known) -> None:
    """Let the study have a trial, and how it has ended."""
    state, reports = STATES.get(trial.status), trial.reports
    values = to_optuna(sweep.space, {key: trial.values[key] for key in sweep.space})
    value = reports[max(reports)] if reports and state == TrialState.COMPLETE else None
    if state == TrialState.COMPLETE and (value is None or not math.isfinite(value)):
        state, value = TrialState.FAIL, None
    found = _find(study, trial.name, values)
    if found is None:
        _take_off_the_queue(study, values)
        study.add_trial(
            optuna.trial.create_trial(
                state=state or TrialState.RUNNING,
                # Optuna gives a pruned trial the value of its last report.
                value=reports[max(reports)] if state == TrialState.PRUNED and reports else value,
                params=values,
                distributions={key: distribution.to_optuna() for key, distribution in sweep.space.items()},
                intermediate_values=_before_last(reports) if state == TrialState.COMPLETE else reports,
                user_attrs={"trial": trial.name, **values_of_levels(sweep.space, trial.values)},
            )
        )
        return
    if found.state.is_finished():
        return
    known = optuna.trial.Trial(study, found._trial_id)
    if "trial" not in found.user_attrs:
        known.set_user_attr("trial", trial.name)
    last = max(reports, default=None) if state == TrialState.COMPLETE else None
    for step in sorted(set(reports) - {last} - set(found.intermediate_values)):
        known.report(reports[step], step)
    if state is not None:
        study.tell(found.number, value, state)


def _take_off_the_queue(study: optuna.Study, values: dict[str, Any]) -> None:
    """End the queued trial of these values, if there is one: it was begun, which the journal has lost."""
    for each in study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
        if each.system_attrs.get("fixed_params") == values:
            study._storage.set_trial_state_values(each._trial_id, TrialState.FAIL)
            return


def _before_last(reports: dict[int, float]) -> dict[int, float]:
    """Return reports without the last one, which is the trial's value."""
    return {step: value for step, value in reports.items() if step != max(reports)}


def _find(study: optuna.Study, trial_id: str, values: dict[str, Any]) -> FrozenTrial | None:
    """Return the study's trial of this id; else one of these values whose id was cut off."""
    there = study.get_trials(deepcopy=False)
    named = [each for each in there if each.user_attrs.get("trial") == trial_id]
    nameless = [
        each
        for each in there
        if "trial" not in each.user_attrs and each.state == TrialState.RUNNING and each.params == values
    ]
    return next(iter(named + nameless), None)


def _close_lost(study: optuna.Study, known: set[str]) -> int:
    """End the trials that Optuna has begun and that Tune had not noted before it was killed; return how many."""
    lost = [
        each
        for each in study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        if each.user_attrs.get("trial") not in known
    ]
    for each in lost:
        study.tell(each.number, state=TrialState.FAIL)
    return len(lost)


def _queue_again(sweep: SweepConfig, study: optuna.Study, tried: list[dict[str, Any]]) -> None:
    """Queue the first points that no trial has and that don't wait.

    - tried: the values of trials, as Optuna knows them
    """
    waiting = study.get_trials(deepcopy=False, states=[TrialState.WAITING])
    there = [*tried, *(each.system_attrs.get("fixed_params") for each in waiting)]
    for point in (to_optuna(sweep.space, each) for each in sweep.first_points()):
        if point in there:
            there.remove(point)
        else:
            study.enqueue_trial(point)
