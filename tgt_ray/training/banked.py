"""Gives a run its synthetic rows from the bank, and has those made that aren't there."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tgt_ray.core.batch import Block
from tgt_ray.core.errors import NotWritten
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.bank.bank import Bank
from tgt_ray.teacher.bank.epochs import places
from tgt_ray.teacher.bank.ledger import Ledger

log = logging.getLogger(__name__)


@dataclass
class BankedRows:
    """A run's blocks by their index, from the bank where they are there.

    - make: makes the rows of a request
    - rows: of a request
    - total: rows of a bank that is used again and again; None: a run takes every row once
    - seed: of the order of rows in further epochs
    """

    bank: Bank
    make: Callable[[int], Block]
    ledger: Ledger
    rows: int
    total: int | None = None
    seed: int = 0

    def blocks(self, first: int) -> Iterator[Block]:
        """Yield the blocks from an index on."""
        self.bank.look()
        index = first
        while True:
            yield self.block(index)
            index += 1

    def block(self, index: int) -> Block:
        """Return the block of an index."""
        if self.total is None:
            return self.request(index)
        taken = places(index, self.rows, self.total, self.seed)
        if np.array_equal(taken, index * self.rows + np.arange(self.rows)):
            return self.request(index)  # the first epoch takes requests as they are
        block = self.bank.gather(taken, self.rows)
        if block is None:
            for request in np.unique(taken // self.rows).tolist():
                self.request(request)
            block = self.bank.gather(taken, self.rows)
            assert block is not None, "requests that were just made are in the bank"
        else:
            self.ledger.found += self.rows
        return block

    def request(self, request: int) -> Block:
        """Return the rows of a request, found or made."""
        found = self.bank.read(request)
        if found is not None:
            self.ledger.found += len(found)
            return found
        started = time.perf_counter()
        block = self.make(request)
        self.ledger.made += len(block)
        self.ledger.seconds += time.perf_counter() - started
        keep(self.bank, block)
        return block


def keep(bank: Bank, block: Block) -> None:
    """Add a request's rows to the bank; where that fails, say so once, and go on without."""
    if bank.full:
        return
    try:
        bank.put(block)
    except NotWritten as err:
        bank.full = True
        log.warning("%s; the run goes on, and its further synthetic rows are not kept", err)


def reused_rows(experiment: Experiment) -> int | None:
    """Return how many rows the bank of a run has that it uses again and again, whole requests; None: it doesn't."""
    how, size = experiment.pool.bank, experiment.pool.rows_per_request
    if how.mode != "reuse":
        return None
    train = experiment.train
    taken = train.steps * train.batch_size * experiment.synthetic_ratio
    wanted = how.rows if isinstance(how.rows, int) else how.rows * taken
    return max(1, math.ceil(wanted / size)) * size


def uses_bank(experiment: Experiment) -> bool:
    """Tell whether a run's rows are kept: those of an explorer that looks at the student are its own."""
    return experiment.streams and experiment.pool.bank.mode != "none" and not experiment.explorer.on_policy
