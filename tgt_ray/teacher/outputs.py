"""Computes what a teacher says of real rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tgt_ray.core.batch import InputRows, rows_at_once
from tgt_ray.core.progress import counted
from tgt_ray.core.signals.base import Seen, Signal, say
from tgt_ray.core.signals.values import Columns, concat_columns
from tgt_ray.teacher.module import Teacher


@torch.no_grad()
def teacher_outputs(
    teacher: Teacher,
    inputs: InputRows,
    labels: np.ndarray,
    input_shape: tuple[int, ...],
    signals: Sequence[Signal],
    most: int = 512,
) -> Columns:
    """Compute the columns of some signals for N real rows, in the order of the rows.

    - inputs: the rows' inputs, on the teacher's device
    - labels: (N,)
    - input_shape: shape of one row's inputs
    - most: the largest number of rows that the teacher gets at once
    """
    asked = any(signal.by == "labeler" for signal in signals)
    parts, first = [], 0
    generator = teacher.generator
    models = [teacher.labeler] if generator is None else [teacher.labeler, generator]
    there = inputs.split(rows_at_once(input_shape, *models, most=most))
    for some in counted(there, "asking the teacher about real rows", len(inputs), "rows"):
        seen = Seen(
            labels[first : first + len(some)],
            partial(_same, some),
            partial(_same, some),
            teacher.say(some) if asked else None,
            teacher.labeler,
            None if generator is None else generator.encode,
        )
        parts.append(say(signals, seen, len(some)))
        first += len(some)
    return concat_columns(parts)


def _same(inputs: Tensor) -> Tensor:
    return inputs
