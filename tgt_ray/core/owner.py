"""Keeps a folder, or one thing in it, for one command at a time, on any storage.

An owner has a file of its own, which is written where there was none, and never again: `<what>-<epoch>.lock`.
Beside it lies its heartbeat, `<what>-<token>.beat`, which a thread rewrites. The owner is who has the highest epoch. A
takeover is the creation of the next one, so that of two commands that try one succeeds, and an owner that was stopped
and goes on can write over nothing of its successor's. It notices by `check`, which everything calls before it writes.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pyarrow as pa
from pyarrow import fs

from tgt_ray.core import exclusive, patience
from tgt_ray.core.errors import ConfigError, NotWritten, RunFailed
from tgt_ray.core.storage import DRAFT_S, Storage

log = logging.getLogger(__name__)

T = TypeVar("T")

#: What the files of the owner of a run's or a sweep's folder begin with.
OWNER = "owner"
#: Seconds between two heartbeats, and those without one after which an owner counts as gone. The second are counted by
#: the clock of who looks: clocks of machines differ.
BEAT_S, STALE_S = 5.0, 60.0
#: Seconds before the next heartbeat after one that could not be written.
AGAIN_S = 1.0
#: Seconds between two looks at somebody else's heartbeat.
LOOK_S = 0.5
#: Seconds by which two readings of the time at which a process began may differ.
SAME_S = 10.0
#: Endings of the files.
LOCK, BEAT = ".lock", ".beat"

_FILE = re.compile(r".+-(?:\d{6}\.lock|[0-9a-f]{32}\.beat)")


class NotOwner(RunFailed):
    """Raised where another command has taken over what this one works on, or somebody has removed it."""


@dataclass(frozen=True)
class Said:
    """What an owner says of itself.

    - machine: names its machine and the processes that it sees
    - started: when its process began, in seconds since 1970
    - since: when it has become the owner
    """

    token: str
    host: str
    machine: str
    pid: int
    started: float
    since: str

    def is_gone(self) -> bool:
        """Return whether its process has ended for certain: another machine's can't be looked at."""
        if self.machine != machine():
            return False
        try:
            process = psutil.Process(self.pid)
            return process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - self.started) > SAME_S
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False


@dataclass(frozen=True)
class Found:
    """An owner as somebody else sees it.

    - said: what it says; None: it has only begun to say it
    - content: all that it has written
    - beaten: when it last gave a sign of life, by its own clock, in seconds since 1970
    """

    epoch: int
    said: Said | None
    content: bytes
    beaten: float

    def __str__(self) -> str:
        if self.said is None:
            return "began just now"
        ago = max(0, round(time.time() - self.beaten))
        return f"running since {self.said.since}, on host {self.said.host}, last sign of life {ago} s ago"


@dataclass(frozen=True)
class Held:
    """What a command owns, also in other processes that write for it.

    - folder: in which the owner's files lie
    - what: they begin with
    """

    folder: Storage
    what: str
    epoch: int
    token: str

    def is_mine(self) -> bool:
        """Return whether nobody has taken it over; True where that can't be read at this moment."""
        try:
            found = _highest(self.folder, self.what)
            return found == self.epoch and self.token.encode() in _content(self.folder, _lock(self.what, self.epoch))
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def check(self) -> None:
        """Raise NotOwner where another command has taken it over, or somebody has removed the folder."""
        if self.is_mine():
            return
        successor = None
        with suppress(OSError):
            if not self.folder.exists():
                raise NotOwner(
                    f"{self.folder.shown}: somebody has removed the folder while this command worked on it; this one"
                    " ends, and writes nothing more there"
                )
            successor = current(self.folder, self.what)
        by = f" (it is {successor})" if successor is not None else ""
        raise NotOwner(
            f"{self.folder.shown}: another command has taken over, since this one gave no sign of life for"
            f" {STALE_S:.0f} s, or its files were removed{by}; this one ends, and writes nothing more there"
        )

    def patiently(self, write: Callable[[], T]) -> T:
        """Call what writes into the folder of a run or sweep, and call it again for a while where it can't.

        - raises NotOwner: where another command has taken over, or somebody has removed the folder
        - raises NotWritten: where it can't be written for long
        """
        try:
            return patience.patiently(write, self.check)
        except NotWritten as err:
            raise NotWritten(f"{err}; go on with --resume once it can be written") from err


class Heart(threading.Thread):
    """Gives signs of life of an owner, until it is stopped or somebody has taken over."""

    def __init__(self, held: Held):
        super().__init__(name="heartbeat", daemon=True)
        self.held, self.beats, self.over = held, 0, threading.Event()

    def beat(self) -> bool:
        """Give a sign of life; return whether it could be written."""
        self.beats += 1
        content = json.dumps({"beat": self.beats, "at": time.time()}).encode()
        try:
            self.held.folder.write(content, _beat(self.held.what, self.held.token))
        except NotWritten:  # the next one may be; whoever writes results says so
            return False
        return True

    def run(self) -> None:
        pause = BEAT_S
        while not self.over.wait(pause) and self.held.is_mine():
            pause = BEAT_S if self.beat() else AGAIN_S


