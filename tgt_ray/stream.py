"""Floor 4: synthetic rows as one long pass of a Ray Data actor pool over slots of requests.

Nothing here imports torch before a pool actor or a worker needs it, so that a pool starts while its worker still imports.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.data
from ray.data import ActorPoolStrategy

from tgt_ray.coordinator import Job, start_coordinator
from tgt_ray.experiment import Experiment

if TYPE_CHECKING:
    from tgt_ray.synthesis import Block


#: Seconds that a pool may take to start before the run fails instead of waiting for resources for ever.
START_TIMEOUT_S = 120

_CONSTANT = ("request", "version", "explorer")


@dataclass(frozen=True)
class PoolSetup:
    """What a pool actor needs to make any request. References, so that nothing large travels twice."""

    experiment: Experiment
    prepared: tuple[
        Any, ...
    ]  # holds a reference to a Prepared: a reference that stands alone would be fetched on the way
    storage_root: str
    coordinator: Any


class TeacherGenerator:
    """The pool's actor: for each request of a slot it asks leave, explores, decodes and labels."""

    def __init__(self, setup: PoolSetup):
        import torch

        from tgt_ray.storage import Storage
        from tgt_ray.student import build_student
        from tgt_ray.synthesis import Synthesizer
        from tgt_ray.teacher import load_teacher

        self.setup, experiment = setup, setup.experiment
        self.slot_length = experiment.pool.slot_length
        torch.set_num_threads(max(1, int(experiment.pool.cpus_per_actor)))
        device = "cuda" if experiment.pool.gpus_per_actor else "cpu"
        prepared = ray.get(setup.prepared[0])
        shape, classes = prepared.student.input_shape, prepared.student.num_classes
        teacher = load_teacher(experiment.teacher, prepared.teacher, shape, classes, Storage(setup.storage_root))
        teacher.labeler.to(device)
        teacher.generator.to(device)
        self.synthesizer = Synthesizer(teacher, prepared.anchors, experiment.pool.rows_per_request, device)
        self.student = build_student(experiment, shape, classes).to(device).eval().requires_grad_(False)
        self.version = -1
        self.busy_s = self.total_s = 0.0
        self.last_done = time.perf_counter()

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[Block]:
        with ThreadPoolExecutor(max_workers=1) as ahead:
            for slot in map(int, batch["slot"]):
                # The next block is made while this one is stored: the generator never waits for Ray to take a block over.
                self.asked = self._ask(slot, 0)
                upcoming = ahead.submit(self._make, slot, 0)
                for place in range(self.slot_length):
                    block = upcoming.result()
                    if block is None:
                        return
                    if place + 1 < self.slot_length:
                        upcoming = ahead.submit(self._make, slot, place + 1)
                    yield pack(block)

    def _ask(self, slot: int, place: int) -> Any:
        """A reference to the grant, or to None."""
        return self.setup.coordinator.grant.remote(slot, place, self.version, self.busy_s, self.total_s)

    def _make(self, slot: int, place: int) -> Block | None:
        import torch

        from tgt_ray.synthesis import check_block

        grant = ray.get(self.asked)
        if grant is None:
            return None
        granted = time.perf_counter()
        if grant.snapshot:
            arrays = ray.get(grant.snapshot[0])
            self.student.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
            self.version = grant.version
        if place + 1 < self.slot_length:
            # While this request is worked on, the next one's leave is on its way.
            self.asked = self._ask(slot, place + 1)
        block = self.synthesizer(grant.request, grant.job.seed, grant.job.explorer, self.student, grant.version)
        check_block(block)
        done = time.perf_counter()
        self.busy_s, self.total_s, self.last_done = done - granted, done - self.last_done, done
        return block


