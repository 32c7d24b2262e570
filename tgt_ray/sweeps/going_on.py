"""Looks whether a sweep can go on, with which settings, and from which states; imports neither torch nor ray."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tgt_ray.core import formats, records
from tgt_ray.core.config import as_stored, validate
from tgt_ray.core.errors import ConfigError, cut
from tgt_ray.core.kept import KeptStudent
from tgt_ray.core.loading import parse_yaml, with_overrides
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import Damaged
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.journal import Journal
from tgt_ray.tasks import TaskData
from tgt_ray.teacher.fingerprints import check_data
from tgt_ray.training import states

log = logging.getLogger(__name__)

#: Keys that change no trial which was trained: how many there are, and how many run at once.
EXTENDS = (
    "search.trials",
    "search.controls",
    "search.concurrent",
    "search.warm_lanes",
    "search.max_rebuilds",
)


def settings_of(folder: Storage, name: str, journal: Journal, sets: Sequence[tuple[str, Any]]) -> SweepConfig:
    """Return the settings with which a sweep goes on.

    - journal: of the sweep
    - sets: dotted keys and values that the command gives
    - raises ConfigError: where they would change trials that were trained, or what is there can't be gone on with
    """
    if journal.settings is None:
        _check_without_journal(folder, name)
    sweep = written(folder, journal, sets)
    if journal.settings is not None:
        check_extends(journal, sweep)
    return sweep


def written(folder: Storage, journal: Journal, sets: Sequence[tuple[str, Any]] = ()) -> SweepConfig:
    """Return a sweep's settings as its file has them, with other values for some keys.

    - journal: of the sweep, whose settings are taken where the file is damaged or gone
    - raises ConfigError: where settings are bad
    """
    if journal.settings is None:
        where = folder.where("sweep.yaml")
        with as_stored():
            sweep: SweepConfig = validate(SweepConfig, parse_yaml(folder.read("sweep.yaml"), where), where)
    else:
        sweep = _same(folder, journal.settings)
    if not sets:
        return sweep
    changed: SweepConfig = validate(SweepConfig, with_overrides(sweep.model_dump(mode="json"), list(sets)), "--set")
    return changed


def _check_without_journal(folder: Storage, name: str) -> None:
    """Raise ConfigError unless a sweep was killed before its first trial, so that it can begin afresh."""
    if folder.exists("record.json"):
        remedy = "its table and its best student stay as they are, and report reads them; begin a new sweep"
        what = f"--resume: sweep '{name}'"
        formats.check("sweep", records.read_json(folder, "record.json"), what, remedy)
        raise Damaged.of(folder.where("journal.jsonl"), "it is missing")


def _same(folder: Storage, settings: dict[str, Any]) -> SweepConfig:
    """Return a sweep's settings as its file has them: what somebody has changed there is asked for.

    A file that is damaged or gone is written anew when the sweep goes on.
    """
    where = folder.where("sweep.yaml")
    with as_stored():
        known: SweepConfig = validate(SweepConfig, settings, folder.where("journal.jsonl"))
    try:
        reason = folder.damage("sweep.yaml")
        with folder.fs.open_input_file(folder.path("sweep.yaml")) as file:
            content = file.read()
    except FileNotFoundError:
        log.warning("%s: is missing; written anew from the sweep's journal", where)
        return known
    try:
        with as_stored():
            written: SweepConfig = validate(SweepConfig, parse_yaml(content, where), where)
    except ConfigError:
        if reason is None:  # somebody has changed it
            raise
        log.warning("%s; written anew from the sweep's journal", Damaged.of(where, reason).fact)
        return known
    return written


def check_extends(journal: Journal, sweep: SweepConfig) -> None:
    """Raise ConfigError where settings would change trials that were trained, or leave one of them out."""
    assert journal.settings is not None
    with as_stored():
        before: SweepConfig = validate(SweepConfig, journal.settings)
    found = list(_differences(before.model_dump(mode="json"), sweep.model_dump(mode="json")))
    wrong = [each for each in found if each[0] not in EXTENDS]
    if wrong:
        said = "; ".join(f"{key} was {cut(repr(old))} and is {cut(repr(new))}" for key, old, new in wrong[:3])
        more = f" [and {len(wrong) - 3} more]" if len(wrong) > 3 else ""
        raise ConfigError(
            f"--resume: {said}{more}, and that would change trials that were trained; restore it, remove sweep.yaml to"
            f" go on as before, or begin a new sweep with --fork NAME; only {', '.join(EXTENDS)} may change"
        )
    begun = journal.controls()
    missing = [name for name in begun if name not in sweep.search.controls]
    if missing:
        raise ConfigError(f"search.controls: '{missing[0]}' has begun already; --resume can only add controls")
    searched = sweep.num_trials - len(sweep.search.controls)
    if len(journal.draws()) > searched:
        raise ConfigError(
            f"search.trials {searched}: {len(journal.draws())} trials have begun already; --resume can only add some"
        )
    for key, old, new in found:
        log.info("--resume: %s was %s and is %s", key, old, new)


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping) and key not in EXTENDS:
        for name in [*old, *(each for each in new if each not in old)]:
            inside = f"{key}.{name}" if key else str(name)
            yield from _differences(old.get(name), new.get(name), inside)
    elif old != new:
        yield key, old, new


def check_goes_on(sweep: SweepConfig, before: dict[str, Any], data: TaskData) -> None:
    """Raise ConfigError where a sweep can't go on, whichever the teacher is.

    - before: its record
    """
    check_data(before, data.fingerprints)
    if before.get("started_from", {}) != (now := starts_of(sweep)):
        raise ConfigError(
            f"--resume: the weights that its trials start from were {before.get('started_from')}, and are {now};"
            " restore them, or begin a new sweep"
        )


def starts_of(sweep: SweepConfig) -> dict[str, str]:
    """Return what stands for the weights that trials start from, by the folder of the student."""
    folders = [each.train.start_from for each in sweep.starting()]
    return {folder: KeptStudent.at(folder).weights_digest for folder in folders if folder is not None}


def check_states(journal: Journal, folder: Storage) -> None:
    """Look at the checkpoints of trials that go on: one that is damaged falls back to the one before, or to none.

    What lies in the place of a trial that hasn't begun is removed: nothing says that it belongs to it.
    """
    for known in journal.unfinished:
        place = folder.within("train", known.name)
        try:
            states.check(place)
        except Damaged as err:
            log.warning("%s; trial %s begins anew", err.fact, known.name)
            place.delete()
    begun = {each.name for each in journal.trials.values()}
    for name in folder.folders("train"):
        if name not in begun:
            folder.delete("train", name)
