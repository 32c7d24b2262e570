"""Floor 5: teacher and teacher cache once, and lanes: Ray Train worker groups that do one run after another."""

from __future__ import annotations

import itertools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray
import ray.train
from ray._raylet import PlacementGroupID
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from tgt_ray import cluster
from tgt_ray.board import start_board
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.memory import keep_freed_memory
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.lane import LaneSetup, lane_worker
from tgt_ray.objectives import Objective
from tgt_ray.tasks import Table, TaskData, inputs_of
from tgt_ray.teacher.fingerprints import stored_teacher
from tgt_ray.teacher.transfer_set import Prepared, prepare
from tgt_ray.training import fit_check

log = logging.getLogger(__name__)

#: Train looks at its workers every 2 s by default: a lane would need that long to notice a lost worker, and to end.
HEALTH_CHECK_INTERVAL_S = 0.5
#: Of the teacher pass: rows that one of its actors takes at a time.
ROWS_PER_BLOCK = 4096
#: Documents that an actor embeds at a time.
DOCUMENTS_PER_BLOCK = 1024
#: How often Ray Train tries to start a lane's workers; each attempt may wait for resources for a while.
START_ATTEMPTS = 10
#: How long lanes may take to end.
CLOSE_TIMEOUT_S = 30
#: How long the workers of a lane may wait for its next run, in a collective call.
IDLE_TIMEOUT_S = 7 * 24 * 3600


def teacher_on_ray(experiment: Experiment, data: TaskData, storage: Storage) -> dict[str, Any]:
    """The teacher's record with its `fit_check`; pretrained and checked in one task where the storage doesn't have them."""
    record = stored_teacher(experiment.teacher, data, storage)
    check = fit_check.stored(experiment, record, data, storage) if record is not None else None
    if record is None or check is None:
        record = _teacher_by_a_task(experiment, data, storage)
    else:
        record["fit_check"] = check
    fit_check.judge(experiment, record["fit_check"])
    return record


def prepare_on_ray(
    experiment: Experiment,
    teacher: dict[str, Any],
    data: TaskData,
    storage: Storage,
    beside_lanes: bool,
    objectives: Sequence[Objective] = (),
) -> Prepared:
    """What all trials share, from the teacher cache or by a pass of an actor pool. beside_lanes: while lanes start. objectives: those
    that trials may have, where it isn't the experiment's alone."""
    objectives = objectives or [experiment.objective]
    embedding = any(objective.needs_embedding for objective in objectives)

    def teacher_pass(tables: list[Table]) -> list[dict[str, np.ndarray]]:
        return label_rows(experiment, teacher, data, tables, storage, beside_lanes, embedding)

    from_documents = experiment.teacher.generator.starts_from_documents
    return prepare(data, teacher, teacher_pass, storage, objectives, from_documents)


def needs_places(experiment: Experiment) -> bool:
    """Whether generators are placed by more than CPUs. Where no rows are made there are none, and nothing is asked for."""
    return experiment.streams and bool(experiment.pool.actor_resources or experiment.pool.gpus_per_actor)


def pool_resources(experiment: Experiment) -> dict[str, Any]:
    """What one generator asks for, as options of Ray."""
    pool = experiment.pool
    if not experiment.streams:
        return {"num_cpus": pool.cpus_per_actor}
    return {
        "num_cpus": pool.cpus_per_actor,
        "num_gpus": pool.gpus_per_actor or None,
        "resources": pool.actor_resources or None,
    }


def device_of(experiment: Experiment) -> str:
    """Where the teacher computes."""
    return "cuda" if experiment.streams and experiment.pool.gpus_per_actor else "cpu"


def _teacher_by_a_task(experiment: Experiment, data: TaskData, storage: Storage) -> dict[str, Any]:
    # Placed by one CPU, so that a busy cluster doesn't hold it up, but with threads for a node: nothing of this run works beside it.
    # Where generators will be, if that matters. Its process ends with it, and gives back what it holds of a GPU.
    special = needs_places(experiment)
    if special:
        cluster.check_teacher_fits(experiment)
    task = ray.remote(max_calls=1)(_prepare_teacher).options(
        **pool_resources(experiment) if special else {"num_cpus": 1}
    )
    threads = max(1, int(cluster.largest_node_cpus()))
    log.info("teacher: made ready and checked now, once; where it has to be pretrained that may take minutes")
    reference = ray.put(data)
    try:
        record = ray.get(task.remote(experiment, reference, storage, threads))
        if "documents_wanted" in record:
            embed_documents(experiment, data, record["documents_wanted"], storage)
            record = ray.get(task.remote(experiment, reference, storage, threads))
        return record
    except ray.exceptions.RayTaskError as err:
        if isinstance(err.cause, ConfigError):
            raise err.cause from None
        raise


