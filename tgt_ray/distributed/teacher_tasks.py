"""Pretrains and checks the teacher in one Ray task, and prepares what all trials share."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from tgt_ray.core.errors import OneLine
from tgt_ray.core.memory import keep_freed_memory
from tgt_ray.core.signals.base import Signal
from tgt_ray.core.signals.values import Columns
from tgt_ray.core.storage import Storage
from tgt_ray.data.base import Advance
from tgt_ray.distributed.cluster import largest_node_cpus, nodes
from tgt_ray.distributed.documents import embed_documents
from tgt_ray.distributed.resources import check_teacher_fits, device_of, needs_places, pool_resources
from tgt_ray.distributed.task_lines import run_and_say
from tgt_ray.distributed.teacher_pass import label_rows
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives import Objective
from tgt_ray.tasks import Table, TaskData
from tgt_ray.teacher.fingerprints import Begun
from tgt_ray.teacher.transfer_set import Prepared, rows_of_students
from tgt_ray.training import fit_check, states
from tgt_ray.training.preparation import found_teacher, join, make_teacher

log = logging.getLogger(__name__)


def begun_on_ray(experiment: Experiment, data: TaskData, checkpoints: Storage) -> Begun | None:
    """Read in a task, which imports torch, with which teacher a run was begun whose checkpoints these are.

    - returns: None where it has none yet, or where they are of an older version
    - raises ConfigError: where it can't go on, whichever the teacher is
    """
    if not states.any_in(checkpoints):
        return None
    begun = ray.remote(num_cpus=0, max_calls=1)(_begun)
    with _one_line():
        found: Begun | None = ray.get(begun.remote(experiment, checkpoints, rows_of_students(data)))
    return found


def _begun(experiment: Experiment, checkpoints: Storage, rows: dict[str, str]) -> Begun | None:
    from tgt_ray.training import checkpoint

    content = states.last_whole(checkpoints)
    return None if content is None else checkpoint.begun_with(content, experiment, experiment.train.workers, rows)


@contextmanager
def _one_line() -> Iterator[None]:
    """Raise what a task has raised for the user as it was."""
    try:
        yield
    except ray.exceptions.RayTaskError as err:
        if isinstance(err.cause, OneLine):
            raise err.cause from None
        raise


def teacher_on_ray(
    experiment: Experiment, data: TaskData, storage: Storage, begun: Begun | None = None
) -> dict[str, Any]:
    """Return the teacher's record with its `fit_check`.

    Where the storage doesn't have them, the teacher is pretrained and checked in one task.

    - begun: what is to go on with it
    """
    record = found_teacher(experiment, data, storage, begun) or _teacher_by_a_task(experiment, data, storage, begun)
    fit_check.judge(experiment, record["fit_check"])
    return record


def prepare_on_ray(
    experiment: Experiment,
    teacher: dict[str, Any],
    data: TaskData,
    storage: Storage,
    beside_lanes: bool,
    objectives: Sequence[Objective] = (),
    unchanged: bool = False,
) -> Prepared:
    """Prepare what all trials share, from the teacher cache or with a pass of an actor pool.

    - teacher: the teacher's record
    - beside_lanes: lanes are starting, and hold the resources that the pool would ask for
    - objectives: all that trials may have; none: only the experiment's
    - unchanged: whether a trial besides the experiment's may take anchors unchanged
    """

    def teacher_pass(asked: list[tuple[Table, tuple[Signal, ...]]]) -> list[Columns]:
        return label_rows(experiment, teacher, data, asked, storage, beside_lanes)

    return join(experiment, data, teacher, teacher_pass, storage, objectives, unchanged)


def _teacher_by_a_task(experiment: Experiment, data: TaskData, storage: Storage, begun: Begun | None) -> dict[str, Any]:
    # The task asks for one CPU, so that a busy cluster doesn't delay it, but has threads for a whole node, since
    # nothing else of this run works meanwhile. Where generators need GPUs or custom resources, it asks for a
    # generator's. Its process ends with it, which frees the memory that it holds on a GPU.
    special = needs_places(experiment)
    if special:
        check_teacher_fits(experiment, nodes())
    options = pool_resources(experiment) if special else {"num_cpus": 1}
    threads = max(1, int(largest_node_cpus()))
    log.info("teacher: prepared and checked now, in a task")
    reference = ray.put(data)
    with _one_line():
        if experiment.teacher.labeler.embeds_documents:
            look = ray.remote(max_calls=1)(_missing_documents).options(**options)
            file = ray.get(look.remote(experiment, reference, storage, begun))
            if file is not None:
                embed_documents(experiment, data, file, storage)
        record: dict[str, Any] = run_and_say(_make_teacher, options, experiment, reference, storage, threads, begun)
        return record


def _missing_documents(experiment: Experiment, data: TaskData, storage: Storage, begun: Begun | None) -> str | None:
    from tgt_ray.teacher.documents import missing
    from tgt_ray.teacher.store import LabelerMaker

    if begun is not None:  # before many documents are embedded for nothing
        LabelerMaker(experiment.teacher.labeler, experiment.task, data, storage, "cpu", begun).check_begun()
    return missing(experiment.teacher.labeler, data, storage)


def _make_teacher(
    experiment: Experiment, data: TaskData, storage: Storage, threads: int, begun: Begun | None
) -> dict[str, Any]:
    import torch

    keep_freed_memory()
    torch.set_num_threads(threads)
    return make_teacher(experiment, data, storage, device_of(experiment), begun)[1]


def run_on_ray(function: Callable[[Any, Advance], Any], parts: list[Any], advance: Advance) -> list[Any]:
    """Call `function` on each part, in tasks of Ray Data.

    - function: returns what JSON can hold
    - advance: is told of the units of each part that is done
    - returns: the results, in the order of the parts
    """
    import ray.data

    references = [(ray.put(part),) for part in parts]

    def work(row: dict[str, Any]) -> dict[str, Any]:
        (part,) = references[row["number"]]
        units: list[int] = []
        return {
            "number": row["number"],
            "result": json.dumps(function(ray.get(part), units.append)),
            "units": sum(units),
        }

    numbers = ray.data.from_items([{"number": number} for number in range(len(parts))], override_num_blocks=len(parts))
    done = numbers.map(work)
    done.context.enable_progress_bars = False
    results = {}
    for row in done.iter_rows():
        results[row["number"]] = row["result"]
        advance(row["units"])
    return [json.loads(results[number]) for number in range(len(parts))]
