"""Tasks define the rows of each split, the models' inputs and what is measured.

To add one, write one file here with its config type, and add the type to `AnyTask`.
"""

from __future__ import annotations

from typing import Annotated

from tgt_ray.core.config import OneOf
from tgt_ray.tasks.base import Table, Task, TaskData
from tgt_ray.tasks.calibration import with_calibration
from tgt_ray.tasks.image_classification import ImageClassification
from tgt_ray.tasks.inputs import LazyInputs, inputs_of
from tgt_ray.tasks.retrieval import Retrieval
from tgt_ray.tasks.text_classification import TextClassification

AnyTask = Annotated[Task, OneOf(ImageClassification, TextClassification, Retrieval)]

__all__ = [
    "AnyTask",
    "ImageClassification",
    "LazyInputs",
    "Retrieval",
    "Table",
    "Task",
    "TaskData",
    "TextClassification",
    "inputs_of",
    "with_calibration",
]
