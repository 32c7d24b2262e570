"""Floor 3: what all trials on one task and teacher share. Plain tables, so that it travels without torch."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tgt_ray.config import digest
from tgt_ray.storage import Storage
from tgt_ray.tasks import TaskData

#: Labels and encodes the rows of a table: -> {"logits": (N, K), "latent": (N, L)} float32, in the table's order.
TeacherPass = Callable[[pa.Table], dict[str, np.ndarray]]


@dataclass(frozen=True)
class StudentData:
    """What a student worker needs of a task: tables of the splits train (with the teacher's `logits`), validation and test."""

    tables: dict[str, pa.Table]
    input_shape: tuple[int, ...]
    num_classes: int


@dataclass(frozen=True)
class Anchors:
    """The real training rows as the generator sees them: ids (N,), labels (N,), latents (N, L) float32."""

    ids: np.ndarray
    labels: np.ndarray
    latents: np.ndarray


@dataclass(frozen=True)
class Prepared:
    """Data, anchors and the teacher's record; `fingerprints` names what they were made from."""

    student: StudentData
    anchors: Anchors
    teacher: dict[str, Any]
    fingerprints: dict[str, Any]


def prepare(data: TaskData, teacher: dict[str, Any], teacher_pass: TeacherPass, storage: Storage) -> Prepared:
    """Join the task's rows with what the teacher says of them, from the teacher cache or by `teacher_pass`."""
    train = data.tables["train"]
    fingerprints = {
        "data": data.fingerprints,
        "labeler": teacher["labeler"]["fingerprint"],
        "generator": teacher["generator"]["fingerprint"],
    }
    key = digest(data.fingerprints["train"], fingerprints["labeler"], fingerprints["generator"])
    cache, name = storage.within("teacher_cache"), f"{key}.parquet"
    if not cache.exists(name):
        outputs = {column: _lists(values) for column, values in teacher_pass(train).items()}
        buffer = io.BytesIO()
        pq.write_table(pa.table({"id": train["id"], "label": train["label"], **outputs}), buffer, compression="zstd")
        cache.write(buffer.getvalue(), name)
    cached = pq.read_table(pa.BufferReader(cache.read(name)))
    tables = {
        "train": train.append_column("logits", cached["logits"]),
        "validation": data.tables["validation"],
        "test": data.tables["test"],
    }
    anchors = Anchors(train["id"].to_numpy(), data.labels("train"), to_matrix(cached["latent"]))
    return Prepared(
        StudentData(tables, data.input_shape, data.num_classes),
        anchors,
        teacher,
        {**fingerprints, "teacher_cache": key},
    )


def _lists(matrix: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.astype(np.float32).ravel()), matrix.shape[1])


def to_matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A column of equally long lists as a float32 matrix."""
    lists = column.combine_chunks()
    return lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), -1).astype(np.float32)