def _prepare_teacher(experiment: Experiment, data: TaskData, storage: Storage, threads: int) -> dict[str, Any]:
    import logging

    import torch

    from tgt_ray.teacher.store import DocumentsWanted, prepare_teacher

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keep_freed_memory()
    torch.set_num_threads(threads)
    device = device_of(experiment)
    try:
        teacher, record = prepare_teacher(experiment.teacher, experiment.task, data, storage, device, embed_here=False)
    except DocumentsWanted as wanted:
        return {"documents_wanted": wanted.args[0]}
    return {**record, "fit_check": fit_check.ready(experiment, teacher, record, data, storage, device)}


def run_on_ray(function: Callable[[Any], Any], parts: list[Any]) -> list[Any]:
    """Calls `function` on each of some parts in tasks of Ray Data; gives its results, which JSON can hold, in the parts' order."""
    import ray.data

    references = [(ray.put(part),) for part in parts]

    def work(row: dict[str, Any]) -> dict[str, Any]:
        (part,) = references[row["number"]]
        return {"number": row["number"], "result": json.dumps(function(ray.get(part)))}

    numbers = ray.data.from_items([{"number": number} for number in range(len(parts))], override_num_blocks=len(parts))
    done = numbers.map(work)
    done.context.enable_progress_bars = False
    results = {row["number"]: row["result"] for row in done.iter_rows()}
    return [json.loads(results[number]) for number in range(len(parts))]


