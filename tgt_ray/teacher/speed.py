"""Measures how large and how fast a labeler is, so that students can be compared with it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tgt_ray.core import records
from tgt_ray.core.batch import rows_at_once
from tgt_ray.core.environment import cpu_model
from tgt_ray.core.storage import Storage
from tgt_ray.models.timing import TOGETHER, timed
from tgt_ray.tasks import Table, Task, inputs_of
from tgt_ray.teacher.fingerprints import FOLDER, stem
from tgt_ray.teacher.labelers.base import Labeler

log = logging.getLogger(__name__)

#: Weights from which on a model on a GPU isn't brought to the CPU to be timed, where it would take seconds for each row
#: (our choice).
MOST_WEIGHTS = 10**9


def rows_to_time(task: Task, table: Table, input_shape: tuple[int, ...]) -> Tensor:
    """Return the inputs of a table's first rows, (N, ...): as many as are given at once, where there are as many."""
    inputs: Tensor = inputs_of(task, table, input_shape)[torch.arange(min(TOGETHER, len(table)))]
    return inputs


def together(input_shape: tuple[int, ...], model: nn.Module) -> int:
    """Return how many rows to give a model at once: 64, and fewer where rows are large, as in evaluation."""
    return rows_at_once(input_shape, model, most=TOGETHER)


def speed_of_labeler(labeler: nn.Module, rows: Tensor, size: int | None = None) -> dict[str, Any]:
    """Measure a labeler on the CPU.

    - rows: inputs (N, ...)
    - size: of the file of its weights in bytes; None: it has none here, and the bytes of its weights are counted
    - returns: `bytes`, `parameters`, and what `timed` gives
    """
    parameters = sum(each.numel() for each in labeler.parameters())
    if any(each.device.type != "cpu" for each in labeler.parameters()):
        if parameters > MOST_WEIGHTS:
            raise ValueError(f"its {parameters:,} weights are on a GPU, and too many to be timed on the CPU")
        labeler = copy.deepcopy(labeler).to("cpu")
    weights = sum(each.nbytes for each in labeler.state_dict().values())
    found = timed(labeler, rows, together(tuple(rows.shape[1:]), labeler))
    return {"bytes": size or weights, "parameters": parameters, **found}


def with_speed(
    config: Labeler, labeler: nn.Module, record: dict[str, Any], rows: Callable[[], Tensor], storage: Storage
) -> dict[str, Any]:
    """Return a labeler's record with its `speed` on this processor, which is kept with its weights.

    No fault of a measurement may cost the teacher: it is said in the log.

    - rows: gives inputs (N, ...) to measure it on
    """
    if not config.live or record.get("speed", {}).get("cpu") == cpu_model():
        return record
    store, name = storage.within(FOLDER), stem("labeler", record)
    try:
        file = store.fs.get_file_info(store.path(f"{name}.safetensors"))
        speed = speed_of_labeler(labeler, rows(), file.size if config.stored else None)
        stored = records.find(store, "teacher", f"{name}.json")
        if stored is not None:
            records.write_json(store, {**stored, "speed": speed}, f"{name}.json")
    except Exception as err:
        log.warning("labeler: how fast it is, is not measured (%s: %s)", type(err).__name__, err)
        return record
    return {**record, "speed": speed}
