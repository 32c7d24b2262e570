"""Gives a worker its synthetic rows, from its generators or from the bank.

Torch is imported only where a pool actor or a worker needs it, so that a pool starts while its worker still imports;
and Ray Data where a pool starts.
"""

from __future__ import annotations

import itertools
import math
import queue
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError

from tgt_ray.core.errors import NotWritten
from tgt_ray.core.storage import Storage
from tgt_ray.distributed.coordinator import StreamLost
from tgt_ray.distributed.messages import BankPlace, Job
from tgt_ray.distributed.pool_actor import GenerationFailed, TeacherGenerator
from tgt_ray.distributed.wire import unpack
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.experiment.pool import PoolConfig
from tgt_ray.teacher.bank.bank import Bank
from tgt_ray.training.banked import BankedRows, about_bank, num_requests, reused_rows

if TYPE_CHECKING:
    from tgt_ray.core.batch import Block
    from tgt_ray.distributed.generators import Generators

#: Slots of a pass. Each costs a millisecond when the pass is opened. After the last one, another pass is opened, with
#: new actors.
SLOTS = 256
#: Seconds between two looks for rows that another lane makes, and after which the own generators make them.
LOOK_S, DEMAND_S = 0.05, 5.0
#: Seconds between two looks whether generators still do something, and how often they must be found idle.
CHECK_S, IDLE_TIMES = 5.0, 3
#: Seconds between two looks for rows that others have made meanwhile, and that needn't be made here any more.
NEWS_S = 1.0


