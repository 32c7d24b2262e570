"""Gives a run its synthetic rows from the bank, and has those made that aren't there.

Torch is imported only where it is needed: a worker imports this before its pool starts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tgt_ray.core.batch import Block
from tgt_ray.core.errors import NotWritten
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.bank.bank import Bank, described
from tgt_ray.teacher.bank.epochs import places
from tgt_ray.teacher.bank.key import bank_key
from tgt_ray.teacher.bank.numbering import Numbering
from tgt_ray.teacher.fingerprints import ROLES

if TYPE_CHECKING:
    from tgt_ray.teacher.transfer_set import Prepared


@dataclass
class BankedRows:
    """A worker's blocks by their index, from the bank where they are there.

    - make: makes the rows of a request, or waits for them; by the index among the worker's own requests
    - rows: of a request
    - total: rows of a bank that is used again and again; None: the worker takes every row once
    - seed: of the order of rows in further epochs
    - numbering: of the worker's requests in the bank
    - steps: of the run, in which the lag of rows is counted
    - found: how many rows were in the bank
    - epochs: in how many passes over the bank rows were taken so far
    - saved: seconds that the teacher took for these when they were made
    """

    bank: Bank
    make: Callable[[int], Block]
    rows: int
    total: int | None = None
    seed: int = 0
    numbering: Numbering = field(default_factory=Numbering)
    steps: int = 0
    found: int = 0
    epochs: int = 1
    saved: float = 0.0

    def block(self, index: int) -> Block:
        """Return the block of an index."""
        if self.total is None:
            return self.request(index)
        taken = places(index, self.rows, self.total, self.seed)
        self.epochs = math.ceil((index + 1) * self.rows / self.total)
        if np.array_equal(taken, index * self.rows + np.arange(self.rows)):
            return self.request(index)  # the first epoch takes requests as they are
        block = self._gather(taken)
        if block is not None:
            self._count(block)
            return block
        for each in np.unique(taken // self.rows).tolist():
            made = self.request(each)
            if self.find(each) is None:
                return made  # the bank takes no more rows, so whole requests are used again
        return self._gather(taken) or made

    def seen_and_fresh(self) -> tuple[Block, Block] | None:
        """Return rows that were taken in several epochs, and as many that are in none; None before a second epoch."""
        if self.total is None or self.epochs == 1:
            return None
        return self.request(0), self.request(self.total // self.rows)

    def _gather(self, taken: np.ndarray) -> Block | None:
        indices, inside = np.divmod(taken, self.rows)
        requests = np.array([self.numbering.number(index) for index in indices.tolist()])
        return self.bank.gather(requests * self.rows + inside, self.rows)

    def request(self, index: int) -> Block:
        """Return the rows of a request, found or made."""
        found = self.find(index)
        if found is None:
            return self.make(index)
        self._count(found)
        return found

    def find(self, index: int) -> Block | None:
        """Return rows of the bank that serve a request; None where there are none."""
        for number in self.bank.among(self.numbering.serving(index)):
            block = self.bank.read(number)
            if block is None:
                continue
            # Rows that were explored for a longer or shorter training are as old as their share of it says.
            steps = block.steps or self.steps
            return block if steps == self.steps else replace(block, version=round(block.version * self.steps / steps))
        return None

    def there(self) -> frozenset[int]:
        """Return which of the worker's requests are served by rows that the bank is known to have."""
        numbering, served = self.numbering, ((self.numbering.index(each), each) for each in self.bank.requests)
        return frozenset(index for index, number in served if number in numbering.serving(index))

    def _count(self, found: Block) -> None:
        self.found += len(found)
        self.saved += found.seconds or 0.0


@dataclass
class Maker:
    """Makes the rows of requests in this process, and keeps them in the bank.

    - make: makes the rows of a request
    - device: on which the teacher makes them
    - ready: makes sure that all is there that rows are made with, which is no part of their seconds
    - made: how many rows
    - unkept: how many of these the bank didn't take
    - seconds: that this took, by `teacher_clock`
    """

    bank: Bank
    make: Callable[[int], Block]
    device: str = "cpu"
    ready: Callable[[], object] = lambda: None
    made: int = 0
    unkept: int = 0
    seconds: float = 0.0

    def __call__(self, request: int) -> Block:
        self.ready()
        clock = teacher_clock(self.device)
        started = clock()
        block = self.make(request)
        took = clock() - started
        self.made += len(block)
        self.seconds += took
        self.unkept += 0 if keep(self.bank, block, took) else len(block)
        return block


def teacher_clock(device: str) -> Callable[[], float]:
    """Return the clock by which the teacher's time is counted, in seconds.

    On a CPU these are seconds of processors, in all threads of the process: on a busy machine rows cost no more, and
    with several threads not less. A process makes one request at a time, so no second is counted for two. On a GPU it
    is the time that passes, in which the process waits for the device.
    """
    return time.perf_counter if device.startswith("cuda") else time.process_time


