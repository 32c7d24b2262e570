"""Lists, checks and removes what a storage holds."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tgt_ray.core import lines
from tgt_ray.core.errors import ConfigError, RunFailed, nearest
from tgt_ray.core.memory import in_bytes
from tgt_ray.core.progress import duration, progress
from tgt_ray.core.storage import Storage
from tgt_ray.entrypoints.inventory import SHARED, Thing, running_in, things
from tgt_ray.sweeps.journal import JOURNAL

log = logging.getLogger(__name__)

#: Most runs and sweeps that a line names.
SHOWN = 3
#: Endings of files that bear a checksum, or whose form shows damage.
CHECKED = ("json", "yaml", "safetensors", "pt", "parquet", "arrow")
#: Folders of a sweep of a version before 0.2 whose files were Ray Tune's own.
_TUNES = "tune"


def show(storage: Storage) -> None:
    """Print what a storage holds: kind, name, size, age, and who needs it."""
    found, now = things(storage), time.time()
    table = Table(box=None, pad_edge=False)
    for name in ("kind", "name", "size", "age", "used by"):
        table.add_column(name, justify="right" if name in ("size", "age") else "left", no_wrap=True)
    for each in found:
        cells = each.kind, each.name, in_bytes(each.bytes), duration(max(0.0, now - each.changed)), _said_of(each)
        table.add_row(*map(Text, cells))
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)  # nothing is cut in a file
    console.print(table)
    console.print(f"{len(found)} in all, {in_bytes(sum(each.bytes for each in found))}", highlight=False)


def _said_of(thing: Thing) -> str:
    if thing.kind in ("runs", "sweeps", "benchmark_runs"):
        now = "runs now" if thing.in_use == thing.name else ""
        return ", ".join(filter(None, (now, _list(sorted(thing.users)))))
    in_use = f"in use by {thing.in_use}" if thing.in_use else ""
    users = _list(sorted(each for each in thing.users if each != thing.in_use))
    return ", ".join(filter(None, (in_use, users))) or "nothing"


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def remove(storage: Storage, names: Sequence[str], force: bool = False, dry_run: bool = False) -> None:
    """Remove things by their names.

    - force: also those that a record names, or the settings of a run or sweep that learns from them
    - raises ConfigError: before anything is removed, where a name is wrong, or something is needed or in use
    """
    there = {each.name: each for each in things(storage)}
    for name in names:
        thing = there.get(name.rstrip("/"))
        if thing is None:
            raise ConfigError(f"storage rm: there is no '{name}' in {storage.shown}; {nearest(name, there)}")
        if thing.in_use:
            raise ConfigError(f"storage rm: '{name}' is in use by {thing.in_use}; wait until it has ended")
        if thing.users and not force:
            raise ConfigError(
                f"storage rm: '{name}' is needed by {_list(sorted(thing.users))}; remove these first, or add --force"
            )
    _remove(storage, [there[name.rstrip("/")] for name in dict.fromkeys(names)], dry_run)


def collect(storage: Storage, older_than: str | None = None, dry_run: bool = False) -> None:
    """Remove what no record names and nothing uses, and what processes have left half-written that are gone.

    Runs and sweeps stay, whatever they are.

    - older_than: only what has been unused for so long, such as "30d" or "12h"
    - raises ConfigError: where a command begins meanwhile
    """
    least = 0.0 if older_than is None else seconds_of(older_than)
    before, now = running_in(storage), time.time()
    useless = [
        each
        for each in things(storage)
        if each.kind in (*SHARED, "logs", "drafts") and not (each.users or each.in_use) and now - each.changed >= least
    ]
    begun = running_in(storage) - before
    if begun:
        raise ConfigError(f"storage gc: '{min(begun)}' has just begun; begin anew, so that nothing of it is removed")
    _remove(storage, useless, dry_run)


def seconds_of(text: str) -> float:
    """Return the seconds of a duration such as "30d".

    - raises ConfigError: where it is none
    """
    try:
        found = pd.Timedelta(text)
    except ValueError:
        found = pd.Timedelta(-1)
    # pandas takes a number without a unit for nanoseconds.
    if text.strip().isdigit() or not found >= pd.Timedelta(0):
        raise ConfigError(f"--older-than {text}: is no duration; write for example 30d, 12h or 90min")
    return float(found.total_seconds())


def _remove(storage: Storage, chosen: Iterable[Thing], dry_run: bool) -> None:
    total, count = 0, 0
    for thing in chosen:
        if not dry_run:
            _delete(storage, thing)
        total, count = total + thing.bytes, count + 1
        print(f"{'would remove' if dry_run else 'removed'} {thing.name} ({in_bytes(thing.bytes)})")
    print(f"{count} {'would be removed' if dry_run else 'removed'}, {in_bytes(total)}")


def _delete(storage: Storage, thing: Thing) -> None:
    try:
        for file in thing.files:
            with suppress(FileNotFoundError):  # somebody else was faster
                storage.fs.delete_file(storage.path(*file.split("/")))
        if f"{thing.name}/" in thing.files[0] and thing.kind != "drafts":
            with suppress(FileNotFoundError):
                storage.fs.delete_dir(storage.path(*thing.name.split("/")))
    except OSError as err:
        raise RunFailed(f"{storage.where(*thing.name.split('/'))}: cannot be removed ({err.strerror or err})") from err


def verify(storage: Storage) -> None:
    """Open each stored file, compare it with its checksum, and print what is damaged.

    - raises RunFailed: where something is
    """
    files = [file for each in things(storage) if each.kind != "drafts" for file in each.files]
    files = [file for file in files if file.split("/")[1:2] != [_TUNES]]
    checked = [file for file in files if file.rpartition(".")[2] in CHECKED or _is_journal(file)]
    damaged = 0
    with progress("checking", len(checked), "files") as phase:
        for file, reason in _damage(storage, checked):
            phase.advance()
            if reason is not None:
                damaged += 1
                print(f"{file}: is damaged ({reason})")
    print(f"{len(checked)} files checked, {damaged} damaged; {len(files) - len(checked)} others have no checksum")
    if damaged:
        raise RunFailed(
            f"storage verify: {damaged} damaged file(s) in {storage.shown}; what runs share is made again when it is"
            " needed, files of runs must be restored from a copy"
        )


def _damage(storage: Storage, files: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    for file in files:
        try:
            yield file, (_damaged_lines if _is_journal(file) else Storage.damage)(storage, *file.split("/"))
        except FileNotFoundError:  # somebody has just removed it
            yield file, None
        except ConfigError as err:
            yield file, str(err)


def _is_journal(file: str) -> bool:
    return lines.is_of(file.rpartition("/")[2], JOURNAL)


def _damaged_lines(storage: Storage, *parts: str) -> str | None:
    _, damaged = lines.parsed(storage.read(*parts))
    return f"{damaged} line(s) are cut off, or have other bytes than were written" if damaged else None
