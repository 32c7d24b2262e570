"""Asks now and then what runs where, so that a sweep can be shown while it runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from tgt_ray.distributed.ray_train import count_actors, nodes_of_placement
from tgt_ray.distributed.run_queue import Overview

#: Seconds between two questions.
EVERY_S = 2.0
#: A part of the name under which Ray knows generators.
GENERATOR = "TeacherGenerator"


@dataclass(frozen=True)
class Seen:
    """What was seen last.

    - nodes: addresses of the nodes on which a lane runs, by the lane's name
    - generators: those that are alive
    """

    overview: Overview
    nodes: dict[str, list[str]]
    generators: int


class Watch:
    """Looks at a sweep's lanes through its board, without waiting for an answer.

    - board: the name of the actor
    """

    def __init__(self, board: str):
        self.board = board
        self._asked = 0.0
        self._answer: Any = None
        self._seen: Seen | None = None
        self._nodes: dict[str, list[str]] = {}

    def look(self) -> Seen | None:
        """Return what was seen last, and ask again if that is a while ago; None before the first answer."""
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._take()
        if self._answer is None and time.monotonic() - self._asked >= EVERY_S:
            self._asked = time.monotonic()
            try:
                self._answer = ray.get_actor(self.board).overview.remote()
            except ValueError:  # the board was lost: its trials have failed, and the table says so
                self._seen = None
        return self._seen

    def _take(self) -> None:
        answer, self._answer = self._answer, None
        try:
            overview: Overview = ray.get(answer)
        except RayError:
            self._seen = None
            return
        nodes = {lane.name: self._place(lane.placement) for lane in overview.lanes}
        self._seen = Seen(overview, nodes, count_actors(GENERATOR))

    def _place(self, placement: str | None) -> list[str]:
        """Return the nodes of a placement group, which stay the same."""
        if placement is None:
            return []
        if not self._nodes.get(placement):
            self._nodes[placement] = nodes_of_placement(placement)
        return self._nodes[placement]
