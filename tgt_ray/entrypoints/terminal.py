"""Shows the project's own messages while a command runs, and writes those of libraries to a file."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, TextIO

from tgt_ray.core.progress import Phase, duration, shown_by

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from tgt_ray.core.storage import Storage

log = logging.getLogger(__name__)

#: Folder of the storage for the messages of libraries.
LOGS = "logs"
#: The logger above all of the project's modules.
OURS = logging.getLogger("tgt_ray")


class _Standard(logging.StreamHandler):
    """Writes to what `sys.stdout` or `sys.stderr` is at the time of the message, since a live table replaces it."""

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        logging.Handler.__init__(self)
        self.standard = name
        self.setFormatter(logging.Formatter("%(message)s"))

    def format(self, record: logging.LogRecord) -> str:
        # Names of files that aren't UTF-8, and terminals that know few characters.
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        return super().format(record).encode(encoding, "backslashreplace").decode(encoding)

    @property
    def stream(self) -> TextIO:
        stream: TextIO = getattr(sys, self.standard)
        return stream


@contextmanager
def messages(level: int = logging.INFO, to: Literal["stdout", "stderr"] = "stdout") -> Iterator[None]:
    """Show the project's messages from `level` up, unless the caller has set up logging."""
    if OURS.hasHandlers():
        yield
        return
    before, handler = OURS.level, _Standard(to)
    OURS.setLevel(level)
    OURS.addHandler(handler)
    try:
        with _bars_on_a_terminal(to):
            yield
    finally:
        OURS.removeHandler(handler)
        OURS.setLevel(before)


def can_ask() -> bool:
    """Tell whether a user sits before a terminal who can be asked for something."""
    return sys.stdin.isatty() and sys.stderr.isatty()


@contextmanager
def _bars_on_a_terminal(to: Literal["stdout", "stderr"]) -> Iterator[None]:
    """Show long phases as bars where messages of level INFO go to a terminal; elsewhere they are lines."""
    if not getattr(sys, to).isatty() or not OURS.isEnabledFor(logging.INFO):
        yield
        return
    bars = Bars(to)
    with shown_by(bars):
        try:
            yield
        finally:
            bars.close()


class Bars:
    """Shows the long phases that last right now as bars at the foot of the terminal, one below the other."""

    def __init__(self, to: Literal["stdout", "stderr"] = "stdout") -> None:
        self._to = to
        self._progress: Progress | None = None
        self._tasks: dict[int, TaskID] = {}

    def update(self, phase: Phase) -> None:
        if self._progress is None:
            self._progress = _progress(self._to)
            self._progress.start()
        if id(phase) not in self._tasks:
            self._tasks[id(phase)] = self._progress.add_task(phase.what, total=phase.total, left="", unit=phase.unit)
        left = f"{duration(phase.left_s)} left" if phase.left_s is not None else ""
        self._progress.update(self._tasks[id(phase)], completed=phase.done, left=left)

    def end(self, phase: Phase) -> None:
        task = self._tasks.pop(id(phase), None)
        if self._progress is not None and task is not None:
            self._progress.remove_task(task)
        if not self._tasks:
            self.close()  # so that a sweep's table, which is live as well, may be shown

    def close(self) -> None:
        """Give the terminal back."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = None


def _progress(to: Literal["stdout", "stderr"]) -> Progress:
    # Here, since rich's import would make --help slow.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), MofNCompleteColumn())
    last = (TextColumn("{task.fields[unit]}", markup=False), TextColumn("{task.fields[left]}", markup=False))
    return Progress(*columns, *last, console=Console(stderr=to == "stderr"), transient=True)


@contextmanager
def libraries_to_file(storage: Storage, name: str, folder: str = LOGS) -> Iterator[None]:
    """Write what Ray and other libraries print on stderr to `logs/NAME.log` of the storage; name the file at the end.

    Nearly all of it doesn't help the user: start-up limits, internals, deprecations. It stays on the terminal with
    messages at level DEBUG (--verbose), and where the caller has set up logging, whose own messages go there too.
    """
    shown = any(isinstance(handler, _Standard) for handler in OURS.handlers)
    if not shown or OURS.isEnabledFor(logging.DEBUG):
        yield
        return
    with _log_file(storage, name, folder) as file:
        before = file.tell()
        with _stderr_to(file.fileno()):
            yield
        said = file.seek(0, os.SEEK_END) > before
    if said:
        log.info("messages of Ray and other libraries: %s", storage.where(folder, f"{name}.log"))


@contextmanager
def _log_file(storage: Storage, name: str, folder: str) -> Iterator[IO[bytes]]:
    """Open the log to be added to; in a storage that isn't a folder it is put there at the end."""
    if storage.is_local:
        path = Path(storage.path(folder, f"{name}.log"))
        path.parent.mkdir(exist_ok=True)
        # Written as it comes, so that it is there if the process is killed.
        try:
            with path.open("ab") as file:
                yield file
        finally:
            with suppress(OSError):  # somebody has removed it, or the folder, or can't write there any more
                if not path.stat().st_size:
                    path.unlink()
        return
    with tempfile.TemporaryFile(prefix="tgt_ray-") as file:
        if storage.exists(folder, f"{name}.log"):
            file.write(storage.read(folder, f"{name}.log"))
            file.flush()  # what comes is written past this object
        try:
            yield file
        finally:
            file.seek(0)
            if content := file.read():
                storage.write(content, folder, f"{name}.log")


@contextmanager
def _stderr_to(file: int) -> Iterator[None]:
    """Point the process's stderr at an open file, for code in C++ as well as in Python."""
    sys.stderr.flush()
    terminal = os.dup(2)
    os.dup2(file, 2)
    try:
        yield
    finally:
        with suppress(OSError):  # the storage is full
            sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)
