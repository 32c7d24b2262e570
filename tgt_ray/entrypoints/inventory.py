"""Finds out what a storage holds, and which runs and sweeps need it.

A record names what it was made with by digests: identities of teachers, fingerprints of splits, banks. The names of
files that follow from these and from the settings are computed from them, as a run does. Where that can't be done,
everything of that kind counts as needed.
"""

from __future__ import annotations

import io
import itertools
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyarrow import fs

from tgt_ray.core import formats, owner, records
from tgt_ray.core.config import as_stored, validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.loading import parse_yaml
from tgt_ray.core.signals.of_generator import LATENT
from tgt_ray.core.signals.of_labeler import TOP
from tgt_ray.core.storage import BEGUN, RESERVED, Storage, is_left
from tgt_ray.core.stored import Damaged
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps.config import START, SweepConfig
from tgt_ray.teacher.bank import imported, marks
from tgt_ray.teacher.cache import TeacherCache
from tgt_ray.teacher.transfer_set import needs
from tgt_ray.training.files import PREVIOUS_FILE, STATE_FILE

#: Kinds that can be made again; each is a folder of the storage, but for a pretraining that isn't over.
SHARED = (
    *("teachers", "pretraining", "forms", "teacher_cache", "fit_checks", "bank", "data_cache", "documents"),
    "vocabularies",
)
#: All kinds, in the order in which they are listed.
KINDS = ("runs", "sweeps", "benchmark_runs", imported.FOLDER, *SHARED, "logs", "drafts")
#: Folders whose things are folders; in the others, files of one name belong together.
_OF_FOLDERS = ("bank", "data_cache", imported.FOLDER)
_DIGEST = re.compile(rb"(?<![0-9a-f])[0-9a-f]{16}(?![0-9a-f])")


@dataclass
class Thing:
    """Something that a storage holds.

    - name: the path below the storage, without the endings of its files
    - files: the paths of its files below the storage
    - changed: when it was changed last, or used where that is known, in seconds since 1970
    - users: names of the runs and sweeps that need it
    - in_use: what works with it now, as a run of this name; "": nothing
    """

    kind: str
    name: str
    files: list[str] = field(default_factory=list)
    bytes: int = 0
    changed: float = 0.0
    users: list[str] = field(default_factory=list)
    in_use: str = ""


@dataclass(frozen=True)
class Needs:
    """What a run or sweep needs of a storage.

    - digests: what names it
    - kinds: those of which it may need anything
    """

    digests: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()


def things(storage: Storage) -> list[Thing]:
    """List what a storage holds, in the order of kinds and names.

    - raises ConfigError: where there is no storage
    """
    _check(storage)
    found: dict[tuple[str, str], Thing] = {}
    for info, parts in _files(storage):
        kind, name = _place(storage, info, parts)
        thing = found.setdefault((kind, name), Thing(kind, name))
        thing.files.append("/".join(parts))
        thing.bytes += info.size or 0
        thing.changed = max(thing.changed, (info.mtime_ns or 0) / 1e9)
    _note_banks(storage, found)
    _note_users(storage, list(found.values()))
    return sorted(found.values(), key=lambda each: (KINDS.index(each.kind), each.name))


def _check(storage: Storage) -> None:
    storage.check_folder()
    if any(storage.exists(name) for name in BEGUN):
        raise ConfigError(f"storage {storage.shown}: is the folder of a run or sweep; give the storage that it lies in")
    if storage.is_local and not Path(storage.base).is_dir():
        raise ConfigError(f"storage {storage.shown}: there is no such folder")


def _files(storage: Storage) -> Iterator[tuple[fs.FileInfo, list[str]]]:
    """Yield the files of the folders that the project has made, with their paths below the storage, in parts."""
    try:
        top = storage.fs.get_file_info(fs.FileSelector(storage.base, allow_not_found=True))
    except OSError as err:
        raise ConfigError(f"storage {storage.shown}: cannot be read ({' '.join(str(err).split())})") from err
    for folder in top:
        own = folder.base_name in RESERVED or any(storage.exists(folder.base_name, name) for name in BEGUN)
        if folder.type != fs.FileType.Directory or not own:
            continue
        for info in storage.fs.get_file_info(fs.FileSelector(folder.path, recursive=True)):
            if info.type == fs.FileType.File and not owner.is_file(info.base_name):
                yield info, [folder.base_name, *info.path.removeprefix(folder.path).strip("/").split("/")]


def _place(storage: Storage, info: fs.FileInfo, parts: list[str]) -> tuple[str, str]:
    """Return kind and name of the thing that a file belongs to."""
    top, *rest = parts
    if storage.is_local and parts[-1].endswith(".tmp"):
        return "drafts", "/".join(parts)
    if top not in RESERVED:
        return ("sweeps" if storage.exists(top, "sweep.yaml") else "runs"), top
    if top in _OF_FOLDERS or (top == "benchmark_runs" and len(rest) > 1):
        return top, f"{top}/{rest[0]}"
    kind = "pretraining" if top == "teachers" and rest[-1].endswith(".pt") else top
    name = "/".join(parts)
    return kind, name if kind == "pretraining" else name.rpartition(".")[0] or name


