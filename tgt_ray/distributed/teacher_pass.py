"""What the teacher says of real rows, by an actor pool of Ray Data."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray.train

from tgt_ray.core.storage import Storage
from tgt_ray.distributed.resources import check_teacher_fits, device_of, pool_resources
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.tasks import Table, TaskData, inputs_of

#: Of the teacher pass: rows that one of its actors takes at a time.
ROWS_PER_BLOCK = 4096


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
        check_teacher_fits(experiment)
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