class SyntheticStream:
    """A worker's stream: opened first (the pool starts), begun when the worker knows from where, closed when it is done."""

    def __init__(
        self,
        experiment: Experiment,
        prepared: tuple[Any, ...],
        storage_root: str,
        rank: int = 0,
        world_size: int = 1,
        generator: type = TeacherGenerator,
    ):
        self.experiment, self.rank, self.world_size = experiment, rank, world_size
        self.coordinator = start_coordinator()
        setup = PoolSetup(experiment, prepared, storage_root, self.coordinator)
        self.blocks: queue.Queue[Block | BaseException | None] = queue.Queue(maxsize=2)
        self.closed = threading.Event()
        # Split in one: the pass is then driven by an actor of its own and not by a thread beside the student's, which would
        # compete with it for the interpreter. No prefetching by Ray: it would keep the last block back until another one comes,
        # and that may be the very block that the window waits for. The feeder thread and its queue do it instead.
        (split,) = make_dataset(setup, self.count, generator).streaming_split(1, equal=False)
        batches = split.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)
        self.feeder = threading.Thread(target=self._feed, args=(batches,), daemon=True)
        self.feeder.start()

    @property
    def count(self) -> int:
        """Requests that this worker consumes over the whole run."""
        train = self.experiment.train
        rows = train.steps * (train.batch_size // self.world_size) * self.experiment.synthetic_ratio
        return math.ceil(rows / self.experiment.pool.rows_per_request)

    def begin(self, first: int) -> None:
        """Let generators start with request index `first`."""
        job = Job(
            self.experiment.explorer,
            self.experiment.train.seed,
            self.rank,
            self.world_size,
            first,
            self.count,
            self.experiment.pool.window,
        )
        self.expected = first
        ray.get(self.coordinator.begin.remote(job))

    def __iter__(self) -> Iterator[Block]:
        """Blocks in request order. RuntimeError where one is missing or comes twice."""
        waiting: dict[int, Block] = {}
        while True:
            while self.expected not in waiting:
                block = self.blocks.get()
                if isinstance(block, BaseException):
                    raise block
                if block is None:
                    raise RuntimeError(f"the stream ended before request index {self.expected} of {self.count}")
                block = unpack(block)
                index = int(block["request"][0]) // self.world_size
                if index < self.expected or index in waiting:
                    raise RuntimeError(f"request index {index} came twice")
                waiting[index] = block
            yield waiting.pop(self.expected)
            self.expected += 1
            # Not waited for: the next block is most likely here already.
            self.coordinator.consumed.remote(self.expected)

    def publish(self, version: int, weights: dict[str, np.ndarray]) -> None:
        """Hand generators the student as it is after `version` steps. Not waited for."""
        self.coordinator.publish.remote(version, weights)

    def metrics(self) -> dict[str, float]:
        return ray.get(self.coordinator.stream_metrics.remote())

    def close(self) -> None:
        """Stop the generators; the pool's processes end with the pass."""
        self.closed.set()
        ray.get(self.coordinator.end.remote())
        while self.feeder.is_alive():
            self._drain()
            self.feeder.join(timeout=0.05)

    def _feed(self, batches: Any) -> None:
        try:
            for batch in batches:
                if not self.closed.is_set():
                    self.blocks.put(batch)
            self.blocks.put(None)
        except BaseException as err:  # handed to the thread that can do something about it
            self.blocks.put(err)

    def _drain(self) -> None:
        while not self.blocks.empty():
            self.blocks.get_nowait()


def make_dataset(setup: PoolSetup, count: int, generator: type) -> ray.data.Dataset:
    """Slots for `count` requests, one task each, mapped by the pool to one block a request."""
    pool = setup.experiment.pool
    slots = math.ceil(count / pool.slot_length)
    dataset = ray.data.from_items([{"slot": i} for i in range(slots)], override_num_blocks=slots)
    # A block must leave its actor at once: held back to be merged with the next ones, it would wait for grants that wait for it.
    # Each request is one row (see `pack`), so that the smallest limit never splits it either.
    dataset.context.target_max_block_size = 1
    dataset.context.wait_for_min_actors_s = START_TIMEOUT_S
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


def pack(block: Block) -> Block:
    """One request as one row of nested arrays; what is the same for all its rows once."""
    return {name: values[:1] if name in _CONSTANT else values[None] for name, values in block.items()}


def unpack(row: Block) -> Block:
    """The inverse of `pack`, on writable views or copies of what Arrow holds."""
    size = len(row["anchor"][0])
    return {name: np.repeat(values, size) if name in _CONSTANT else values[0] for name, values in row.items()}