def machine() -> str:
    """Return a name for this machine as processes see it: a container has its own numbers of processes."""
    return _machine()


@cache
def _machine() -> str:
    parts = [socket.gethostname()]
    with suppress(OSError):  # of Linux alone
        parts = [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), str(Path("/proc/self/ns/pid").readlink())]
    return " ".join(parts)


def current(folder: Storage, what: str = OWNER) -> Found | None:
    """Return the present owner, whether it goes on or not; None where there is none."""
    epoch = _highest(folder, what)
    if epoch is None:
        return None
    try:
        content = _content(folder, _lock(what, epoch))
    except FileNotFoundError:  # it has just ended
        return None
    said, beat, beaten = _parsed(content), b"", 0.0
    if said is not None:
        with suppress(FileNotFoundError):
            beat = _content(folder, _beat(what, said.token))
        with suppress(ValueError, KeyError, TypeError):
            beaten = float(json.loads(beat)["at"])
    return Found(epoch, said, content + beat, beaten)


def in_use(folder: Storage, what: str = OWNER) -> bool:
    """Return whether a command works there now; of one on another machine, whether it gave a sign within a day."""
    found = current(folder, what)
    if found is None or (found.said is not None and found.said.is_gone()):
        return False
    return found.said is None or found.said.machine == machine() or time.time() - found.beaten < DRAFT_S


def is_file(name: str) -> bool:
    """Return whether a file of this name is an owner's."""
    return _FILE.fullmatch(name) is not None


class Owner:
    """Owns something from its making until `end`, with a heartbeat; parameters as for `owned`."""

    def __init__(self, folder: Storage, busy: Callable[[Found], None], what: str = OWNER, called: str = ""):
        self.held = _take(folder, busy, what, called)
        self._heart = Heart(self.held)
        self._heart.beat()
        self._heart.start()

    def end(self) -> None:
        """Own it no more."""
        self._heart.over.set()
        self._heart.join()
        _remove(self.held)


@contextmanager
def owned(folder: Storage, busy: Callable[[Found], None], what: str = OWNER, called: str = "") -> Iterator[Held]:
    """Own something while the block lasts; its owner's files are removed then.

    - folder: for these files; it is there
    - busy: called with the owner where another one is alive; it raises, or returns to wait for its end
    - what: the files begin with
    - called: what is said to be looked at where it isn't known whether the owner is alive
    - raises OSError, NotWritten: where the storage can't be read or written
    - raises ConfigError: where it can't be found out whether another one goes on
    """
    owner = Owner(folder, busy, what, called)
    try:
        yield owner.held
    finally:
        owner.end()


@contextmanager
def made_once(folder: Storage, what: str, called: str) -> Iterator[None]:
    """Let one process at a time make something that others need as well; the others wait, and say so.

    Where it can't be found out who is first (see `tgt_ray.core.exclusive`), nobody waits, and what comes last counts.

    - folder: that keeps what is made
    - what: names it
    - called: what it is called for people
    """
    said = threading.Event()

    def busy(found: Found) -> None:
        if not said.is_set():
            log.info("%s: another command makes it already (%s); waits for it", called, found)
            said.set()

    if not exclusive.is_exclusive(folder):
        yield
        return

    def begin() -> None:
        if folder.is_local:
            with folder.writing():
                Path(folder.base).mkdir(parents=True, exist_ok=True)
        held.enter_context(owned(folder, busy, what, called))

    with ExitStack() as held:
        patience.patiently(begin)
        yield


def _take(folder: Storage, busy: Callable[[Found], None], what: str, called: str) -> Held:
    mine = Said(uuid.uuid4().hex, socket.gethostname(), machine(), os.getpid(), _started(), _now())
    content = json.dumps(asdict(mine)).encode()
    while True:
        found = current(folder, what)
        if found is not None and not (found.said is not None and found.said.is_gone()):
            alive = _alive(folder, what, found, called)
            if alive is not None:
                busy(alive)
                time.sleep(LOOK_S)
                continue
            before, found = found, current(folder, what)
            if found is not None and found.content != before.content:
                continue  # another one was faster
            if found is not None and not exclusive.is_exclusive(folder):
                _refuse_takeover(folder, what, found)
        held = Held(folder, what, found.epoch + 1 if found is not None else 1, mine.token)
        if not exclusive.create(folder, content, _lock(what, held.epoch)):
            continue  # another one was faster
        if held.is_mine():
            if found is not None:
                _remove_older(held)
            return held
        _remove(held)  # a later one is there, whose beginning has ended an older one of this number


def _alive(folder: Storage, what: str, found: Found, called: str) -> Found | None:
    """Watch an owner until it gives a sign of life, and return it; None where it gives none, or has ended.

    One of this machine that gave one a moment ago needn't be watched, since it has the same clock.
    """
    if found.said is not None and found.said.machine == machine() and time.time() - found.beaten < 2 * BEAT_S:
        return found
    until, said = time.monotonic() + STALE_S, False
    while time.monotonic() < until:
        time.sleep(LOOK_S)
        now = current(folder, what)
        if now is None or (now.said is not None and now.said.is_gone()):
            return None
        if now.content != found.content:
            return now
        if called and not said and until - time.monotonic() < STALE_S - 2 * BEAT_S:
            said = True
            log.info("%s is %s; waits up to %.0f s for another", called, now, STALE_S)
    return None


