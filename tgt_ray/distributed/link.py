"""Lets callers of a board go on where its process was lost: it comes back, and they tell it what they know."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError

from tgt_ray.distributed.messages import Forgotten, Metrics, Opened, Run

#: Seconds in which a board that was lost must be back.
TO_COME_BACK_S = 60.0
#: Seconds between two attempts to reach it.
AGAIN_S = 0.2


class Link:
    """Calls a board.

    - board: the actor's handle
    - tell: is called with it, for a board that may have forgotten what the caller has told it; None: the caller hasn't
      told it anything
    """

    def __init__(self, board: Any, tell: Callable[[Any], object] | None = None):
        self.board, self.tell = board, tell

    def call(self, method: str, *args: Any, timeout: float | None = None, within: float = TO_COME_BACK_S) -> Any:
        """Call a method and wait for what it returns; call it again where the board was lost meanwhile.

        - timeout: seconds that each attempt may take
        - within: seconds in which a lost board must be back
        - raises RayActorError: where it isn't, or was ended for good
        - raises GetTimeoutError: where an attempt takes too long
        """
        until, lost = None, False
        while True:
            try:
                # Not before it was told: a call is kept for a board that is about to come back.
                if lost and self.tell is not None:
                    self.tell(self.board)
                return ray.get(getattr(self.board, method).remote(*args), timeout=timeout)
            except (RayActorError, Forgotten) as err:
                until, lost = until or time.monotonic() + within, True
                if isinstance(err, ActorDiedError) or time.monotonic() > until:
                    raise
            time.sleep(AGAIN_S)


def following(board: Any, run: Run) -> Link:
    """Return the link of a caller that has queued a run, and waits for its reports."""
    return Link(board, lambda board: ray.get(board.submit.remote(run)))


class HeldRun(Link):
    """The link of a lane's first worker while it has a run.

    - lane: as the board is to know it
    """

    def __init__(self, board: Any, lane: Opened, run: Run):
        super().__init__(board, lambda board: ray.get(board.hold.remote(lane, run, self.reports)))
        self.lane, self.run, self.reports = lane, run, list[Metrics]()
        self._ask()

    def _ask(self) -> None:
        self.asked, self.asked_at = self.board.cancelled.remote(self.lane, self.run, self.reports), time.monotonic()

    def report(self, metrics: Metrics) -> None:
        """Give the board a report of the run, and wait until it has it."""
        # This waits, since calls may overtake each other and the run's end must not come before its last report.
        self.reports.append(metrics)
        self.call("report", self.run.id, metrics)

    def is_over(self) -> bool:
        """Return, without waiting, whether the run was cancelled or has another lane."""
        if not ray.wait([self.asked], timeout=0)[0]:
            return False
        try:
            ray.get(self.asked)
        except ActorDiedError:
            raise
        except RayActorError:  # it was lost, and learns of this run as soon as it is back
            if time.monotonic() - self.asked_at > AGAIN_S:
                self._ask()
            return False
        return True