class DocumentEmbedder:
    """An actor that embeds documents: the place of a block in their table -> its embeddings."""

    def __init__(self, experiment: Experiment, shape: tuple[int, ...], threads: int, tables: tuple[Any, ...]):
        import torch

        torch.set_num_threads(threads)
        self.task, self.shape, self.labeler, self.table = (
            experiment.task,
            shape,
            experiment.teacher.labeler,
            ray.get(tables[0]),
        )
        model = self.labeler.build(shape, 1)  # its head isn't looked at
        self.labeler.load_weights(model)
        self.model = model.to(device_of(experiment)).eval()

    def __call__(self, places: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        (first,) = places["first"]
        inputs = inputs_of(self.task, self.table.slice(first, DOCUMENTS_PER_BLOCK), self.shape)
        embedding, cut = (each.numpy(force=True) for each in self.labeler.embed_documents(self.model, inputs))
        return {"row": np.arange(first, first + len(cut)), "embedding": embedding, "cut": cut}


def embed_documents(experiment: Experiment, data: TaskData, file: str, storage: Storage) -> None:
    """The documents' embeddings, by a Ray Data actor pool into a file of the storage.

    Where generators are placed by more than CPUs there are as many actors as of them; otherwise one for each four CPUs.
    """
    import ray.data
    import safetensors.numpy

    from tgt_ray.teacher.store import DOCUMENTS

    table = data.tables["documents"]
    places = [{"first": first} for first in range(0, len(table), DOCUMENTS_PER_BLOCK)]
    special = needs_places(experiment)
    # A few threads each: every actor holds the encoder's weights.
    threads = 1 if special else max(1, min(4, int(cluster.largest_node_cpus())))
    room = experiment.pool.actors if special else sum(int(node.get("CPU", 0) // threads) for node in cluster.nodes())
    actors = max(1, min(room, len(places)))
    log.info("teacher: %d documents are embedded by %d actor%s, once", len(table), actors, "s" if actors > 1 else "")
    embedded = ray.data.from_items(places, override_num_blocks=len(places)).map_batches(
        DocumentEmbedder,
        batch_size=1,
        fn_constructor_args=(experiment, data.input_shape, threads, (ray.put(table),)),
        compute=ray.data.ActorPoolStrategy(size=actors),
        **pool_resources(experiment) if special else {"num_cpus": min(threads, cluster.largest_node_cpus())},
    )
    embedded.context.enable_progress_bars = False
    parts = list(embedded.iter_batches(batch_size=None))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(columns.pop("row"))
    arrays = {name: np.ascontiguousarray(values[order]) for name, values in columns.items()}
    storage.write(safetensors.numpy.save(arrays), DOCUMENTS, file)


class TeacherLabeler:
    """The teacher pass's actor: the place of a block in one of the tables -> its rows' logits and latents, perhaps embeddings."""

    def __init__(
        self,
        experiment: Experiment,
        record: dict[str, Any],
        shape: tuple[int, ...],
        classes: int,
        storage: Storage,
        tables: tuple[Any, ...],
        embedding: bool,
    ):
        from tgt_ray.teacher.store import load_teacher

        self.task, self.shape, self.tables = experiment.task, shape, ray.get(tables[0])
        self.device, self.embedding = device_of(experiment), embedding
        self.teacher = load_teacher(experiment.teacher, record, shape, classes, storage).to(self.device)

    def __call__(self, places: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        from tgt_ray.teacher.outputs import teacher_outputs

        (number,), (first,) = places["table"], places["first"]
        rows = self.tables[number].slice(first, ROWS_PER_BLOCK)
        inputs = inputs_of(self.task, rows, self.shape, self.device)
        logits = self.task.answers == "classes"
        outputs = teacher_outputs(self.teacher, inputs, self.shape, self.embedding, logits=logits)
        return {"table": np.full(len(rows), number), "row": np.arange(first, first + len(rows)), **outputs}


def label_rows(
    experiment: Experiment,
    record: dict[str, Any],
    data: TaskData,
    tables: list[Table],
    storage: Storage,
    beside_lanes: bool,
    embedding: bool = False,
) -> list[dict[str, np.ndarray]]:
    """Logits and latents of each table's rows, in its order, by a Ray Data actor pool; with `embedding` the labeler's embeddings too.

    beside_lanes: lanes hold what the pool would ask for, and have nothing to do before its pass is over, so it asks for nothing.
    """
    import ray.data

    if not beside_lanes:
        cluster.check_teacher_fits(experiment)
    resources = {"num_cpus": 0} if beside_lanes else pool_resources(experiment)
    # Not from_arrow: Ray Data looks at each table in a task of a whole CPU, which may have to wait for lanes.
    places = [
        {"table": number, "first": first}
        for number, table in enumerate(tables)
        for first in range(0, len(table), ROWS_PER_BLOCK)
    ]
    labelled = ray.data.from_items(places, override_num_blocks=len(places)).map_batches(
        TeacherLabeler,
        batch_size=1,
        fn_constructor_args=(
            experiment,
            record,
            data.input_shape,
            data.num_classes,
            storage,
            (ray.put(tables),),
            embedding,
        ),
        compute=ray.data.ActorPoolStrategy(size=experiment.pool.actors),
        **resources,
    )
    labelled.context.enable_progress_bars = False
    parts = list(labelled.iter_batches(batch_size=None))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((columns.pop("row"), columns.pop("table")))
    ends = np.cumsum([len(table) for table in tables])[:-1]
    split = {name: np.split(values[order], ends) for name, values in columns.items()}
    return [{name: values[number] for name, values in split.items()} for number in range(len(tables))]


class RememberPlacement(WorkerGroupCallback):
    """Tells the board which placement group a lane has.

    Ray keeps a placement group until its job ends, also when the controller that made it is lost. Train's own cleaner needs the
    dashboard to find that out.
    """

    def __init__(self, board: Any, lane: str):
        self.board, self.lane = board, lane

    def after_worker_group_start(self, worker_group: Any) -> None:
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        self.board.placed.remote(self.lane, group.id.hex())


@contextmanager
def open_lanes(
    name: str, plan: Experiment, count: int, storage: Storage, max_rebuilds: int = 0, warm: bool = True
) -> Iterator[Any]:
    """`count` lanes, started beside what the block does; gives their board. At the end of the block they end too.

    name: of the board, as ray.get_actor knows it. plan: for its resources lanes are placed. storage: the root that holds the
    teacher. max_rebuilds, warm: as of the Board.
    """
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(HEALTH_CHECK_INTERVAL_S)
    if len(cluster.nodes()) == 1:
        # One process less to start: with a single node there is nobody to survive its preemption.
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    names = [f"lane-{index}" for index in range(count)]
    board = start_board(name, plan, names, max_rebuilds, warm)
    # Train wants a folder for checkpoints; these lie in the storage, written by the workers.
    with TemporaryDirectory(prefix="tgt_ray_lanes_") as folder:
        threads = [
            threading.Thread(target=_keep_open, args=(board, name, storage, folder), daemon=True) for name in names
        ]
        for thread in threads:
            thread.start()
        try:
            yield board
        finally:
            with suppress(RayActorError):  # lost: lanes have noticed
                ray.get(board.close.remote())
            deadline = time.time() + CLOSE_TIMEOUT_S
            for thread in threads:
                thread.join(timeout=max(0.0, deadline - time.time()))
            if any(thread.is_alive() for thread in threads):
                log.warning("some lanes have not ended after %d s; they end with this process", CLOSE_TIMEOUT_S)
            # At once, and not when the last reference to it is gone: its name may be wanted again.
            ray.kill(board)


@contextmanager
def open_prepared_lanes(
    name: str,
    experiment: Experiment,
    data: TaskData,
    plan: Experiment,
    count: int,
    storage: Storage,
    max_rebuilds: int = 0,
    warm: bool = True,
    objectives: Sequence[Objective] = (),
) -> Iterator[tuple[Any, Prepared]]:
    """`open_lanes`, and what the runs of `experiment`'s task and teacher share, made while the lanes start. objectives: as of
    prepare_on_ray."""
    teacher = teacher_on_ray(experiment, data, storage)
    if needs_places(experiment):
        # The pass can't do without what the lanes will hold: it runs before them, and below its outputs are in the cache.
        prepare_on_ray(experiment, teacher, data, storage, False, objectives)
    with open_lanes(name, plan, count, storage, max_rebuilds, warm) as board:
        yield board, prepare_on_ray(experiment, teacher, data, storage, True, objectives)


def _keep_open(board: Any, name: str, storage: Storage, folder: str) -> None:
    """A lane, opened again where it was lost or is to have another shape, until the board doesn't need it any more."""
    try:
        for opening in itertools.count():
            plan = ray.get(board.open_lane.remote(name))
            if plan is None:
                return
            try:
                _fit_lane(LaneSetup(name, board, plan, storage.root), f"{name}-{opening}", folder)
            except Exception as err:  # whatever it is, the runs that wait for this lane must hear of it
                reason = (str(err).strip().splitlines() or [repr(err)])[-1]
                log.warning("%s was lost: %s", name, reason)
                _remove_placement(ray.get(board.lane_lost.remote(name, reason)))
    except RayActorError:
        log.warning("%s ends, since its board was lost", name)


def _remove_placement(group: str | None) -> None:
    if group is not None and placement_group_table().get(group, {}).get("state") not in (None, "REMOVED"):
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group)))


def _fit_lane(setup: LaneSetup, name: str, folder: str) -> None:
    """Ray Train as long as the lane lives. Raises ray.train.TrainingFailedError after `train.max_failures` lost workers."""
    train = setup.plan.train
    trainer_class(train.workers)(
        lane_worker,
        train_loop_config={"setup": setup},
        scaling_config=ScalingConfig(
            num_workers=train.workers,
            use_gpu=train.gpus_per_worker > 0,
            resources_per_worker=cluster.worker_resources(setup.plan),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=folder,
            callbacks=[RememberPlacement(setup.board, setup.name)],
            failure_config=FailureConfig(max_failures=train.max_failures, controller_failure_limit=START_ATTEMPTS),
        ),
        **backend(train.workers),
    ).fit()


class WithoutHelpers:
    """A trainer that doesn't start the actors of Ray Train that a lane has no use for: two processes a lane.

    One deals out data sets, and a lane has none. The other removes placement groups that a lost controller leaves, but it finds that
    out from the dashboard, which need not run; see RememberPlacement.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        # By name: these are Ray's internals, and where they are called otherwise a lane works as well, with a process more.
        unused = ("DatasetsCallback", "PlacementGroupCleanerCallback")
        return [each for each in callbacks if type(each).__name__ not in unused]


class LaneTrainer(WithoutHelpers, DataParallelTrainer):
    """For a lane of one worker: neither its controller nor the caller imports torch."""


def trainer_class(workers: int) -> type[DataParallelTrainer]:
    """TorchTrainer where workers must talk to each other."""
    if workers == 1:
        return LaneTrainer
    from ray.train.torch import TorchTrainer

    class LaneTorchTrainer(WithoutHelpers, TorchTrainer):
        pass

    return LaneTorchTrainer


def backend(workers: int) -> dict[str, Any]:
    """Workers of a lane that has nothing to do wait for each other in a collective call."""
    if workers == 1:
        return {}
    from ray.train.torch import TorchConfig

    return {"torch_config": TorchConfig(timeout_s=IDLE_TIMEOUT_S)}
