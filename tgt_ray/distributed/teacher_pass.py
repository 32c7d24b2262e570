"""Labels real rows with the teacher, in an actor pool of Ray Data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import safetensors.numpy

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.progress import progress
from tgt_ray.core.signals.values import Columns, concat_columns, flat, unflat
from tgt_ray.core.storage import Storage
from tgt_ray.distributed.cluster import nodes
from tgt_ray.distributed.resources import check_teacher_fits, device_of, pool_resources
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.tasks import TaskData
from tgt_ray.teacher.transfer_set import Asked
from tgt_ray.training.preparation import ask_teacher

#: Rows that an actor labels in one call.
ROWS_PER_BLOCK = 4096


@dataclass(frozen=True)
class Setup:
    """What an actor of the pool needs.

    - record: the teacher's
    - asked: holds a reference to the tables, each with the signals that are wanted of its rows
    """

    experiment: Experiment
    record: dict[str, Any]
    spec: InputSpec
    num_classes: int
    storage: Storage
    asked: tuple[Any, ...]


class TeacherLabeler:
    """The pool's actor: it gets a table's number and a block's first row, and returns the signals in one buffer."""

    def __init__(self, setup: Setup):
        from tgt_ray.teacher.store import load_teacher

        experiment = setup.experiment
        self.experiment, self.shape, self.asked = experiment, setup.spec.shape, ray.get(setup.asked[0])
        self.device = device_of(experiment)
        teacher = load_teacher(experiment.teacher, setup.record, setup.spec, setup.num_classes, setup.storage)
        self.teacher = teacher.to(self.device)

    def __call__(self, places: dict[str, np.ndarray]) -> dict[str, Any]:
        (number,), (first,) = places["table"], places["first"]
        table, signals = self.asked[number]
        rows = table.slice(first, ROWS_PER_BLOCK)
        columns = ask_teacher(self.experiment, self.teacher, rows, self.shape, signals, self.device)
        return {"table": [number], "first": [first], "payload": [safetensors.numpy.save(flat(columns))]}


def label_rows(
    experiment: Experiment,
    record: dict[str, Any],
    data: TaskData,
    asked: Asked,
    storage: Storage,
    beside_lanes: bool,
) -> list[Columns]:
    """Return, for each table, the columns of the signals that are wanted of its rows, in the order of its rows.

    - record: the teacher's
    - asked: tables, each with the signals that are wanted of its rows
    - storage: the root that holds the teacher
    - beside_lanes: the pool asks for no resources, since lanes hold them and are idle until its pass is over
    """
    import ray.data

    if not beside_lanes:
        check_teacher_fits(experiment, nodes())
    resources = {"num_cpus": 0} if beside_lanes else pool_resources(experiment)
    # Not with from_arrow: Ray Data would inspect each table in a task of a whole CPU, which may have to wait for lanes.
    places = [
        {"table": number, "first": first}
        for number, (table, _) in enumerate(asked)
        for first in range(0, len(table), ROWS_PER_BLOCK)
    ]
    setup = Setup(experiment, record, data.spec, data.num_classes, storage, (ray.put(asked),))
    labelled = ray.data.from_items(places, override_num_blocks=len(places)).map_batches(
        TeacherLabeler,
        batch_size=1,
        fn_constructor_args=(setup,),
        compute=ray.data.ActorPoolStrategy(size=experiment.pool.actors),
        **resources,
    )
    labelled.context.enable_progress_bars = False
    found = {}
    with progress("asking the teacher about real rows", sum(len(table) for table, _ in asked), "rows") as phase:
        for row in labelled.iter_rows():
            found[row["table"], row["first"]] = row["payload"]
            phase.advance(min(ROWS_PER_BLOCK, len(asked[row["table"]][0]) - row["first"]))
    parts: list[list[Columns]] = [[] for _ in asked]
    for (number, _), payload in sorted(found.items()):
        parts[number].append(unflat(safetensors.numpy.load(payload)))
    return [concat_columns(each) for each in parts]
