"""Measures how small and how fast students are, beside their teachers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.texts import SEPARATOR, to_bytes
from tgt_ray.inference.loading import load_student
from tgt_ray.inference.origin import Origin
from tgt_ray.inference.students import LoadedRetriever, LoadedStudent
from tgt_ray.models.timing import TOGETHER, timed
from tgt_ray.results import speed as words
from tgt_ray.teacher.fingerprints import FOLDER, stem
from tgt_ray.teacher.speed import speed_of_labeler, together
from tgt_ray.teacher.store import load_teacher
from tgt_ray.training.files import TOKENIZER_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    from tgt_ray.inference.export.rows import Data

log = logging.getLogger(__name__)

Student = LoadedStudent | LoadedRetriever
#: Words of made-up texts, which have 4 to 24 of them.
WORDS = "the of and a to in is that it was for on are with as his they be at one have this from or had by hot word but"
FEWEST_WORDS, MOST_WORDS = 4, 24


def speed_of(student: Student, rows: Tensor) -> dict[str, Any]:
    """Measure a student on the CPU, where it is.

    - rows: inputs (N, ...)
    - returns: `bytes` of the file of its weights, `parameters`, and what `tgt_ray.models.timing.timed` gives
    """
    storage = student.storage
    size = storage.fs.get_file_info(storage.path(WEIGHTS_FILE)).size
    found = timed(student.module, rows, together(student.input_shape, student.module))
    return {"bytes": size, "parameters": student.parameters, **found}


def measured(folder: str, rows: Callable[[], Tensor], teacher: dict[str, Any]) -> dict[str, Any]:
    """Measure the student of a run that is over, for its record.

    No fault of a measurement may cost the result: it is what the record says then.

    - folder: that has the student
    - rows: gives inputs (N, ...)
    - teacher: the teacher's record
    - returns: `student` and `against_teacher`, or `lacking`, why it can't be measured
    """
    try:
        student = speed_of(load_student(folder), rows())
    except Exception as err:
        return {"lacking": f"{type(err).__name__}: {err}"}
    return {"student": student, "against_teacher": words.against(student, teacher["labeler"].get("speed"))}


def compared(student: Student, origin: Origin, data: Data) -> dict[str, Any]:
    """Measure a student and its teacher's labeler, for an export.

    - returns: `student`; `teacher`, where it can be measured; `against_teacher`; and `inputs`, what both were given
    """
    rows, inputs = _rows(student, data)
    own, teacher = speed_of(student, rows), _teacher(student, origin, rows)
    return {
        "student": own,
        **({"teacher": teacher} if teacher is not None else {}),
        "against_teacher": words.against(own, teacher),
        "inputs": inputs,
    }


def _rows(student: Student, data: Data) -> tuple[Tensor, str]:
    """Return inputs to measure on, and what they are: how long texts are matters, and what images show doesn't."""
    if student.modality == "image":
        random = torch.Generator().manual_seed(0)
        return torch.rand(TOGETHER, *student.input_shape, generator=random), "random pixels"
    try:
        return data.inputs("validation", TOGETHER), "rows of the validation split"
    except ConfigError:
        if student.modality != "text":
            raise
    pairs = student.experiment.task.pair_column is not None
    return torch.from_numpy(to_bytes(made_up(TOGETHER, pairs), student.input_shape[0])), "made-up texts"


def made_up(count: int, pairs: bool) -> list[str]:
    """Return texts, or pairs of texts, of several lengths."""
    rng, words = np.random.default_rng(0), WORDS.split()
    sizes = rng.integers(FEWEST_WORDS, MOST_WORDS + 1, (count, 1 + pairs))
    return [SEPARATOR.join(" ".join(rng.choice(words, size)) for size in each) for each in sizes]


def _teacher(student: Student, origin: Origin, rows: Tensor) -> dict[str, Any] | None:
    """Measure the labeler where its weights are in the storage; else return what its record says."""
    record, config = origin.teacher, student.experiment.teacher.labeler
    if record is None or not config.live:
        return None
    recorded: dict[str, Any] | None = record.get("speed")
    if origin.storage is None:
        return recorded
    store = origin.storage.within(FOLDER)
    file = store.fs.get_file_info(store.path(f"{stem('labeler', record)}.safetensors"))
    if not file.size:
        return recorded
    classes = len(student.documents if isinstance(student, LoadedRetriever) else student.classes)
    spec = InputSpec(student.input_shape, _tokenizer(student))
    try:
        only = {"labeler": record, "generator": None}
        teacher = load_teacher(student.experiment.teacher, only, spec, classes, origin.storage)
    except (ConfigError, OSError) as err:
        log.warning("teacher: can't be loaded to be timed beside the student (%s)", err)
        return recorded
    return speed_of_labeler(teacher.labeler, rows, file.size)


def _tokenizer(student: Student) -> str:
    folder = student.storage
    return folder.read(TOKENIZER_FILE).decode() if folder.exists(TOKENIZER_FILE) else ""
