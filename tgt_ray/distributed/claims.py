"""Remembers who makes which request of a bank, so that no two lanes make the same one; plain Python."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

#: Seconds after which a claim is void whose request has not been made: its owner is gone, or far too slow.
VOID_S = 120.0
#: Who claims: the id of a run, and the rank of its worker. Both stay the same where the worker is lost and another one
#: goes on, in whichever lane.
Owner: TypeAlias = tuple[str, int]


class Claims:
    """Gives each request of each bank to the first that asks for it.

    - clock: gives seconds
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self._held: dict[tuple[str, int], tuple[Owner, float]] = {}

    def claim(self, key: str, request: int, owner: Owner) -> bool:
        """Claim a request; return whether the owner is to make it.

        - key: of the bank
        """
        held = self._held.get((key, request))
        if held is not None and held[0] != owner and self.clock() - held[1] < VOID_S:
            return False
        self._held[key, request] = owner, self.clock()
        return True

    def release(self, owner: Owner) -> None:
        """Give back all that an owner has claimed: what it has made is in the bank, and the rest it won't make."""
        self._held = {what: held for what, held in self._held.items() if held[0] != owner}

    def release_run(self, run: str) -> None:
        """Give back all that the workers of a run have claimed: they are gone."""
        self._held = {what: held for what, held in self._held.items() if held[0][0] != run}
