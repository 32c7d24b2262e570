"""Runs in each generator process: turns granted requests into rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.exceptions import RayError

from tgt_ray.core.memory import keep_freed_memory
from tgt_ray.distributed.messages import Grant, Job, Spent
from tgt_ray.distributed.pulse import Pulse
from tgt_ray.distributed.wire import pack, stub
from tgt_ray.experiment.pool import PoolConfig, threads_of

if TYPE_CHECKING:
    from tgt_ray.core.batch import Block


class GenerationFailed(RuntimeError):
    """A generator could not make a request; the message is the generator's error."""


@dataclass(frozen=True)
class PoolSetup:
    """What a pool actor needs for any job.

    - storage_root: the root that holds the teacher
    - coordinator: the actor's handle
    - board: takes signs of life; None: nobody does
    - lane: whose worker it is for
    """

    pool: PoolConfig
    storage_root: str
    coordinator: Any
    board: Any = None
    lane: str = ""


class TeacherGenerator:
    """The pool's actor: for each request of a slot it asks for a grant, explores, decodes and labels."""

    def __init__(self, setup: PoolSetup):
        self.makes: tuple[int, float] | None = None  # a request, and since when
        self.there = False  # whether it is ready
        if setup.board is not None:
            who = f"a generator of {setup.lane}"
            self.pulse = Pulse(setup.board, lambda: who, setup.lane, self._doing, lambda: self._busy)
        import torch

        import tgt_ray.teacher.store  # noqa: F401

        # What every job needs is loaded now, before the first one comes.

        self.setup = setup
        keep_freed_memory()
        torch.set_num_threads(threads_of(setup.pool))
        self.device = "cuda" if setup.pool.gpus_per_actor else "cpu"
        self.loaded: dict[str, tuple[Any, Any]] = {}
        self.spent, self.last_done, self.took = Spent(), 0.0, 0.0
        self.unkept: str | None = None  # why the job's rows aren't in the bank that they are to be in
        self.number = self.version = -1
        self.bank: Any = None
        self.run = ""
        self.ended = False
        # One thread for all requests: torch's libraries keep some 100 MB for a thread, also when it has ended.
        self.ahead = ThreadPoolExecutor(max_workers=1)
        self.there = True

    @property
    def _busy(self) -> bool:
        return not self.there or self.makes is not None

    def _doing(self) -> str:
        if not self.there:
            return "starts"
        makes = self.makes
        if makes is None:
            return "waits for the next request, or for its rows to be taken"
        return f"makes request {makes[0]} since {time.monotonic() - makes[1]:.0f} s"

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[pa.Table]:
        length, (slot,) = self.setup.pool.slot_length, map(int, batch["slot"])
        # The next block is made while Ray stores this one, so that the generator never waits for Ray.
        self.asked = self._ask(slot, 0)
        upcoming = self.ahead.submit(self._make, slot, 0)
        try:
            for place in range(length):
                row = upcoming.result()
                if place + 1 < length and not self.ended:
                    upcoming = self.ahead.submit(self._make, slot, place + 1)
                yield row
                if self.ended:
                    return
        finally:
            wait([upcoming])

    def _ask(self, slot: int, place: int) -> Any:
        """Ask for the grant of a request; return a reference to it."""
        return self.setup.coordinator.grant.remote(slot, place, self.number, self.version, self.spent)

    def _make(self, slot: int, place: int) -> pa.Table:
        """Make the row of one request; a stub where there is nothing to make, or where making it failed."""
        grant: Grant = ray.get(self.asked)
        granted = time.perf_counter()
        self.ended = grant.number < 0
        if place + 1 < self.setup.pool.slot_length and not self.ended:
            # The next grant is asked for while this request is made.
            self.asked = self._ask(slot, place + 1)
        if grant.request is None:
            return stub(grant.number)
        self.makes = grant.request, time.monotonic()
        try:
            block = self._synthesize(grant)
        except RayError:
            raise
        except Exception as err:
            if self.device == "cuda":
                raise  # CUDA can't be relied on after an error; a new process can
            return stub(grant.number, f"{type(err).__name__}: {err}")
        finally:
            self.makes = None
        done = time.perf_counter()
        # The time before a job's first request doesn't count: there was nothing to do.
        total = done - (self.last_done if self.spent.number == grant.number else granted)
        self.spent, self.last_done = Spent(grant.number, done - granted, total), done
        return pack(grant.number, block, self.took, self.unkept)

    def _synthesize(self, grant: Grant) -> Block:
        import torch

        from tgt_ray.teacher.synthesizer import check_block
        from tgt_ray.training.banked import keep, teacher_clock
        from tgt_ray.training.generation import shown_rows

        if grant.job is not None and grant.number != self.number:
            self._adopt(grant.job)
        if grant.snapshot and grant.version != self.version:
            arrays = ray.get(grant.snapshot[0])
            self.student.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
            self.version = grant.version
        assert grant.request is not None
        shown = shown_rows(self.experiment, self.numbering.request(grant.request))
        clock = teacher_clock(self.device)
        started = clock()
        block = self.synthesizer(grant.request, self.seed, self.explorer, self.student, grant.version, shown)
        self.took = clock() - started
        check_block(block)
        if self.bank is not None and block.version >= 0:
            block = replace(block, origin=self.run, steps=self.experiment.train.steps)
        # Before it is sent, so that it is there for all who wait for it.
        if self.bank is not None and not keep(self.bank, block, self.took):
            self.unkept = self.bank.reason
        return block

    def _adopt(self, job: Job) -> None:
        """Load what a job needs; what the previous job loaded is kept where it is the same."""
        from tgt_ray.core.storage import Storage
        from tgt_ray.teacher.store import load_teacher
        from tgt_ray.training.generation import recipe_of, synthesizer_of
        from tgt_ray.training.student import build_student, has_split_norms

        experiment, train, (reference,) = job.experiment, job.experiment.train, job.prepared
        prepared = self._once("prepared", reference.hex(), lambda: ray.get(reference))
        spec, classes = prepared.student.spec, prepared.student.num_classes

        def load() -> Any:
            storage = Storage(self.setup.storage_root)
            return load_teacher(experiment.teacher, prepared.teacher, spec, classes, storage).to(self.device)

        made_from = prepared.fingerprints["teacher_cache"]
        teacher = self._once("teacher", made_from, load)
        self.synthesizer = self._once(
            "synthesizer",
            (made_from, recipe_of(experiment), experiment.explorer.decodes),
            lambda: synthesizer_of(experiment, prepared, teacher, self.device),
        )
        # The student's weights come with each job's snapshots.
        self.student = self._once(
            "student",
            (
                made_from,
                experiment.student,
                experiment.objective,
                train.channels_last,
                train.second_phase,
                train.start_from,  # which brings its tokenizer
                has_split_norms(experiment),
            ),
            lambda: build_student(experiment, prepared.student, False).to(self.device).eval().requires_grad_(False),
        )
        self.experiment, self.explorer, self.seed = experiment, experiment.explorer, experiment.train.seed
        self.numbering = job.numbering
        self.number, self.version = job.number, -1
        self.bank, self.unkept = self._bank(job)
        self.run = job.bank.run if job.bank is not None else ""

    def _bank(self, job: Job) -> tuple[Any, str | None]:
        """Return the bank that a job's rows are kept in, None where there is none; and why not, where there is to be.

        Nobody looks here for rows that another kind of machine makes.
        """
        import torch

        from tgt_ray.core.storage import Storage
        from tgt_ray.teacher.bank.bank import Bank
        from tgt_ray.teacher.bank.key import machine

        if job.bank is None:
            return None, None
        here = machine(torch.get_num_threads(), self.device, job.experiment.explorer.libraries)
        if job.bank.made_on != here:
            return None, f"pool.bank: generators make rows of {here}, and workers look for those of {job.bank.made_on}"
        return Bank(Storage(self.setup.storage_root), job.bank.key, job.experiment.pool.bank.max_bytes), None

    def _once(self, what: str, key: Any, make: Callable[[], Any]) -> Any:
        if what not in self.loaded or self.loaded[what][0] != key:
            self.loaded[what] = key, make()
        return self.loaded[what][1]
