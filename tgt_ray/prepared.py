"""Floor 3: what all trials on one task and teacher share. Plain tables, so that it travels without torch."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tgt_ray import records
from tgt_ray.config import digest
from tgt_ray.experiment import TeacherConfig
from tgt_ray.generators import Generator
from tgt_ray.labelers import Labeler
from tgt_ray.storage import Storage
from tgt_ray.tasks import Table, TaskData

#: Of a run's checkpoint: all that resumes it, and the student alone.
STATE_FILE, WEIGHTS_FILE = "state.pt", "student.safetensors"
#: Beside them after the last step, where the task has one: its test metrics class by class.
CLASSES_FILE = "per_class.csv"
#: What a run or a best trial shows of all that lies in its checkpoint.
KEPT_FILES = (WEIGHTS_FILE, CLASSES_FILE, "gallery.parquet", "gallery.png", "gallery.html")

#: Labels and encodes the rows of tables: for each {"logits": (N, K), "latent": (N, L)} float32, in the table's order.
TeacherPass = Callable[[list[Table]], list[dict[str, np.ndarray]]]


@dataclass(frozen=True)
class StudentData:
    """What a student worker needs of a task: tables of the splits train (with the teacher's `logits`), validation and test, and
    where the task has them the unlabelled rows, of which only the gallery shows some.

    calibration: 1 - p(true class) of each validation row by the labeler.
    """

    tables: dict[str, Table]
    input_shape: tuple[int, ...]
    num_classes: int
    calibration: np.ndarray
    class_names: tuple[str, ...] = ()

    @cached_property
    def class_counts(self) -> np.ndarray:
        """(K,) rows of each class in the train split."""
        return np.bincount(self.tables["train"]["label"].to_numpy(), minlength=self.num_classes)


@dataclass(frozen=True)
class Anchors:
    """The real training rows as the generator sees them: ids (N,), labels (N,), latents (N, L) float32.

    Where the task has unlabelled rows they come after the others, with the labeler's first class as label.
    """

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


def teacher_fingerprint(role: str, config: Labeler | Generator, made_from: list[str]) -> str:
    """Of a model that is pretrained here. made_from: fingerprints of its data and, for a generator, of the labeler."""
    return digest(role, config.model_dump(mode="json", exclude={"weights"}), made_from)


def stored_teacher(config: TeacherConfig, data: TaskData, storage: Storage) -> dict[str, Any] | None:
    """The record of a pretrained teacher that the storage has, found without torch; None where there is something to do first."""
    store, out = storage.within("teachers"), {}
    made_from: list[str] = []
    for role, part in (("labeler", config.labeler), ("generator", config.generator)):
        if part.external:
            return None
        fingerprint = teacher_fingerprint(role, part, [data.fingerprints[part.pretrain.split], *made_from])
        if not store.exists(f"{role}-{fingerprint}.json"):
            return None
        out[role] = {**records.read_json(store, f"{role}-{fingerprint}.json"), "reused": True}
        made_from = [fingerprint]
    return out


def prepare(data: TaskData, teacher: dict[str, Any], teacher_pass: TeacherPass, storage: Storage) -> Prepared:
    """Join the task's rows with what the teacher says of them, from the teacher cache or by `teacher_pass`."""
    train = data.tables["train"]
    fingerprints = {
        "data": data.fingerprints,
        "labeler": teacher["labeler"]["fingerprint"],
        "generator": teacher["generator"]["fingerprint"],
    }
    splits = ["train", "validation", *(["unlabelled"] if "unlabelled" in data.tables else [])]
    # Of each split its own file: what depends on fewer things is reused more often.
    keys = {
        split: digest(data.fingerprints[split], fingerprints["labeler"], fingerprints["generator"]) for split in splits
    }
    cache = storage.within("teacher_cache")
    missing = [split for split in splits if not cache.exists(f"{keys[split]}.parquet")]
    for split, outputs in zip(
        missing, teacher_pass([data.tables[split] for split in missing]) if missing else [], strict=True
    ):
        table = data.tables[split]
        columns = {name: _lists(values) for name, values in outputs.items()}
        buffer = io.BytesIO()
        pq.write_table(pa.table({"id": table["id"], "label": table["label"], **columns}), buffer, compression="zstd")
        cache.write(buffer.getvalue(), f"{keys[split]}.parquet")
    cached, held_out, *more = (pq.read_table(pa.BufferReader(cache.read(f"{keys[split]}.parquet"))) for split in splits)
    tables = {
        "train": train.append_column("logits", cached["logits"]),
        "validation": data.tables["validation"],
        "test": data.tables["test"],
        **{split: data.tables[split] for split in splits if split == "unlabelled"},
    }
    calibration = 1 - true_class_probability(to_matrix(held_out["logits"]), data.labels("validation"))
    anchors = Anchors(train["id"].to_numpy(), data.labels("train"), to_matrix(cached["latent"]))
    for table in more:
        pseudo_labels = to_matrix(table["logits"]).argmax(axis=1)
        anchors = Anchors(
            np.concatenate([anchors.ids, table["id"].to_numpy()]),
            np.concatenate([anchors.labels, pseudo_labels]),
            np.concatenate([anchors.latents, to_matrix(table["latent"])]),
        )
    return Prepared(
        StudentData(tables, data.input_shape, data.num_classes, calibration, data.class_names),
        anchors,
        teacher,
        {**fingerprints, "teacher_cache": keys["train"]},
    )


def true_class_probability(logits_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    return shifted[np.arange(len(labels_N)), labels_N] / shifted.sum(axis=1)


def _lists(matrix: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.astype(np.float32).ravel()), matrix.shape[1])


def to_matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A column of equally long lists as a float32 matrix."""
    lists = column.combine_chunks()
    return lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), -1).astype(np.float32)
