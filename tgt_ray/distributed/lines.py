"""Brings what a process of the cluster says to the user into the log of the process that the user looks at."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

from ray.exceptions import RayError

from tgt_ray.core import progress

#: The logger above all of the project's modules.
OURS = "tgt_ray"
#: How many different lines of a run are kept; further ones are counted.
MOST = 50


@dataclass(frozen=True)
class Line:
    """A message of the project.

    - logger: the name of its logger
    - level: as logging has it
    - once: what is said once for all runs, whatever the figures in the text; empty: each run says it
    """

    logger: str
    level: int
    text: str
    once: str = ""


def say(lines: Iterable[Line]) -> None:
    """Log here what was said elsewhere."""
    for line in lines:
        logging.getLogger(line.logger).log(line.level, "%s", line.text)


@contextmanager
def handed_on(hand_on: Callable[[Line], object], all_of_them: bool = True) -> Iterator[None]:
    """Give the project's messages of this process, from level INFO up, to a function as well.

    They go to this process's own log in any case. A function that can't reach another process loses them.

    - all_of_them: False: without lines of progress, and without errors, which have a way of their own
    """
    ours, handler = logging.getLogger(OURS), _HandOn(hand_on)
    if not all_of_them:
        handler.addFilter(_is_for_the_user)
    added: list[logging.Handler] = [handler]
    if not ours.hasHandlers():
        added.append(logging.StreamHandler())  # with a handler, logging's last resort no longer writes to stderr
    before = ours.level
    ours.setLevel(logging.INFO)
    for each in added:
        ours.addHandler(each)
    try:
        yield
    finally:
        for each in added:
            ours.removeHandler(each)
        ours.setLevel(before)


def _is_for_the_user(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR and record.name != progress.log.name


class _HandOn(logging.Handler):
    def __init__(self, hand_on: Callable[[Line], object]):
        super().__init__(logging.INFO)
        self.hand_on = hand_on

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(RayError):  # the actor between the processes was lost
            self.hand_on(Line(record.name, record.levelno, record.getMessage(), getattr(record, "once", "")))


@dataclass
class LinesOfRuns:
    """Keeps what the workers of runs say until it is taken; of equal lines the first one.

    A warning counts for its run. What is below a warning, such as what was found in a file, counts for all runs, and so
    does what says that of itself, such as that a disk is full.

    - waiting: not taken yet
    """

    waiting: list[Line] = field(default_factory=list)
    _seen: dict[str, set[str]] = field(default_factory=dict)
    _lost: Counter[str] = field(default_factory=Counter)

    def add(self, run: str, line: Line) -> None:
        """Keep a line.

        - run: how lines call the run; empty: it needs no name
        """
        seen = self._seen.setdefault(run if line.level >= logging.WARNING and not line.once else "", set())
        said = line.once or line.text
        if said in seen:
            return
        if len(seen) >= MOST:
            self._lost[run] += 1
            return
        seen.add(said)
        self.waiting.append(replace(line, text=f"{run}: {line.text}" if run and not line.once else line.text))

    def ended(self, run: str) -> None:
        """Say of a run that is over how many of its lines weren't kept."""
        if lost := self._lost.pop(run, 0):
            text = f"{run or 'the run'}: {lost} more lines are only in the logs of its workers, which Ray keeps"
            self.waiting.append(Line(__name__, logging.WARNING, text))

    def all_ended(self) -> None:
        """Say of all runs how many of their lines weren't kept."""
        for run in list(self._lost):
            self.ended(run)

    def take(self) -> list[Line]:
        """Return what was said since the last call."""
        taken, self.waiting = self.waiting, []
        return taken
