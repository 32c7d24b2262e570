"""Numbers the requests of a run's workers in the run's bank."""

from __future__ import annotations

from dataclasses import dataclass

#: Numbers of requests in a bank whose rows were explored for students: a request's number divided by this is the share
#: of the training that its student had behind it. Settings allow no run so many requests, so that each has a number.
SHARES = 2**60
#: How far a row's share of the training may be from that at which another student uses it (our choice).
NEAR = 0.05


@dataclass(frozen=True)
class Numbering:
    """Maps a worker's requests, which it counts from 0, to numbers in the bank, and back.

    - rank, world_size: of the worker; its requests in the whole run are rank, rank + world_size, ...
    - total: requests of the whole run, where rows that were explored for one student serve another; None: rows are
      the same for all students, and a request's number in the bank is that in the run
    """

    rank: int = 0
    world_size: int = 1
    total: int | None = None

    def number(self, index: int) -> int:
        """Return the number under which a worker's request is made."""
        request = index * self.world_size + self.rank
        return request if self.total is None else self._first(request)

    def request(self, number: int) -> int:
        """Return which request of the whole run a number may serve."""
        return number if self.total is None else number * self.total // SHARES

    def index(self, number: int) -> int:
        """Return which of the worker's requests a number may serve."""
        return self.request(number) // self.world_size

    def serving(self, index: int) -> range:
        """Return the numbers that may serve a worker's request; no number serves two requests of a run."""
        number = self.number(index)
        if self.total is None:
            return range(number, number + 1)
        after = self._first(index * self.world_size + self.rank + 1)
        return range(number, max(number + 1, min(after, number + int(NEAR * SHARES))))

    def _first(self, request: int) -> int:
        assert self.total is not None
        return -(-request * SHARES // self.total)  # rounded up, exactly
