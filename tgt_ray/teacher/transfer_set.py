"""The transfer set: real rows with what the teacher says of them. Plain tables, so that it travels without torch."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import safetensors.numpy

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.storage import Storage
from tgt_ray.data import StoredTable
from tgt_ray.objectives import Facts, Objective, embeddings
from tgt_ray.objectives.embeddings import TeacherEmbeddings
from tgt_ray.tasks import Table, TaskData

log = logging.getLogger(__name__)

#: Labels and encodes the rows of tables: for each {"logits": (N, K), "latent": (N, L)} float32, in the table's order; no latents where
#: the generator is contextual; the first class "first": (N,) in place of logits where a task's answers are documents; and
#: "embedding": (N, E), the labeler's, where an objective needs it.
TeacherPass = Callable[[list[Table]], list[dict[str, np.ndarray]]]


@dataclass(frozen=True)
class StudentData:
    """What a student worker needs of a task: tables of the splits train (with the teacher's `logits`), validation and test, and
    where the task has them the unlabelled rows, of which only the gallery shows some.

    calibration: 1 - p(true class) of each validation row by the labeler; empty where its scores aren't kept. embedding_statistics: where
    an objective needs them. from_documents: whether explorers start from documents.
    """

    tables: dict[str, Table]
    input_shape: tuple[int, ...]
    num_classes: int
    calibration: np.ndarray
    class_names: tuple[str, ...] = ()
    embedding_statistics: TeacherEmbeddings | None = None
    from_documents: bool = False

    @property
    def anchor_tables(self) -> tuple[Table, ...]:
        """The rows that explorers start from."""
        if self.from_documents:
            return (written(self.tables["documents"]),)
        return tuple(self.tables[name] for name in ("train", "unlabelled") if name in self.tables)

    @property
    def facts(self) -> Facts:
        """What a criterion may know of this."""
        return Facts(self.num_classes, self.class_counts, self.calibration, self.embedding_statistics, self.class_names)

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


def prepare(
    data: TaskData,
    teacher: dict[str, Any],
    teacher_pass: TeacherPass,
    storage: Storage,
    objectives: Sequence[Objective] = (),
    from_documents: bool = False,
) -> Prepared:
    """Join the task's rows with what the teacher says of them, from the teacher cache or by `teacher_pass`.

    objectives: those that runs on this may have. from_documents: explorers start from the documents. ConfigError where of one type none fits the task and its teacher.
    """
    for what, encoder in teacher["labeler"].get("encoders", {}).items():
        log.info("teacher.labeler: %s", how_embedded(what, encoder))
    own = teacher["labeler"].get("own_classes", [])
    if own:
        pairs = ", ".join(f"'{theirs}' for '{ours}'" for theirs, ours in own[:SHOWN_CLASSES])
        log.info("teacher.labeler: its own classes: %s%s", pairs, ", ..." if len(own) > SHOWN_CLASSES else "")
    train = data.tables["train"]
    fingerprints = {
        "data": data.fingerprints,
        "labeler": teacher["labeler"]["fingerprint"],
        "generator": teacher["generator"]["fingerprint"],
    }
    more_anchors = "unlabelled" in data.tables and not from_documents
    splits = ["train", "validation", *(["unlabelled"] if more_anchors else [])]
    # Of each split its own file: what depends on fewer things is reused more often.
    keys = {
        split: digest(data.fingerprints[split], fingerprints["labeler"], fingerprints["generator"]) for split in splits
    }
    cache = storage.within("teacher_cache")
    missing = [split for split in splits if not cache.exists(f"{keys[split]}.parquet")]
    # Beside the train split's file, made only where an objective needs it.
    embedding_file = f"{keys['train']}.embedding.safetensors"
    needs_embedding = any(objective.needs_embedding for objective in objectives)
    asked = [*missing]
    if needs_embedding and not cache.exists(embedding_file) and "train" not in asked:
        asked.append("train")
    said = dict(zip(asked, teacher_pass([data.tables[split] for split in asked]) if asked else [], strict=True))
    for split in missing:
        table = data.tables[split]
        columns = {
            name: _lists(values) if values.ndim == 2 else values
            for name, values in said[split].items()
            if name != "embedding"
        }
        buffer = io.BytesIO()
        pq.write_table(pa.table({"id": table["id"], "label": table["label"], **columns}), buffer, compression="zstd")
        cache.write(buffer.getvalue(), f"{keys[split]}.parquet")
    cached, held_out, *more = (pq.read_table(pa.BufferReader(cache.read(f"{keys[split]}.parquet"))) for split in splits)
    scored = "logits" in cached.column_names
    tables = {
        "train": train.append_column("logits", cached["logits"]) if scored else train,
        **{name: table for name, table in data.tables.items() if name not in ("train", "full")},
    }
    statistics = None
    if needs_embedding:
        if not cache.exists(embedding_file):
            embedding_ND, head_KD = said["train"]["embedding"], labeler_head(teacher, storage)
            shape = (data.num_classes, embedding_ND.shape[1])
            check_head(head_KD, shape, teacher)
            fitted = (
                embeddings.fit(embedding_ND, to_matrix(cached["logits"]).argmax(axis=1), head_KD)
                if scored
                else TeacherEmbeddings(head_KD, embedding_ND)
            )
            cache.write(fitted.to_bytes(), embedding_file)
        statistics = TeacherEmbeddings.from_bytes(cache.read(embedding_file))
    calibration = (
        1 - true_class_probability(to_matrix(held_out["logits"]), data.labels("validation"))
        if scored
        else np.empty(0, np.float32)
    )
    # A generator that starts from the inputs themselves has no latents to keep.
    parts = [
        (train["id"], data.labels("train"), cached),
        *((table["id"], first_classes(table), table) for table in more),
    ]
    if from_documents:
        documents = written(data.tables["documents"])
        parts = [(documents["id"], documents["label"].to_numpy(), documents)]
    anchors = Anchors(
        np.concatenate([ids.to_numpy() for ids, _, _ in parts]),
        np.concatenate([labels for _, labels, _ in parts]),
        np.concatenate(
            [
                to_matrix(table["latent"]) if "latent" in table.column_names else np.empty((len(table), 0), np.float32)
                for _, _, table in parts
            ]
        ),
    )
    student = StudentData(
        tables, data.input_shape, data.num_classes, calibration, data.class_names, statistics, from_documents
    )
    check_objectives(objectives, student.facts)
    return Prepared(
        student,
        anchors,
        teacher,
        {**fingerprints, "teacher_cache": keys["train"]},
    )


def written(documents: Table) -> Table:
    """Those that queries can be made from: all but empty ones."""
    # A user's own task may call its texts otherwise.
    if isinstance(documents, StoredTable) or "document" not in documents.column_names:
        return documents
    return documents.filter(pc.not_equal(documents["document"], ""))


#: Classes that a log line names.
SHOWN_CLASSES = 10
#: Whether embeddings are made of length 1 is said by the user, by the model's files, or by neither.
SAID_BY = {
    "config": "by teacher.labeler.normalize",
    "files": "by its files",
    "default": "which its files don't say: by cosine, the default of sentence-transformers; teacher.labeler.normalize may say otherwise",
}
POOLED = {"cls": "the first token", "mean": "the mean of tokens", "model": "as its classifier pools"}


def how_embedded(what: str, encoder: dict[str, Any]) -> str:
    """One line of an encoder of sentences, as the labeler's record has it. what: it embeds."""
    return (
        f"{what} by {encoder['path']}: after the prompt '{encoder['prompt']}', up to {encoder['max_tokens']} tokens,"
        f" {POOLED[encoder['pooling']]}, {'of length 1' if encoder['normalize'] else 'not made of length 1'}"
        f" ({SAID_BY[encoder['normalize_said_by']]})"
    )


def labeler_head(teacher: dict[str, Any], storage: Storage) -> np.ndarray:
    """The weight (K, D) of the labeler's linear head, as it is stored. ConfigError where it has none."""
    record = teacher["labeler"]
    weights = safetensors.numpy.load(storage.read("teachers", f"labeler-{record['fingerprint']}.safetensors"))
    if "head.weight" not in weights:
        raise ConfigError(
            f"teacher.labeler.type: {record['config']['type']}: it has no linear layer `head`, which the objective needs; use another"
            " labeler or objective"
        )
    head: np.ndarray = weights["head.weight"]
    return head


def check_head(head_KD: np.ndarray, wanted: tuple[int, int], teacher: dict[str, Any]) -> None:
    """ConfigError where embeddings aren't what the labeler's head sees. wanted: classes, numbers of an embedding."""
    if head_KD.shape != wanted:
        raise ConfigError(
            f"teacher.labeler.type: {teacher['labeler']['config']['type']}: the weight of its `head` is {list(head_KD.shape)}, but it"
            f" gives {wanted[0]} logits and embeddings of {wanted[1]} numbers; the objective needs the embedding that its head sees"
        )


def first_classes(table: pa.Table) -> np.ndarray:
    """(N,) the labeler's first class of rows in the teacher cache."""
    if "first" in table.column_names:
        return table["first"].to_numpy()
    return to_matrix(table["logits"]).argmax(axis=1)


def check_objectives(objectives: Sequence[Objective], facts: Facts) -> None:
    """ConfigError where of one type none fits. Where some do, the trials of the others fail with their reason."""
    refused: dict[str, ConfigError] = {}
    fitting: set[str] = set()
    for objective in objectives:
        try:
            objective.check(facts)
            fitting.add(objective.type)
        except ConfigError as err:
            refused.setdefault(objective.type, err)
    for kind, reason in refused.items():
        if kind not in fitting:
            raise reason


def true_class_probability(logits_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    return shifted[np.arange(len(labels_N)), labels_N] / shifted.sum(axis=1)


def _lists(matrix: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.astype(np.float32).ravel()), matrix.shape[1])


def to_matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A column of equally long lists as a float32 matrix."""
    lists = column.combine_chunks()
    return lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), -1).astype(np.float32)


def log_teacher(prepared: Prepared) -> None:
    for role in ("labeler", "generator"):
        about = prepared.teacher[role]
        source = about.get("weights") or f"pretrained on the '{about.get('pretrained_on')}' split"
        how = "reused" if about["reused"] else f"made in {about['seconds']:.1f} s" if "seconds" in about else "loaded"
        log.info("%s %s: %s, %s", role, about["fingerprint"], source, how)