def _note_banks(storage: Storage, found: dict[tuple[str, str], Thing]) -> None:
    """Note when banks were used last, and which are in use."""
    for bank in marks.banks(storage.within("bank")):
        thing = found.get(("bank", f"bank/{bank.key}"))
        if thing is not None:
            thing.changed = bank.used
            thing.in_use = "a running trial" if bank.checkpoints else ""


def _note_users(storage: Storage, all_things: list[Thing]) -> None:
    """Note for each thing who needs it, and who works with it."""
    shared = [each for each in all_things if each.kind in (*SHARED, imported.FOLDER, "logs")]
    names = _names(storage, shared)
    running = running_in(storage)
    owners = [each for each in all_things if each.kind in ("runs", "sweeps", "benchmark_runs")]
    known = {each.name for each in owners}
    for user in [*owners, *(Thing("runs", name) for name in sorted(running - known))]:
        user.in_use = user.name if user.name in running else ""
        need = needs_of(storage, user)
        if user.in_use and not need.digests:  # it has only begun, and hasn't written yet what it uses
            need = Needs(kinds=frozenset(SHARED))
        for thing in shared:
            log_of_it = thing.name == f"logs/{user.name}"
            if log_of_it or thing.kind in need.kinds or names[thing.name] & need.digests:
                thing.users.append(user.name)
                thing.in_use = thing.in_use or user.in_use
    _note_students(storage, owners)
    for thing in all_things:
        if thing.kind == "drafts" and not is_left(Path(storage.path(*thing.files[0].split("/")))):
            thing.in_use = "a process that writes it"


def _note_students(storage: Storage, owners: list[Thing]) -> None:
    """Note for each run and sweep which others need its student."""
    by_name, working = {each.name: each for each in owners}, {each.name: each.in_use for each in owners}
    for user in owners:
        for name in _learns_from(storage, user, [each for each in by_name if each != user.name]):
            by_name[name].users.append(user.name)
            by_name[name].in_use = by_name[name].in_use or working[user.name]


def running_in(storage: Storage) -> set[str]:
    """Return the names of the runs and sweeps that commands work on now."""
    top = storage.fs.get_file_info(fs.FileSelector(storage.base, allow_not_found=True))
    names = {each.base_name for each in top if each.type == fs.FileType.Directory} - set(RESERVED)
    return {name for name in names if owner.in_use(storage.within(name))}


def _names(storage: Storage, shared: Iterable[Thing]) -> dict[str, set[str]]:
    """Return the digests by which runs and sweeps need a thing, by its name."""
    out = {}
    for thing in shared:
        last = thing.name.rpartition("/")[2]
        if thing.kind == "teachers":
            out[thing.name] = {last.rpartition("-")[2]}  # its identity, or the fingerprint of a version before 0.2
        elif thing.kind == "data_cache":
            out[thing.name] = {_source(storage, last)}
        elif thing.kind == imported.FOLDER:
            out[thing.name] = {thing.name}
        else:
            out[thing.name] = set() if thing.kind in ("pretraining", "logs") else {last}
    return out


def _source(storage: Storage, key: str) -> str:
    """Return a digest of the settings of the images that were decoded."""
    try:
        record = records.read_json(storage, "data_cache", key, "record.json")
    except (FileNotFoundError, Damaged):  # decoding isn't over, or begins anew
        return ""
    return digest("source", record.get("source"))


def needs_of(storage: Storage, owner: Thing) -> Needs:
    """Find out what a run, a sweep or a benchmark needs."""
    settings = next((name for name in BEGUN if f"{owner.name}/{name}" in owner.files), None)
    said = frozenset([*_said(storage, owner), *(_brought(storage, owner.name, settings) if settings else ())])
    if not said or settings is None:
        return Needs(said)
    try:
        with as_stored():
            where = storage.where(owner.name, settings)
            data = parse_yaml(storage.read(owner.name, settings), where)
            config: Any = validate(SweepConfig if settings == "sweep.yaml" else Experiment, data, where)
            objectives = config.objectives() if settings == "sweep.yaml" else [config.objective]
            experiment = config.experiment if settings == "sweep.yaml" else config
            return Needs(
                said | frozenset(_computed(storage, said, experiment, objectives)), _unknown(experiment, owner)
            )
    except (ConfigError, FileNotFoundError):  # of another version, or with a class that isn't here
        unknown = {"teacher_cache", "documents", "vocabularies", "data_cache", "fit_checks", "forms"}
        return Needs(said, frozenset(unknown))