def _refuse_takeover(folder: Storage, what: str, found: Found) -> None:
    package = exclusive.package_of(folder)
    how = f"install {package}, which can take over safely" if package else "use a storage that has exclusive creation"
    raise ConfigError(
        f"{folder.shown}: is {found}, and this storage can't tell two commands apart; {how}, or, where that command"
        f" has ended for certain, remove {folder.where(_lock(what, found.epoch))}"
    )


def _remove(held: Held) -> None:
    for name in (_beat(held.what, held.token), _lock(held.what, held.epoch)):
        with suppress(OSError):  # somebody has removed the folder, or has taken over
            if name.endswith(BEAT) or held.token.encode() in _content(held.folder, name):
                held.folder.fs.delete_file(held.folder.path(name))


def _remove_older(held: Held) -> None:
    """Remove the files of those whose place has been taken."""
    for name in _names(held.folder, held.what):
        if name not in (_lock(held.what, held.epoch), _beat(held.what, held.token)):
            with suppress(OSError):
                held.folder.fs.delete_file(held.folder.path(name))


def _highest(folder: Storage, what: str) -> int | None:
    epochs = [each.removeprefix(f"{what}-").removesuffix(LOCK) for each in _names(folder, what) if each.endswith(LOCK)]
    return max(map(int, epochs), default=None)


def _names(folder: Storage, what: str) -> list[str]:
    names = [path.rpartition("/")[2] for path in folder.files()]
    return [each for each in names if each.startswith(f"{what}-") and is_file(each) and _stem(each) == what]


def _stem(name: str) -> str:
    return name.rpartition("-")[0]


def _content(folder: Storage, name: str) -> bytes:
    try:
        with folder.fs.open_input_file(folder.path(name)) as file:
            return bytes(file.read())
    except pa.ArrowException as err:
        raise OSError(str(err)) from err


def _parsed(content: bytes) -> Said | None:
    try:
        said: dict[str, Any] = json.loads(content)
        return Said(**said)
    except (ValueError, TypeError):  # it is being written, or was not to its end
        return None


def _started() -> float:
    return float(psutil.Process().create_time())


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _lock(what: str, epoch: int) -> str:
    return f"{what}-{epoch:06d}{LOCK}"


def _beat(what: str, token: str) -> str:
    return f"{what}-{token}{BEAT}"


# ---- the folder of a run or a sweep


def taken(root: Storage, name: str) -> bool:
    """Return whether there is something of that name, apart from what a killed command has left before it began."""
    if not root.exists(name):
        return False
    there = root.fs.get_file_info(fs.FileSelector(root.path(name), allow_not_found=True))
    return not there or any(not is_file(each.base_name) for each in there)


@contextmanager
def claimed(root: Storage, name: str, resume: bool) -> Iterator[Held]:
    """Own a folder of the storage while the block lasts; where nothing was written, it is removed.

    - resume: the folder is there already
    - raises ConfigError: where another command has it, or another one was faster
    """

    def busy(found: Found) -> None:
        if resume:
            raise ConfigError(f"--resume: '{name}' in {root.shown} is {found}; wait until it has ended")
        raise ConfigError(_exists(root, name))

    folder = root.within(name)
    try:
        owner = _owner_of(folder, busy, name)
    except (NotWritten, OSError) as err:
        _remove_empty(folder)
        cause = err.__cause__ if isinstance(err, NotWritten) and err.__cause__ is not None else err
        raise ConfigError(f"--storage {root.shown}: cannot write in '{name}' ({root.reason(cause)})") from err
    try:
        # Who has made the folder may have been overtaken before it owned it.
        if not resume and taken(root, name):
            raise ConfigError(_exists(root, name))
        yield owner.held
    except (ConfigError, OSError):
        owner.held.check()  # without the folder this is how whatever looks for a file there ends
        raise
    finally:
        owner.end()
        _remove_empty(folder)


def _owner_of(folder: Storage, busy: Callable[[Found], None], name: str) -> Owner:
    while True:
        if folder.is_local:
            Path(folder.base).mkdir(exist_ok=True)
        try:
            return Owner(folder, busy, called=f"'{name}'")
        except FileNotFoundError:
            continue  # the one who had it has just given up and removed the folder


def _remove_empty(folder: Storage) -> None:
    """Remove the folder of a command that has ended before it began."""
    with suppress(OSError):  # it isn't empty, or somebody has removed it; an object store has no folders
        if folder.is_local:
            Path(folder.base).rmdir()
        elif not folder.fs.get_file_info(fs.FileSelector(folder.base, allow_not_found=True)):
            folder.fs.delete_dir(folder.base)


def _exists(root: Storage, name: str) -> str:
    return f"--name {name}: exists already in {root.shown}: another command has just begun it; choose another name"