class SyntheticStream:
    """Gives a worker its synthetic rows: opened first, then one job after another, then closed.

    - storage_root: the root that holds the teacher
    - rank, world_size: of the worker
    - generator: class of the pool's actors
    - slots: of one pass
    - board: knows which lane makes which request of a bank; None: there are no other lanes
    - at_once: whether generators start now, or once a job comes near a request that isn't in its bank
    - lane: whose worker this is
    - limit: seconds without a row after which generators that have nothing to do are taken to be cut off
    """

    def __init__(
        self,
        pool: PoolConfig,
        storage_root: str,
        rank: int = 0,
        world_size: int = 1,
        generator: type = TeacherGenerator,
        slots: int = SLOTS,
        board: Any = None,
        at_once: bool = True,
        lane: str = "",
        limit: float = math.inf,
    ):
        self.board, self.lane, self.limit = board, lane, limit
        self.waits_for: int | None = None  # index of the request that the worker waits for
        self.storage_root, self.rows = storage_root, pool.rows_per_request
        self.waiting: dict[int, pa.Table] = {}  # rows of the present job that came before their turn
        self.banked: BankedRows | None = None  # the present job's rows out of its bank, in the order of this worker
        self.taken = self.next = 0  # rows that the worker has had of the present job, and the index of the next block
        self.look_s: float | None = None  # seconds between two looks into the bank; None: there is none
        self.beyond = 0  # index after the last one that it has waited for
        self.there: frozenset[int] = frozenset()  # requests that were in the bank when it was looked at
        self.found, self.found_s = 0, 0.0  # those out of the bank, and the seconds that the teacher took for them
        self.timed, self.timed_s = 0, 0.0  # requests that its own generators have sent, and their seconds
        self.unkept = 0  # those of them that the bank didn't take
        self.rank, self.world_size = rank, world_size
        self.number = -1
        self.dropped = 0  # blocks of earlier jobs that came during the present one
        self.student: tuple[dict[str, np.ndarray] | None, int] = None, -1  # as it was published last
        self.setup = pool, storage_root, generator, slots, board, lane
        self.generators: Generators | None = None
        if at_once:
            self._started()

    def begin(
        self,
        experiment: Experiment,
        prepared: tuple[Any, ...],
        first: int,
        snapshot: dict[str, np.ndarray] | None = None,
        version: int = -1,
        place: BankPlace | None = None,
        bank: Bank | None = None,
    ) -> Iterator[Block]:
        """Let the generators work for an experiment; the job before is over.

        - prepared: holds a reference to a Prepared
        - first: index of the first request
        - snapshot: the student's state at the start, where the explorer uses the student; else None
        - version: the number of steps that this student was trained
        - place: where rows are kept, and found; None: nowhere
        - bank: that place, where it is open already
        - returns: an iterator over the job's blocks, in the order of requests
        - raises StreamLost: at once where the stream ended while there was nothing to do, or by the iterator
        - raises GenerationFailed: by the iterator, where a generator could not make a request
        - raises RuntimeError: by the iterator, where a block comes twice
        """
        if self.generators is not None and (lost := self.generators.lost) is not None:
            raise StreamLost(f"the stream has ended: {lost}") from lost
        self.number += 1
        self.dropped = self.taken = self.beyond = self.found = self.timed = self.unkept = 0
        self.found_s = self.timed_s = 0.0
        self.waiting.clear()
        self.next = first
        self.rows = experiment.pool.rows_per_request
        count, total = num_requests(experiment, self.world_size), reused_rows(experiment, self.world_size)
        if total is not None and place is not None and total // self.rows < count:
            count = total // self.rows + 1  # the last one is compared with
        job = Job(self.number, experiment, prepared, self.rank, self.world_size, first, count, place)
        self.banked, self.look_s, self.there = None, None, frozenset()
        if place is not None:
            bank, train = bank or Bank(Storage(self.storage_root), place.key), experiment.train
            bank.look()
            make = partial(self._next, job)
            self.banked = BankedRows(bank, make, self.rows, total, train.seed, job.numbering, train.steps)
            self.look_s, self.there = LOOK_S if bank.folder.is_local else NEWS_S, self.banked.there()
        self._keep(snapshot, version)
        if self.generators is not None:
            self._let_make(job)
        return self._blocks(job)

    def _started(self) -> Generators:
        """Return the generators, which start now unless they did before."""
        from tgt_ray.distributed.generators import Generators

        if self.generators is None:
            self.generators = Generators(*self.setup)
        return self.generators

    def _keep(self, weights: dict[str, np.ndarray] | None, version: int) -> None:
        """Keep the student for generators that start later: a copy, since the weights go on to change."""
        if weights is not None and self.generators is None:
            weights = {name: values.copy() for name, values in weights.items()}
        self.student = weights, version

    def _let_make(self, job: Job) -> None:
        """Let the generators make what isn't in the job's bank."""
        self._started().call("begin", job, *self.student, self.there)

    @property
    def bank(self) -> Bank | None:
        """The bank of the present job; None where there is none."""
        return self.banked.bank if self.banked is not None else None

    def _blocks(self, job: Job) -> Iterator[Block]:
        looked = time.monotonic()
        for index in itertools.count(job.first):
            upcoming = range(index, min(job.count, index + job.experiment.pool.window))
            if self.generators is None and not self.there.issuperset(upcoming):
                self._let_make(replace(job, first=index))
            block = self._next(job, index) if self.banked is None else self.banked.block(index)
            self.waiting.pop(index, None)  # where it was in the bank as well
            self.taken, self.next = self.taken + len(block), index + 1
            if block.seconds is not None:
                self.found, self.found_s = self.found + len(block), self.found_s + block.seconds
            yield block
            # Without waiting: the next block is most likely here already.
            self._tell("consumed", job.number, self._in_first_epoch(index + 1))
            if self.banked is not None and time.monotonic() - looked > NEWS_S:
                self.banked.bank.look()
                news, looked = self.banked.there() - self.there, time.monotonic()
                if news:
                    self._tell("found", job.number, news)
                    self.there |= news

    def _in_first_epoch(self, index: int) -> int:
        """Return an index as it counts for generators: of a bank that is taken again each request is made once."""
        total = self.banked.total if self.banked is not None else None
        return index if total is None else min(index, total // self.rows)

    def _next(self, job: Job, index: int) -> Block:
        """Wait for a request, from the job's generators or, where another lane makes it, in the bank."""
        # What the worker has had before, or was to be in the bank, and isn't there any more, must be asked for.
        awaited = index >= max(self.beyond, job.first) and index not in self.there
        asked = time.monotonic() if awaited else -math.inf
        self.beyond = max(self.beyond, index + 1)
        if self.generators is None:  # it was to be in the bank, and isn't there any more
            self.there -= {index}
            self._let_make(replace(job, first=index))
        blocks = self._started().blocks
        if index != self.next:  # rows of a bank that aren't there any more are needed again: the window moves there
            self._tell("consumed", job.number, self._in_first_epoch(index))
        since, idle = time.monotonic(), 0
        while index not in self.waiting:
            try:
                self._sort_in(blocks.get(timeout=self.look_s or CHECK_S), job, index)
                since, idle = time.monotonic(), 0
            except queue.Empty:
                self.waits_for = index
                if time.monotonic() - since > self.limit + idle * CHECK_S:
                    idle = self._idle(idle)
                if self.banked is None:
                    continue
                self.banked.bank.look()
                if self.banked.bank.unseen:  # else it would wait for rows of other lanes that it can't find
                    self._tell("unkept", job.number)
                found = self.banked.find(index)
                if found is not None:
                    self.waits_for = None
                    return found
                if time.monotonic() - asked > DEMAND_S:
                    self._tell("demand", job.number, index)
                    asked = time.monotonic()
        self.waits_for = None
        return unpack(self.waiting.pop(index))

    def _idle(self, before: int) -> int:
        """Return how often generators were found to have nothing to do while the worker waits for a row of theirs.

        - before: how often they were found so already
        - raises StreamLost: where that isn't by chance: what they have made doesn't come here
        """
        with suppress(RayError):  # the board was lost: later
            if ray.get(self.board.is_busy.remote(self.lane), timeout=CHECK_S) is False:
                if before + 1 == IDLE_TIMES:
                    raise StreamLost(f"no row has come for {self.limit:.0f} s, and its generators have nothing to do")
                return before + 1
        return before

    def _sort_in(self, row: pa.Table | BaseException, job: Job, expected: int) -> None:
        """Put a row that has come to those that wait for their turn."""
        if isinstance(row, BaseException):
            raise StreamLost(f"the stream has ended: {row}") from row
        number, error, request = (row[name][0].as_py() for name in ("job", "error", "request"))
        if number != job.number:
            self.dropped += request is not None
            return
        if error is not None:
            raise GenerationFailed(error)
        if request is not None:
            self.timed, self.timed_s = self.timed + 1, self.timed_s + row["seconds"][0].as_py()
            if (reason := row["unkept"][0].as_py()) is not None:
                assert self.bank is not None
                self.unkept += 1
                # Said here, since what generators say is in their own logs alone.
                self.bank.add_no_more(NotWritten(reason))
                self._tell("unkept", job.number)
        if self.bank is not None and (request is None or job.numbering.index(request) < expected):
            return  # it was in the bank before it came here
        if request is None:
            raise RuntimeError("the block of a consumed request came twice")
        index = job.numbering.index(request)
        if index in self.waiting and self.bank is not None:
            return  # it was asked for again meanwhile
        if index < expected or index in self.waiting:
            raise RuntimeError(f"the block of request index {index} came twice")
        self.waiting[index] = row

    def publish(self, version: int, weights: dict[str, np.ndarray]) -> None:
        """Send generators the student as it is after `version` steps, without waiting."""
        self._keep(weights, version)
        self._tell("publish", self.number, version, weights)

    def metrics(self) -> dict[str, Any]:
        """Return the coordinator's metrics, rows made and found, and how many blocks of earlier jobs were dropped.

        Rows that were made ahead and not used count as made. Found are those that the worker has had and that weren't
        made for it: some rows of its generators come out of the bank before they come from these. What found rows
        saved is their share.
        """
        found = {"requests_granted": 0.0, "requests_used": 0.0, "generator_utilisation": 0.0}
        if self.generators is not None:
            found = self.generators.call("stream_metrics", self._in_first_epoch(self.next))
        made, used = (int(found[name]) * self.rows for name in ("requests_granted", "requests_used"))
        del found["requests_used"]
        rows: dict[str, Any] = {"rows_made": made, "rows_found": max(0, self.taken - used)}
        found_row_s = self.found_s / max(1, self.found)
        # The mean, since some requests are still on their way, or came out of the bank first.
        rows["teacher_seconds"] = made * (self.timed_s / (self.timed * self.rows) if self.timed else found_row_s)
        if self.bank is not None:
            rows["teacher_seconds_saved"] = rows["rows_found"] * found_row_s
            rows["rows_not_kept"] = self.unkept * self.rows
            rows |= about_bank(self.bank)
        return {**found, "dropped_blocks": float(self.dropped), **rows}

    def finish(self) -> None:
        """End the present job: the generators make nothing more for it, and its bank joins what files it has."""
        self._tell("finish")
        if self.bank is not None:
            self.bank.join()

    def close(self) -> None:
        """Stop the generators, if they run."""
        if self.generators is not None:
            self.generators.close()

    def _tell(self, method: str, *args: Any) -> None:
        """Call the coordinator, if there is one, without waiting."""
        if self.generators is not None:
            getattr(self.generators.coordinator, method).remote(*args)
