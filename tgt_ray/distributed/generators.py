"""Starts the generators of a worker: a Ray Data actor pool, and the coordinator that tells it what to make."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy
from ray.exceptions import RayActorError

from tgt_ray.distributed.coordinator import StreamLost, start_coordinator
from tgt_ray.distributed.pool_actor import PoolSetup
from tgt_ray.experiment.pool import PoolConfig

#: Seconds that a pool may take to start before the run fails instead of waiting for resources for ever.
START_TIMEOUT_S = 120
#: Seconds that a pass may take to end.
CLOSE_TIMEOUT_S = 15


class Generators:
    """Runs one long pass of an actor pool over slots of requests, from its start to `close`.

    - generator: class of the pool's actors
    - slots: of one pass
    - board: knows which lane makes which request of a bank, and takes signs of life; None: there are no other lanes
    - lane: whose worker they are for
    """

    def __init__(self, pool: PoolConfig, storage_root: str, generator: type, slots: int, board: Any, lane: str = ""):
        self.coordinator = start_coordinator(board, lane)
        setup = PoolSetup(pool, storage_root, self.coordinator, board, lane)
        self.blocks: queue.Queue[pa.Table | BaseException] = queue.Queue(maxsize=2)
        self.closed = threading.Event()
        self.lost: BaseException | None = None  # why the pass has ended by itself
        self.feeder = threading.Thread(target=self._feed, args=(setup, generator, slots), daemon=True)
        self.feeder.start()

    def call(self, method: str, *args: Any) -> Any:
        """Call the coordinator and wait for its answer.

        - raises StreamLost: where it has ended
        """
        try:
            return ray.get(getattr(self.coordinator, method).remote(*args))
        except RayActorError as err:
            raise StreamLost(f"the stream's coordinator has ended: {err}") from err

    def close(self) -> None:
        """Stop the generators; the pool's processes end with the pass or, where that takes too long, with this one."""
        self.closed.set()
        self.coordinator.end.remote()
        deadline = time.time() + CLOSE_TIMEOUT_S
        while self.feeder.is_alive() and time.time() < deadline:
            self._drain()
            self.feeder.join(timeout=0.05)

    def _feed(self, setup: PoolSetup, generator: type, slots: int) -> None:
        try:
            for first_slot in itertools.count(0, slots):
                # A split into one part has its own actor to drive the pass. Otherwise a thread of this process would do
                # so, and compete with the student's for the interpreter. Ray must not prefetch: it would keep the last
                # block back until another one comes, and the window may be waiting for that very block.
                (split,) = make_dataset(setup, range(first_slot, first_slot + slots), generator).streaming_split(
                    1, equal=False
                )
                rows = iter(split.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
                for row in rows:
                    if self.closed.is_set():
                        rows.close()  # ends the pass
                        return
                    self.blocks.put(row)
        except BaseException as err:  # passed to the thread that reads the blocks
            self.lost = err  # first, since a queue full of rows may block the next line
            self.blocks.put(err)

    def _drain(self) -> None:
        while not self.blocks.empty():
            self.blocks.get_nowait()


def make_dataset(setup: PoolSetup, slots: range, generator: type) -> ray.data.Dataset:
    """Make the data set of a pass: slots, one task each, which the pool maps to one block a request."""
    pool = setup.pool
    dataset = ray.data.from_items([{"slot": slot} for slot in slots], override_num_blocks=len(slots))
    # A block must leave its actor at once. Held back to be merged with later ones, it would wait for grants that wait
    # for it. A request is one row, so that the smallest limit doesn't split it.
    dataset.context.target_max_block_size = 1
    dataset.context.wait_for_min_actors_s = START_TIMEOUT_S
    # Without a limit, since generators wait for as long as the student needs no rows.
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
        # One task at a time: a second one in the queue would delay the retry of a task whose actor died, and with it
        # the window that the second one waits for.
        compute=ActorPoolStrategy(size=pool.actors, max_tasks_in_flight_per_actor=1),
    )
