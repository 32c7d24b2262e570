"""Runs in each Ray Train worker of a lane: trains one run after another.

Torch is imported inside functions, since the pool should start before that slow import. Ray Data is imported inside
functions as well, since the lane's controller imports this module and doesn't need it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import ray.train
from ray.exceptions import RayError
from ray.util import get_current_placement_group

from tgt_ray.core.errors import NotWritten, RunFailed
from tgt_ray.core.memory import keep_freed_memory
from tgt_ray.core.owner import NotOwner
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import Damaged
from tgt_ray.distributed.lines import Line, handed_on
from tgt_ray.distributed.link import HeldRun, Link
from tgt_ray.distributed.messages import BankPlace, Opened, Run
from tgt_ray.distributed.pulse import Pulse
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.experiment.pool import threads_of

if TYPE_CHECKING:
    from tgt_ray.core.batch import Block
    from tgt_ray.distributed.stream import SyntheticStream
    from tgt_ray.teacher.bank.bank import Bank
    from tgt_ray.teacher.transfer_set import Prepared
    from tgt_ray.training.reader import SyntheticReader
    from tgt_ray.training.run import StudentRun

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LaneSetup:
    """What a lane's workers get at their start.

    - name: of the lane
    - board: the actor's handle
    - plan: the experiment for whose resources the lane was placed
    - storage_root: the root that holds the teacher
    - rows_there: whether the storage seems to hold the rows that runs take, so that generators needn't start with the
      lane; they start once a row is missing
    """

    name: str
    board: Any
    plan: Experiment
    storage_root: str
    rows_there: bool = False


def lane_worker(config: dict[str, LaneSetup]) -> None:
    """Do the runs that the board gives to this lane, until it gives none; the training function of Ray Train."""
    context = ray.train.get_context()
    worker = LaneWorker(config["setup"], context.get_world_rank(), context.get_world_size())
    with handed_on(worker.say, all_of_them=False):
        try:
            worker.get_ready()
            while (run := worker.take()) is not None:
                worker.work(run)
        finally:
            worker.close()


class LaneWorker:
    """Trains one run after another as one worker of a lane.

    From run to run it keeps processes, imported modules and the data that all trials share, but no state of training.
    """

    def __init__(self, setup: LaneSetup, rank: int, world_size: int):
        self.setup, self.board, self.rank, self.world_size = setup, setup.board, rank, world_size
        self.link = Link(setup.board)
        self.prepared: tuple[str, Prepared] | None = None
        self.ended: float | None = None  # when the previous run was over
        self.run_id: str | None = None  # of the run that is worked on
        self.held: Bank | None = None  # the present run's
        self.hooks: LaneHooks | None = None  # of the run that it trains
        self.pulse = Pulse(setup.board, self._who, setup.name, self._doing)
        # Last, and before torch is imported, so that the pool starts while this process goes on.
        self.stream = self._open_stream() if setup.plan.uses_pool else None

    def _who(self) -> str:
        return f"worker {self.rank} of {self.setup.name}" if self.world_size > 1 else f"the worker of {self.setup.name}"

    def _doing(self) -> str:
        if self.run_id is None:
            return "waits for a run"
        return self.hooks.doing if self.hooks is not None else "loads its run"

    def _open_stream(self) -> SyntheticStream:
        from tgt_ray.distributed.stream import SyntheticStream

        pool, board = self.setup.plan.pool, self.setup.board
        at_once = not self.setup.rows_there
        return SyntheticStream(
            pool,
            self.setup.storage_root,
            self.rank,
            self.world_size,
            board=board,
            at_once=at_once,
            lane=self.setup.name,
            limit=self.setup.plan.train.watchdog,
        )

    def get_ready(self) -> None:
        """Import and set up what every run needs, before the first one comes."""
        import torch

        import tgt_ray.training.loop  # noqa: F401

        train = self.setup.plan.train
        keep_freed_memory()
        torch.set_num_threads(max(1, int(train.cpus_per_worker)))
        self.device = f"cuda:{torch.cuda.current_device()}" if train.gpus_per_worker else "cpu"

    def say(self, line: Line) -> None:
        """Bring a line to the driver's log, by way of the board."""
        # This waits, so that a run's lines are there before its end is.
        self.link.call("say", self.run_id, line)

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
        self._release()
        self.pulse.stop()

    def _release(self) -> None:
        """Let others remove the bank of the run that is over."""
        if self.held is not None:
            self.held.release()
        self.held = None

    def take(self) -> Run | None:
        """Wait for the lane's next run; all its workers return the same one, or None where the lane must end."""
        asked = time.perf_counter()
        run = self.link.call("take", self.setup.name, self.setup.plan) if self.rank == 0 else None
        if self.world_size > 1:
            import torch

            # Only the id is broadcast: references to objects must travel through Ray.
            box = [run.id if run else None]
            torch.distributed.broadcast_object_list(box)
            if self.rank and box[0] is not None:
                run = self.link.call("run", box[0])
        self.taken, self.idle_s = time.perf_counter(), time.perf_counter() - asked
        return run

    def work(self, item: Run) -> None:
        """Train a run until it ends, fails or is cancelled.

        An error of the run alone ends only that run. An error that this process or its group can't go on after is
        raised: Ray Train then replaces the workers, and the run resumes from its checkpoint.
        """
        self.link = HeldRun(self.board, self._lane(), item) if self.rank == 0 else Link(self.board)
        if item.measures:
            self._measure(item)
        else:
            self._work(item)
        self.link = Link(self.board)  # a board that comes back must not take the run to be still here

    def _work(self, item: Run) -> None:
        from tgt_ray.distributed.coordinator import StreamLost
        from tgt_ray.training.run import Diverged, Stopped

        reason, run, unwritten = None, None, False
        self.run_id = item.id
        try:
            run = self._load(item)
            self._train(item, run)
        except Stopped:
            pass
        except (Diverged, Damaged) as err:
            # All workers read the same damaged state.
            reason = str(err)
        except (RayError, StreamLost) as err:
            self.board.trouble.remote(item.id, str(err))
            raise
        except Exception as err:
            unwritten = isinstance(err, NotWritten)
            reason = str(err) if isinstance(err, RunFailed) else f"{type(err).__name__}: {err}"
            log.exception("run %s failed", item.id)
            if isinstance(err, NotWritten | NotOwner):
                if self.world_size > 1:  # the others wait for this one, and their successors couldn't write either
                    self.link.call("end", item.id, reason, [], unwritten)
                    raise
            elif self.world_size > 1 or self.device != "cpu":
                # The other workers wait for this one, and CUDA can't be relied on after an error.
                self.link.call("trouble", item.id, reason, True)
                raise
        if self.stream is not None:
            self.stream.finish()
        self._release()
        if self.rank == 0:
            self.link.call("end", item.id, reason, run.history if run else [], unwritten)
        self.run_id, self.ended = None, time.perf_counter()

    def _lane(self) -> Opened:
        group = get_current_placement_group()
        return Opened(self.setup.name, self.setup.plan, group.id.hex() if group is not None else None)

    def _measure(self, item: Run) -> None:
        """Report how small and how fast the student in a folder is, which one worker measures alone."""
        from tgt_ray.inference.speed import measured
        from tgt_ray.teacher.speed import rows_to_time

        if self.rank == 0:
            prepared = self._prepared_for(item)
            data, task = prepared.student, item.experiment.task
            rows = partial(rows_to_time, task, data.tables["validation"], data.input_shape)
            speed = measured(item.folder, rows, prepared.teacher)
            self.link.call("report", item.id, {"step": 0, "speed": speed})
            self.link.call("end", item.id, None, [])
        self.ended = time.perf_counter()

    def _prepared_for(self, item: Run) -> Prepared:
        """Return what all runs share, fetched once."""
        (reference,) = item.prepared
        if self.prepared is None or self.prepared[0] != reference.hex():
            self.prepared = reference.hex(), ray.get(reference)
        return self.prepared[1]

    def _load(self, item: Run) -> StudentRun:
        """Build the run's student, optimizer and counters afresh, or restore them from its checkpoint."""
        import torch

        from tgt_ray.training import checkpoint, states
        from tgt_ray.training.run import StudentRun

        if item.experiment.train.compile:
            torch._dynamo.reset()  # functions compiled for earlier runs count against a limit
        wrap = torch.nn.parallel.DistributedDataParallel if self.world_size > 1 else torch.nn.Identity()
        student = self._prepared_for(item).student
        run = StudentRun(item.experiment, student, self.rank, self.world_size, self.device, wrap)
        state = states.last_whole(Storage(item.folder))
        if state is not None:
            checkpoint.load_state(run, state)
        if self.world_size > 1:
            steps = torch.tensor([run.step, -run.step], device=self.device)
            torch.distributed.all_reduce(steps, torch.distributed.ReduceOp.MAX)
            if steps[0] != -steps[1]:
                raise RuntimeError(
                    "the workers see different checkpoints; give a storage that all nodes share (--storage)"
                )
        return run

    def _train(self, item: Run, run: StudentRun) -> None:
        from tgt_ray.training.loop import train_student
        from tgt_ray.training.reader import SyntheticReader

        experiment, reader = item.experiment, None
        if experiment.streams:
            reader = SyntheticReader.going_on(partial(self._begin, item, run), run.position, run.reading)
        times = {"lane": self.setup.name, "idle_s": self.idle_s, "setup_s": time.perf_counter() - self.taken}
        if self.ended is not None:
            times["gap_s"] = time.perf_counter() - self.ended
        stream = self.stream if experiment.uses_pool else None
        held = self.link if isinstance(self.link, HeldRun) else None
        hooks = LaneHooks(item, held, stream, self.rank, times, reader)
        for report in item.to_send_again(run.history) if self.rank == 0 else ():
            hooks.send(report)  # resumed: it may have been lost with its process
        self.hooks = hooks
        try:
            train_student(run, reader, hooks, is_main=self.rank == 0)
        finally:
            self.hooks = None

    def _begin(self, item: Run, run: StudentRun, first: int) -> Iterator[Block]:
        """Begin the run's job at the request with index `first`, and return its blocks.

        A stream that ended while the lane was idle is no failure of the run: another stream is opened.
        """
        from tgt_ray.distributed.coordinator import StreamLost
        from tgt_ray.training import checkpoint
        from tgt_ray.training.imported import imported_blocks

        if not item.experiment.uses_pool:
            assert self.prepared is not None
            what = item.experiment, self.prepared[1].student, Storage(self.setup.storage_root), first
            return imported_blocks(*what, self.rank, self.world_size)
        assert self.stream is not None, "the board gives a run only to a lane that serves it"
        weights = checkpoint.snapshot(run.student) if item.experiment.explorer.on_policy else None
        job = item.experiment, item.prepared, first, weights, run.step, self._bank(item, run)
        try:
            return self.stream.begin(*job, bank=self.held)
        except StreamLost as err:
            log.warning("%s opens another stream before run %s: %s", self.setup.name, item.id, err)
        self.stream.close()
        self.stream = self._open_stream()
        return self.stream.begin(*job, bank=self.held)

    def _bank(self, item: Run, run: StudentRun) -> BankPlace | None:
        """Say where a run's rows are kept, and mark the bank as in use; None: nowhere."""
        import torch

        from tgt_ray.teacher.bank.key import machine
        from tgt_ray.training import checkpoint
        from tgt_ray.training.banked import bank_of, uses_bank

        experiment, pool = item.experiment, item.experiment.pool
        if not uses_bank(experiment):
            return None
        device = "cuda" if pool.gpus_per_actor else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            log.warning("pool.bank: rows are not kept, since this node has no GPU to tell which one makes them")
            return None
        made_on = machine(threads_of(pool), device, experiment.explorer.libraries)
        assert self.prepared is not None
        bank = bank_of(experiment, self.prepared[1], Storage(self.setup.storage_root), made_on)
        bank.hold(checkpoint.size_of(run) if self.rank == 0 else 0)
        self.held = bank
        return BankPlace(bank.key, made_on, item.id)


