"""Reads what a sweep has left before it goes on: what is damaged is mended or refused before anything is started."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

from ray import tune

from tgt_ray.core import records
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import Damaged
from tgt_ray.sweeps import study
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.search import STUDY_FILE, study_path
from tgt_ray.sweeps.table import number_of, reason_of, status_of

log = logging.getLogger(__name__)

#: Tune's files, of which the newest of each kind counts: trials, the search's counts, and its state.
STATES = ("experiment_state-*.json", "search_gen_state-*.json", "searcher-state-*.pkl")
#: Tune's files of callbacks, which can be left out: those of a sweep keep nothing there.
CALLBACKS = "callback-states-*.pkl"
#: What --resume needs of a sweep's record.
NEEDED = ("concurrent", "fingerprints")


def mend(sweep: SweepConfig, folder: Storage) -> bool:
    """Check the files of a sweep that is to go on, and mend those that follow from others.

    - returns: whether there is a state to go on from; a sweep that was killed before its first trial begins afresh
    - raises Damaged: for a file that is damaged or missing, and that nothing else can stand in for
    """
    state = folder.without_secrets().within("tune")  # so that what Tune has stored of it is found again
    newest = {kind: _newest(state, kind) for kind in STATES}
    if newest[STATES[0]] is None:
        if folder.exists("trials.parquet"):
            raise Damaged.of(state.where(STATES[0]), "it is missing, and trials have ended")
        return False
    _check_record(folder)
    trials = _trials(state, str(newest[STATES[0]]))
    for kind, name in newest.items():
        if name is None:
            raise Damaged.of(state.where(kind), "it is missing")
        if kind != STATES[0]:
            _unpickled(state, name)
    _leave_out_callbacks(state)
    for trial in trials:
        _mend_trial(state, trial)
    _mend_study(sweep, folder, trials)
    return True


def _newest(state: Storage, kind: str) -> str | None:
    """Return the name of Tune's newest file of a kind; their names hold the time at which a command began."""
    return max((name for name in map(_name, state.files()) if fnmatch(name, kind)), default=None)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _check_record(folder: Storage) -> None:
    where = folder.where("record.json")
    if not folder.exists("record.json"):
        raise Damaged.of(where, "it is missing")
    record = records.read_json(folder, "record.json")
    lacks = [key for key in NEEDED if key not in record]
    if lacks:
        raise Damaged.of(where, f"it lacks '{lacks[0]}'")


def _trials(state: Storage, name: str) -> list[Any]:
    """Read the trials that Tune knows, in the order in which they were chosen."""
    return _read(state, name, lambda: tune.ExperimentAnalysis(state.path(name), storage_filesystem=state.fs).trials)


def _unpickled(state: Storage, name: str) -> Any:
    return _read(state, name, lambda: pickle.loads(_bytes(state, name)))  # noqa: S301  # as Tune does it


def _bytes(state: Storage, name: str) -> bytes:
    with state.fs.open_input_file(state.path(name)) as file:
        return file.read()


def _read(state: Storage, name: str, how: Callable[[], Any]) -> Any:
    """Read one of Tune's files. Raises Damaged: Tune itself would begin afresh, with a traceback in its log."""
    try:
        return how()
    except Exception as err:  # bytes that are no pickle raise whatever they spell
        empty = not state.fs.get_file_info(state.path(name)).size
        why = "it is empty" if empty else f"it can't be read: {type(err).__name__}"
        raise Damaged.of(state.where(name), why) from err


def _leave_out_callbacks(state: Storage) -> None:
    for name in map(_name, state.files()):
        if fnmatch(name, CALLBACKS):
            try:
                _unpickled(state, name)
            except Damaged as err:
                log.warning("%s; it is left out, since nothing needs it", err.fact)
                state.fs.delete_file(state.path(name))


def _mend_trial(state: Storage, trial: Any) -> None:
    """Write a trial's values anew where their file is damaged, and keep the whole lines of its reports."""
    name = trial.trial_id
    if not state.exists(name):
        return  # it hasn't begun
    if state.find(name, "params.json") is None:
        state.write(json.dumps(trial.config).encode(), name, "params.json")
    lines = state.read(name, "result.json").splitlines() if state.exists(name, "result.json") else []
    whole = [line for line in lines if _parsed(line) is not None]
    if len(whole) < len(lines):
        lost = len(lines) - len(whole)
        log.warning("%s: %d report(s) are damaged, and left out of its curve", state.where(name, "result.json"), lost)
        state.write(b"".join(line + b"\n" for line in whole), name, "result.json")


def _mend_study(sweep: SweepConfig, folder: Storage, trials: list[Any]) -> None:
    path = study_path(folder)
    if not folder.is_local and not path.exists() and folder.exists(STUDY_FILE):
        path.write_bytes(folder.read(STUDY_FILE))  # another machine began the sweep
    in_order = sorted(trials, key=lambda trial: number_of(trial) or 0)
    study.mend(sweep, path, study.name_of(folder, path), [_known(sweep, folder, trial) for trial in in_order])


def _known(sweep: SweepConfig, folder: Storage, trial: Any) -> study.Known:
    status, reason = status_of(sweep, trial.status, trial.last_result or {}), None
    if status == "failed":
        error = ("tune", trial.trial_id, "error.txt")
        reason = reason_of(folder.read(*error).decode(errors="replace") if folder.exists(*error) else "")
    reports, result = _reports(sweep, folder, trial), trial.last_result or {}
    return study.Known(trial.trial_id, trial.config, status, reports, result, reason)


def _reports(sweep: SweepConfig, folder: Storage, trial: Any) -> dict[int, float]:
    """Return a trial's reports by training step, as far as Tune's file of them is whole."""
    out, parts = dict[int, float](), ("tune", trial.trial_id, "result.json")
    lines = folder.read(*parts).splitlines() if folder.exists(*parts) else []
    for result in [*filter(None, map(_parsed, lines)), trial.last_result or {}]:
        if "step" in result and sweep.search.metric in result:
            out[int(result["step"])] = float(result[sweep.search.metric])
    return out


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Parse a line of reports; None for one that is cut off."""
    try:
        result = json.loads(line)
    except ValueError:
        return None
    return result if isinstance(result, dict) else None
