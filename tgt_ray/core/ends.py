"""Lets signals end a process in order: SIGTERM and SIGHUP as Ctrl-C does, with the exit code that says which it was.

Another thread can end it in the same way, where what the main one waits for is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: Signals by which a system or a terminal asks a process to end.
ASKING = (signal.SIGTERM, signal.SIGHUP)
#: These, and Ctrl-C.
ALL = (signal.SIGINT, *ASKING)

#: What `signal.getsignal` returns, by the number of the signal.
Handlers = Mapping[int, Any]

#: What the process was asked by last, and whether it had a terminal when it began.
_asked, _on_terminal = signal.SIGINT, any(os.isatty(number) for number in (1, 2))
#: Whether signals end this process in order, whether one has come, and why it can't go on; None: it can.
_ordered, _came = False, False
_failed: str | None = None


@contextmanager
def restored(*numbers: int) -> Iterator[Handlers]:
    """Put the handlers of signals back at the end of the block, whatever it does to them.

    - yields: them by number; none in a thread other than the main one, which alone can set any
    """
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in numbers} if main else {}
    try:
        yield before
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def in_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do in the block what SIGINT does, whatever that is at the time.

    A signal that the process was started to ignore (nohup) stays ignored.
    """
    global _asked, _ordered, _came, _failed
    _asked, _came, _failed = signal.SIGINT, False, None
    with restored(*ASKING) as before:
        _handle(before, _as_ctrl_c)
        _ordered = bool(before)
        try:
            yield
        finally:
            _ordered = False


def _handle(before: Handlers, handler: Callable[[int, FrameType | None], None]) -> None:
    for number in before:
        if before[number] != signal.SIG_IGN:
            signal.signal(number, handler)


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    global _asked, _came
    _asked, _came = signal.Signals(number), True
    if number == signal.SIGHUP:
        _leave_lost_terminal()
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # a shell has started it in the background, where Ctrl-C is ignored
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)


def _leave_lost_terminal() -> None:
    """Write nowhere where the terminal is gone, since each line would be an error instead."""
    if any(os.isatty(number) for number in (1, 2)) or not _on_terminal:
        return
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the process ends


def exit_code() -> int:
    """Return the exit code of a process that a signal has ended: 128 and the signal's number."""
    return 128 + _asked


def fail(reason: str) -> None:
    """Let the main thread end what it does, as Ctrl-C would; for another thread that knows why it can't go on.

    Where a signal has asked it to end, it does so already, and that is why.
    """
    global _failed
    if not _ordered:
        os.kill(os.getpid(), signal.SIGINT)
    elif not _came:
        _failed = reason
        os.kill(os.getpid(), signal.SIGTERM)  # Ctrl-C may be ignored


def failure() -> str | None:
    """Return why the process, whose signals end it in order, could not go on."""
    return _failed


def is_ordered() -> bool:
    """Return whether signals end this process in order: it is a command."""
    return _ordered


@contextmanager
def later(patient: bool = True) -> Iterator[None]:
    """Let signals wait until the block is over, which leaves something behind if it is cut, and whose time is limited.

    In a thread other than the main one nothing changes. Where the block sets a handler of SIGTERM that exits, as Ray
    does when it starts, that signal ends the block, and then does what it would have done before.

    - patient: a second signal waits as well
    """
    came: list[int] = []

    def take(number: int, frame: FrameType | None) -> None:
        global _came
        _came = True
        came.append(number)
        handler = before[number]
        if len(came) > 1 and not patient and callable(handler):
            handler(number, frame)

    with restored(*ALL) as before:
        # No mask: another thread would get the signal, and Python would run its handler in this one all the same.
        _handle(before, take)
        try:
            yield
        except SystemExit as ended:
            if ended.code != signal.SIGTERM:
                raise
            came.append(signal.SIGTERM)
    if came:
        signal.raise_signal(came[0])
