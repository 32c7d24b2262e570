"""Floor 4: synthetic rows as one long pass of a Ray Data actor pool over slots of requests.

Nothing here imports torch before a pool actor or a worker needs it, so that a pool starts while its worker still imports.
"""

from __future__ import annotations

import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import safetensors.numpy
from ray.data import ActorPoolStrategy
from ray.exceptions import RayActorError, RayError

from tgt_ray.coordinator import Grant, Job, Spent, start_coordinator
from tgt_ray.core.memory import keep_freed_memory
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.experiment.pool import PoolConfig

if TYPE_CHECKING:
    from tgt_ray.core.batch import Block


#: Seconds that a pool may take to start before the run fails instead of waiting for resources for ever.
START_TIMEOUT_S = 120
#: Seconds that a pass may take to end.
CLOSE_TIMEOUT_S = 15
#: Slots of a pass. Each costs a millisecond when the pass is opened; when all are used up, another pass is, with new actors.
SLOTS = 256

#: What travels from a generator to a worker: one request, as one row. error: why it wasn't made. payload: the arrays of its rows,
#: as safetensors; null where there are none. A single buffer, since Arrow's tensor columns cost both sides milliseconds.
ROW = pa.schema(
    [
        ("job", pa.int64()),
        ("error", pa.string()),
        ("request", pa.int64()),
        ("version", pa.int64()),
        ("explorer", pa.string()),
        ("payload", pa.large_binary()),
    ]
)


#: A block's arrays that are different from row to row; and those of them that it may have.
PACKED = ("inputs", "teacher_logits", "anchor", "reconstructed")
PACKED_WHERE_THERE = ("teacher_embedding", "anchor_inputs", "teacher_class", "teacher_p", "document")


class GenerationFailed(RuntimeError):
    """A generator could not make a request; the message is its error."""


class StreamLost(RuntimeError):
    """The pool or its coordinator has ended: a new stream must be opened."""


@dataclass(frozen=True)
class PoolSetup:
    """What a pool actor needs whatever the job."""

    pool: PoolConfig
    storage_root: str
    coordinator: Any


class TeacherGenerator:
    """The pool's actor: for each request of a slot it asks leave, explores, decodes and labels."""

    def __init__(self, setup: PoolSetup):
        import torch

        import tgt_ray.teacher.store  # noqa: F401

        # What any job needs, before the first one comes.

        self.setup = setup
        keep_freed_memory()
        torch.set_num_threads(max(1, int(setup.pool.cpus_per_actor)))
        self.device = "cuda" if setup.pool.gpus_per_actor else "cpu"
        self.loaded: dict[str, tuple[Any, Any]] = {}
        self.spent, self.last_done = Spent(), 0.0
        self.number = self.version = -1
        self.ended = False
        # One thread for good: what torch's libraries keep for a thread is not given back when it ends (some 100 MB).
        self.ahead = ThreadPoolExecutor(max_workers=1)

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[pa.Table]:
        length, (slot,) = self.setup.pool.slot_length, map(int, batch["slot"])
        # The next block is made while this one is stored: the generator never waits for Ray to take a block over.
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
        """A reference to the grant."""
        return self.setup.coordinator.grant.remote(slot, place, self.number, self.version, self.spent)

    def _make(self, slot: int, place: int) -> pa.Table:
        """The row of one request; a stub where there is nothing to make, or where making it failed."""
        grant: Grant = ray.get(self.asked)
        granted = time.perf_counter()
        self.ended = grant.number < 0
        if place + 1 < self.setup.pool.slot_length and not self.ended:
            # While this request is worked on, the next one's leave is on its way.
            self.asked = self._ask(slot, place + 1)
        if grant.request is None:
            return stub(grant.number)
        try:
            block = self._synthesize(grant)
        except RayError:
            raise
        except Exception as err:
            if self.device == "cuda":
                raise  # what CUDA does after an error is not to be trusted; a new process is
            return stub(grant.number, f"{type(err).__name__}: {err}")
        done = time.perf_counter()
        # Before a job's first request it had nothing to do: not counted.
        total = done - (self.last_done if self.spent.number == grant.number else granted)
        self.spent, self.last_done = Spent(grant.number, done - granted, total), done
        return pack(grant.number, block)

    def _synthesize(self, grant: Grant) -> Block:
        import torch

        from tgt_ray.teacher.synthesizer import check_block

        if grant.job is not None and grant.number != self.number:
            self._adopt(grant.job)
        if grant.snapshot and grant.version != self.version:
            arrays = ray.get(grant.snapshot[0])
            self.student.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
            self.version = grant.version
        block = self.synthesizer(grant.request, self.seed, self.explorer, self.student, grant.version)
        check_block(block)
        return block

    def _adopt(self, job: Job) -> None:
        """Get ready for a job. What the one before has loaded stays, where it is the same."""
        from tgt_ray.core.storage import Storage
        from tgt_ray.teacher.store import load_teacher
        from tgt_ray.training.generation import shown_every, synthesizer_of
        from tgt_ray.training.student import build_student, has_split_norms

        experiment, train, (reference,) = job.experiment, job.experiment.train, job.prepared
        prepared = self._once("prepared", reference.hex(), lambda: ray.get(reference))
        shape, classes = prepared.student.input_shape, prepared.student.num_classes

        def load() -> Any:
            storage = Storage(self.setup.storage_root)
            return load_teacher(experiment.teacher, prepared.teacher, shape, classes, storage).to(self.device)

        pool, objective = experiment.pool, experiment.objective
        made_from = prepared.fingerprints["teacher_cache"]
        teacher = self._once("teacher", made_from, load)
        self.synthesizer = self._once(
            "synthesizer",
            (
                made_from,
                pool.rows_per_request,
                pool.precision,
                objective.needs_embedding,
                objective.needs_anchors,
                experiment.explorer.decodes,
            ),
            lambda: synthesizer_of(experiment, prepared, teacher, self.device),
        )
        self.synthesizer.shown_every = shown_every(experiment)
        # Its weights come with each job's snapshots.
        self.student = self._once(
            "student",
            (
                made_from,
                experiment.student,
                experiment.objective,
                train.channels_last,
                train.second_phase,
                has_split_norms(experiment),
            ),
            lambda: build_student(experiment, prepared.student, False).to(self.device).eval().requires_grad_(False),
        )
        self.explorer, self.seed = experiment.explorer, experiment.train.seed
        self.number, self.version = job.number, -1

    def _once(self, what: str, key: Any, make: Callable[[], Any]) -> Any:
        if what not in self.loaded or self.loaded[what][0] != key:
            self.loaded[what] = key, make()
        return self.loaded[what][1]


