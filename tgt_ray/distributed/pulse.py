"""Lets processes of the cluster give signs of life, by way of the board, to the driver's watchdog."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

#: Seconds between two signs of life.
BEAT_S = 5.0
#: Seconds that another node has to end a process.
TO_KILL_S = 15.0


@dataclass(frozen=True)
class Place:
    """Says which process is meant, on whichever node.

    - started: when, as its node counts seconds, so that another process with its number isn't taken for it
    """

    node: str
    pid: int
    started: float

    @classmethod
    def here(cls) -> Place:
        """Return that of the calling process, which must be connected to Ray."""
        node = ray.get_runtime_context().get_node_id()
        return cls(node, os.getpid(), psutil.Process().create_time())


@dataclass(frozen=True)
class Sign:
    """A sign of life.

    - who: gives it, as messages call it
    - lane: that it belongs to; empty: none
    - doing: what it does, for messages
    - busy: whether that is work, and not waiting
    - beat: counts the signs of this process
    """

    who: str
    lane: str
    doing: str
    busy: bool
    beat: int


class Pulse:
    """Gives signs of life of this process until it ends or `stop` is called.

    Where the interpreter or the whole process hangs, they stay away. One that works on something long gives them.

    - board: the actor's handle
    - who, lane: as in Sign; a function, since it may change
    - doing: says what the process does
    - busy: says whether that is work
    """

    def __init__(
        self,
        board: Any,
        who: Callable[[], str],
        lane: str,
        doing: Callable[[], str],
        busy: Callable[[], bool] = lambda: True,
    ):
        self.board, self.who, self.lane, self.doing, self.busy = board, who, lane, doing, busy
        self.stopped = threading.Event()
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def _beat(self) -> None:
        place, beat = Place.here(), 0
        while not self.stopped.wait(BEAT_S if beat else 0):
            beat += 1
            with suppress(RayError):  # the board was lost, and is told again with the next one
                self.board.pulse.remote(place, Sign(self.who(), self.lane, self.doing(), self.busy(), beat))

    def stop(self) -> None:
        self.stopped.set()


def end_process(place: Place) -> bool:
    """End a process that doesn't answer; return False where it has ended already.

    - raises RayError: where its node doesn't answer either
    """
    if place.node == ray.get_runtime_context().get_node_id():
        return _kill(place.pid, place.started)
    where = NodeAffinitySchedulingStrategy(place.node, soft=False)
    killing = ray.remote(_kill).options(num_cpus=0, scheduling_strategy=where).remote(place.pid, place.started)
    return bool(ray.get(killing, timeout=TO_KILL_S))


def _kill(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        if process.create_time() != started:
            return False
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True