def keep(bank: Bank, block: Block, seconds: float = 0.0) -> bool:
    """Add a request's rows to the bank; where that fails, say so once, and go on without.

    - seconds: that the teacher took for them
    - returns: whether they were added
    """
    if bank.full:
        return False
    try:
        bank.put(block, seconds)
    except NotWritten as err:
        bank.add_no_more(err)
    return not bank.full


def reused_rows(experiment: Experiment, workers: int = 1) -> int | None:
    """Return how many rows the bank has that a worker uses again and again, whole requests; None: it doesn't."""
    how, size = experiment.pool.bank, experiment.pool.rows_per_request
    if how.mode != "reuse":
        return None
    train = experiment.train
    taken = train.steps * train.batch_size * experiment.synthetic_ratio
    wanted = how.rows if isinstance(how.rows, int) else how.rows * taken
    return max(1, math.ceil(wanted / workers / size)) * size


def num_requests(experiment: Experiment, world_size: int) -> int:
    """Return the number of requests that one worker consumes in a whole run."""
    train = experiment.train
    rows = train.steps * (train.batch_size // world_size) * experiment.synthetic_ratio
    return math.ceil(rows / experiment.pool.rows_per_request)


def uses_bank(experiment: Experiment) -> bool:
    """Tell whether a run's rows are kept: those that were explored for its student, only to share them."""
    kept = ("shared",) if experiment.explorer.on_policy else ("exact", "reuse", "shared")
    return experiment.uses_pool and experiment.pool.bank.mode in kept


def roles_of(experiment: Experiment) -> tuple[str, ...]:
    """Return which parts of the teacher make an experiment's rows."""
    return ROLES if experiment.explorer.decodes else ROLES[:1]


def may_have_rows(experiment: Experiment, teacher: Mapping[str, Any], storage: Storage) -> bool:
    """Tell whether the storage seems to hold rows that an experiment would take; only its whole key could say so.

    - teacher: the teacher's record
    """
    if not uses_bank(experiment):
        return False
    identities = {role: teacher[role]["identity"] for role in roles_of(experiment) if teacher[role] is not None}
    explorer = experiment.explorer.model_dump(mode="json")
    for about in described(storage):
        made_from, other = about.get("made_from"), about.get("explorer")
        if not isinstance(made_from, dict) or not isinstance(other, dict):
            continue  # somebody else has written it
        if identities.items() <= made_from.items() and explorer.items() <= other.items():
            return True
    return False


def numbering_of(experiment: Experiment, count: int, rank: int = 0, world_size: int = 1) -> Numbering:
    """Say how a worker's requests are numbered in the bank.

    - count: of the worker's requests in the whole run
    """
    return Numbering(rank, world_size, count * world_size if experiment.explorer.on_policy else None)


def bank_of(experiment: Experiment, prepared: Prepared, storage: Storage, made_on: Mapping[str, Any]) -> Bank:
    """Open the bank of an experiment's rows.

    - made_on: see `tgt_ray.teacher.bank.key.machine`
    """
    from tgt_ray.training.generation import recipe_of

    generator, explorer = experiment.teacher.generator, experiment.explorer
    fingerprints, roles = prepared.fingerprints, roles_of(experiment)
    anchors = {name: fingerprints["data"][name] for name in generator.starts_from if name in fingerprints["data"]}
    forms = {role: facts for role, facts in fingerprints.get("forms", {}).items() if role in roles}
    made_from = {**anchors, **{role: fingerprints[role] for role in roles}, **({"forms": forms} if forms else {})}
    made_from["anchors"] = anchors_in(experiment, fingerprints["anchors"])
    key, about = bank_key(recipe_of(experiment), explorer, generator, made_from, experiment.train.seed, made_on)
    bank = Bank(storage, key, experiment.pool.bank.max_bytes)
    with suppress(NotWritten):  # said when the first rows are to be kept
        bank.describe(about)
    return bank


def anchors_in(experiment: Experiment, digests: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the anchors a run's rows follow from.

    - digests: of `tgt_ray.teacher.transfer_set.Anchors.digests`
    """
    explorer, objective = experiment.explorer, experiment.objective
    out: dict[str, Any] = {"rows": digests["rows"]}
    if explorer.decodes:
        out["latents"] = digests["latents"]
    if explorer.unchanged:  # whose answers may be taken from there
        wanted = [column.name for signal in objective.signals if signal.synthetic for column in signal.columns]
        out["columns"] = {name: digests["columns"][name] for name in wanted if name in digests["columns"]}
    return out


def about_bank(bank: Bank) -> dict[str, Any]:
    """Return what a run's reports say of its bank: its name, its size, and how many damaged files it had."""
    return {"bank": bank.key, "bank_bytes": bank.bytes, "bank_damaged": bank.damaged}


def blocks(rows: BankedRows, first: int) -> Iterator[Block]:
    """Yield the blocks from an index on."""
    rows.bank.look()
    index = first
    while True:
        yield rows.block(index)
        index += 1