def _brought(storage: Storage, name: str, settings: str) -> Iterator[str]:
    """Yield the imported rows that the settings of a run or sweep name anywhere, by the names of these."""
    content = _content(storage, f"{name}/{settings}").decode(errors="replace")
    for folder in storage.fs.get_file_info(fs.FileSelector(storage.path(imported.FOLDER), allow_not_found=True)):
        if re.search(rf"(?<![\w.-]){re.escape(folder.base_name)}(?![\w.-])", content):
            yield f"{imported.FOLDER}/{folder.base_name}"


def _learns_from(storage: Storage, owner: Thing, names: Sequence[str]) -> set[str]:
    """Return which of these runs and sweeps have a student that an owner begins with or learns from.

    Settings that can't be read may name any of them.
    """
    settings = next((name for name in BEGUN if f"{owner.name}/{name}" in owner.files), None)
    if settings is None:
        return set()
    try:
        data = parse_yaml(storage.read(owner.name, settings), storage.where(owner.name, settings))
    except FileNotFoundError:  # somebody has just removed it
        return set()
    except ConfigError:
        return set(names)
    inside = filter(None, (_below(storage, folder) for folder in _students(data)))
    return {name for path in inside for name in names if f"{path}/".startswith(f"{name}/")}


def _students(settings: Any, wanted: bool = False) -> Iterator[str]:
    """Yield the folders of students that settings name, also those that a space lists."""
    if isinstance(settings, str) and wanted and settings:
        yield settings
    elif isinstance(settings, list):
        for each in settings:
            yield from _students(each, wanted)
    elif isinstance(settings, dict):
        labeler = settings.get("type") == "student"
        for key, value in settings.items():
            yield from _students(value, wanted or key in ("start_from", START) or (labeler and key == "folder"))


def _below(storage: Storage, folder: str) -> str | None:
    """Return where a folder lies in a storage, in words of `Thing.name`; None where it doesn't."""
    here, there = _plain(storage.where()), _plain(folder)  # as texts, since an object store would be asked otherwise
    if storage.is_local:
        if "://" in folder and not folder.startswith("file://"):
            return None
        here, there = storage.base, str(Path(folder.removeprefix("file://")).resolve())
    return there.removeprefix(f"{here}/") if there.startswith(f"{here}/") else None


def _plain(uri: str) -> str:
    """Return a URI without who reads it and how."""
    return re.sub(r"(?<=://)[^/]*@", "", uri.partition("?")[0]).rstrip("/")


def _said(storage: Storage, owner: Thing) -> Iterator[str]:
    """Yield the digests that an owner's record names, or its checkpoint before there is a record."""
    names = [each for each in owner.files if each in (f"{owner.name}/record.json", f"{owner.name}.json")]
    for name in (*names, f"{owner.name}/trials.csv"):
        if name in owner.files:
            yield from _digests(_content(storage, name))
    if not names:
        for name in (STATE_FILE, PREVIOUS_FILE):
            state = f"{owner.name}/checkpoint/{name}"
            if state in owner.files:
                yield from _digests(_pickled(_content(storage, state)))


def _content(storage: Storage, name: str) -> bytes:
    try:
        return storage.read(*name.split("/"))
    except (FileNotFoundError, Damaged):  # `verify` says so
        return b""


def _pickled(content: bytes) -> bytes:
    """Return the plain values of a state, as torch has written them, without the tensors."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            return b"".join(file.read(name) for name in file.namelist() if name.endswith("/data.pkl"))
    except zipfile.BadZipFile:
        return b""


def _digests(content: bytes) -> set[str]:
    return {each.decode() for each in _DIGEST.findall(content)}


def _computed(storage: Storage, said: Iterable[str], experiment: Experiment, objectives: list[Any]) -> Iterator[str]:
    """Yield the names of files that follow from settings and digests, of whatever these are the digests."""
    signals, fits = needs(objectives)
    wanted = {*signals, *(each for fit in fits.values() for each in fit.signals), LATENT, TOP}
    for one, other in itertools.product(said, repeat=2):
        cache = TeacherCache(storage, {"": one}, {"labeler": other, "generator": other})
        yield from (cache.signal_key("", each) for each in wanted if each.by != "anchor")
        yield from (cache.fit_key("", fit.key()) for fit in fits.values())
        number = formats.FORMATS["documents"]
        yield digest("embedding, cut", one, other, *(() if number == 1 else (number,)))
    yield digest("source", experiment.task.model_dump(mode="json").get("data"))


def _unknown(experiment: Experiment, owner: Thing) -> frozenset[str]:
    """Return the kinds whose names don't follow from settings and record: texts may have any vocabulary.

    A form's name follows from the machine that it was measured on.
    """
    texts = {"vocabularies"} if experiment.task.modality == "text" else set()
    texts |= {"forms"} if experiment.teacher.run_as == "fast" else set()
    ended = f"{owner.name}/record.json" in owner.files
    return frozenset(texts | (set() if ended else {"fit_checks", "documents"}))