class SyntheticStream:
    """A worker's stream: opened first (the pool starts), one job after another, closed when the worker is done."""

    def __init__(
        self,
        pool: PoolConfig,
        storage_root: str,
        rank: int = 0,
        world_size: int = 1,
        generator: type = TeacherGenerator,
        slots: int = SLOTS,
    ):
        self.rank, self.world_size = rank, world_size
        self.number = -1
        self.dropped = 0  # blocks of earlier jobs that came during the present one
        self.coordinator = start_coordinator()
        setup = PoolSetup(pool, storage_root, self.coordinator)
        self.blocks: queue.Queue[pa.Table | BaseException] = queue.Queue(maxsize=2)
        self.closed = threading.Event()
        self.lost: BaseException | None = None  # why the pass has ended by itself
        self.feeder = threading.Thread(target=self._feed, args=(setup, generator, slots), daemon=True)
        self.feeder.start()

    def begin(
        self,
        experiment: Experiment,
        prepared: tuple[Any, ...],
        first: int,
        snapshot: dict[str, np.ndarray] | None = None,
        version: int = -1,
    ) -> Iterator[Block]:
        """Let generators work for an experiment from request index `first` on; the job before is over.

        snapshot, version: of the student as it starts, where the explorer looks at it. Gives the job's blocks in request order.
        Raises RuntimeError where one is missing or comes twice, GenerationFailed, StreamLost; StreamLost at once where the stream has
        ended while there was nothing to do.
        """
        if self.lost is not None:
            raise StreamLost(f"the stream has ended: {self.lost}") from self.lost
        self.number += 1
        self.dropped = 0
        count = num_requests(experiment, self.world_size)
        job = Job(self.number, experiment, prepared, self.rank, self.world_size, first, count)
        self._call("begin", job, snapshot, version)
        return self._blocks(self.number, first)

    def _blocks(self, number: int, expected: int) -> Iterator[Block]:
        waiting: dict[int, pa.Table] = {}
        while True:
            while expected not in waiting:
                row = self.blocks.get()
                if isinstance(row, BaseException):
                    raise StreamLost(f"the stream has ended: {row}") from row
                job, error, request = (row[name][0].as_py() for name in ("job", "error", "request"))
                if job != number:
                    self.dropped += request is not None
                    continue
                if error is not None:
                    raise GenerationFailed(error)
                if request is None:
                    raise RuntimeError("the place of a request that is used up came twice")
                index = request // self.world_size
                if index < expected or index in waiting:
                    raise RuntimeError(f"request index {index} came twice")
                waiting[index] = row
            yield unpack(waiting.pop(expected))
            expected += 1
            # Not waited for: the next block is most likely here already.
            self.coordinator.consumed.remote(number, expected)

    def publish(self, version: int, weights: dict[str, np.ndarray]) -> None:
        """Hand generators the student as it is after `version` steps. Not waited for."""
        self.coordinator.publish.remote(self.number, version, weights)

    def metrics(self) -> dict[str, float]:
        return {**self._call("stream_metrics"), "dropped_blocks": float(self.dropped)}

    def _call(self, method: str, *args: Any) -> Any:
        try:
            return ray.get(getattr(self.coordinator, method).remote(*args))
        except RayActorError as err:
            raise StreamLost(f"the stream's coordinator has ended: {err}") from err

    def close(self) -> None:
        """Stop the generators; the pool's processes end with the pass, or, where it doesn't end in time, with this one."""
        self.closed.set()
        self.coordinator.end.remote()
        deadline = time.time() + CLOSE_TIMEOUT_S
        while self.feeder.is_alive() and time.time() < deadline:
            self._drain()
            self.feeder.join(timeout=0.05)

    def _feed(self, setup: PoolSetup, generator: type, slots: int) -> None:
        try:
            for first_slot in itertools.count(0, slots):
                # Split in one: the pass is then driven by an actor of its own and not by a thread beside the student's, which
                # would compete with it for the interpreter. No prefetching by Ray: it would keep the last block back until
                # another one comes, and that may be the very block that the window waits for.
                (split,) = make_dataset(setup, range(first_slot, first_slot + slots), generator).streaming_split(
                    1, equal=False
                )
                rows = iter(split.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
                for row in rows:
                    if self.closed.is_set():
                        rows.close()  # ends the pass
                        return
                    self.blocks.put(row)
        except BaseException as err:  # handed to the thread that can do something about it
            self.lost = err  # first: rows that nobody takes may be in the way of the other
            self.blocks.put(err)

    def _drain(self) -> None:
        while not self.blocks.empty():
            self.blocks.get_nowait()


def num_requests(experiment: Experiment, world_size: int) -> int:
    """Requests that one worker consumes over a whole run."""
    train = experiment.train
    rows = train.steps * (train.batch_size // world_size) * experiment.synthetic_ratio
    return math.ceil(rows / experiment.pool.rows_per_request)


def make_dataset(setup: PoolSetup, slots: range, generator: type) -> ray.data.Dataset:
    """Slots, one task each, mapped by the pool to one block a request."""
    pool = setup.pool
    dataset = ray.data.from_items([{"slot": slot} for slot in slots], override_num_blocks=len(slots))
    # A block must leave its actor at once: held back to be merged with the next ones, it would wait for grants that wait for it.
    # Each request is one row, so that the smallest limit never splits it either.
    dataset.context.target_max_block_size = 1
    dataset.context.wait_for_min_actors_s = START_TIMEOUT_S
    # Generators wait for as long as the student needs none of them.
    dataset.context.execution_no_progress_timeout_s = -1
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    return dataset.map_batches(
        generator,
        batch_size=1,
        fn_constructor_args=(setup,),
        num_cpus=pool.cpus_per_actor,
        num_gpus=pool.gpus_per_actor or None,
        resources=pool.actor_resources or None,
        # One task at a time: a second one, queued, would hold up the retry of a task that its actor's death cut off, and with it
        # the window that the second one waits for.
        compute=ActorPoolStrategy(size=pool.actors, max_tasks_in_flight_per_actor=1),
    )


def pack(job: int, block: Block) -> pa.Table:
    """One request as a row."""
    # Contiguous: safetensors writes memory as it lies, and convolutions leave channels last.
    names = (*PACKED, *(name for name in PACKED_WHERE_THERE if name in block))
    arrays = {name: np.ascontiguousarray(block[name]) for name in names}
    same = {name: block[name][0].item() for name in ("request", "version", "explorer")}
    return _row(job=job, **same, payload=safetensors.numpy.save(arrays))


def stub(job: int, error: str | None = None) -> pa.Table:
    """The row of a request that wasn't made: for an earlier job, or with the reason."""
    return _row(job=job, error=error)


def _row(**values: Any) -> pa.Table:
    return pa.table({name: [values.get(name)] for name in ROW.names}, schema=ROW)


def unpack(row: pa.Table) -> Block:
    """The request's rows, with the columns that are the same for all of them."""
    block: Block = safetensors.numpy.load(row["payload"][0].as_py())
    size = len(block["anchor"])
    return {**block, **{name: np.full(size, row[name][0].as_py()) for name in ("request", "version", "explorer")}}