class LaneHooks:
    """Connects the training loop to the lane.

    Snapshots go to this worker's coordinator, checkpoints of rank 0 to the storage, and its reports to the board.

    - held: the run, of the first worker; the others have None
    - times: seconds by name: `idle_s`, the lane's wait for this run; `setup_s`, from then until training could begin;
      `gap_s`, since the end of the lane's previous run, to which the wait for the first synthetic rows is added
    """

    def __init__(
        self,
        item: Run,
        held: HeldRun | None,
        stream: SyntheticStream | None,
        rank: int,
        times: dict[str, Any],
        reader: SyntheticReader | None,
    ):
        self.item, self.held, self.stream, self.rank = item, held, stream, rank
        self.times, self.reader = times, reader
        self.folder = Storage(item.folder)
        self.writes = False

    @property
    def doing(self) -> str:
        """What the worker does, for messages."""
        if self.writes:
            return "writes its checkpoint"
        waited = self.stream.waits_for if self.stream is not None else None
        return "trains" if waited is None else f"waits for synthetic rows (request {waited} of its own)"

    def stopped(self) -> bool:
        return self.held is not None and self.held.is_over()

    def snapshot(self, run: StudentRun) -> None:
        # Data parallel students have equal weights, so each worker sends its own to its own generators.
        from tgt_ray.training import checkpoint

        if self.stream is not None:
            self.stream.publish(run.step, checkpoint.snapshot(run.student))

    def seen_and_fresh(self) -> tuple[Block, Block] | None:
        banked = self.stream.banked if self.stream is not None else None
        return banked.seen_and_fresh() if banked is not None else None

    def stream_metrics(self) -> dict[str, Any]:
        from tgt_ray.results.ledger import summed

        if self.stream is None:
            return {}
        first, *others = gathered(self.stream.metrics(), self.rank, self.stream.world_size)
        return {} if self.rank else summed(*others, first)

    def report(self, run: StudentRun, metrics: dict[str, Any]) -> None:
        from tgt_ray.training import checkpoint, states

        rests = gathered(checkpoint.rest_of(run, self.reader), self.rank, run.plan.world_size)
        if self.held is None:
            return
        if self.item.held is not None:
            self.item.held.check()
        # The checkpoint comes first, so that nothing that was reported can be lost.
        self.writes = True
        states.write_files(checkpoint.files_of(run, self.reader, rests), self.folder, self.item.held)
        self.writes = False
        self.send(metrics)

    def send(self, metrics: dict[str, Any]) -> None:
        first_rows_s = self.reader.start_wait_s if self.reader is not None else 0.0
        gap = {"gap_s": self.times["gap_s"] + first_rows_s} if "gap_s" in self.times else {}
        assert self.held is not None, "the first worker alone reports"
        self.held.report({**metrics, **self.times, **gap})


def gathered(mine: Any, rank: int, world_size: int) -> list[Any]:
    """Give rank 0 what each worker has, in the order of ranks; all workers must call this at the same step."""
    if world_size == 1:
        return [mine]
    import torch

    box: list[Any] = [None] * world_size
    torch.distributed.gather_object(mine, box if rank == 0 else None)
    return box
