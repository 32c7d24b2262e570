"""Opens the student of a run, of a trial, or of a sweep."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import torch

from tgt_ray.core import formats, records
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import as_stored, validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import OTHER, Damaged, checksum
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.inference.preprocess import Images, Preprocess, Texts
from tgt_ray.inference.students import LoadedRetriever, LoadedStudent, Network
from tgt_ray.inference.tower import read_tower
from tgt_ray.models.text.encoder import TextBackbone
from tgt_ray.models.weights import load_strictly, read_safetensors
from tgt_ray.objectives import Facts
from tgt_ray.tasks import Retrieval
from tgt_ray.training.files import DOCUMENTS_FILE, STUDENT_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from tgt_ray.training.student import Student, rebuild_student

if TYPE_CHECKING:
    import pandas as pd
log = logging.getLogger(__name__)


def load_student(folder: str, device: str = "cpu") -> LoadedStudent | LoadedRetriever:
    """Open the student of a run, of a trial, of a sweep (its best one), or of an export.

    - folder: its folder, or a URI that pyarrow knows
    - device: of torch, that it runs on
    - raises ConfigError: where there is none, or one that an older version has written
    """
    storage = find(folder)
    known = _read_description(storage)
    if known.get("finished") is False:
        log.warning("%s: its run hasn't finished, so this is the student of its last checkpoint", storage.shown)
    with as_stored():
        experiment = validate(Experiment, known["experiment"], storage.where(STUDENT_FILE))
    spec = InputSpec(tuple(known["input_shape"]), _tokenizer(storage, known))
    shared: dict[str, Any] = {"experiment": experiment, "about": known, "folder": storage.shown}
    if experiment.task.has_documents:
        return _retriever(storage, known, experiment, spec, device, shared)
    facts = Facts(len(known["classes"]), np.array(known["class_counts"]), tuple(known["classes"]))
    student = _built(storage, known, experiment, spec, facts, device)
    return LoadedStudent(
        Network(student),
        _preprocess(experiment, spec.shape, student),
        spec.shape,
        experiment.task.modality,
        **shared,
        classes=tuple(known["classes"]),
        class_counts=np.array(known["class_counts"]),
        temperature=float(known.get("calibration", {}).get("temperature", 1.0)),
    )


def find(folder: str) -> Storage:
    """Return the folder that has a student's weights and their description: the one given, or the best one in it."""
    storage = Storage(folder)
    if not storage.exists(WEIGHTS_FILE):
        for inside in ("best", "checkpoint"):  # of a sweep; of a run that still trains, or was stopped
            if storage.exists(inside, WEIGHTS_FILE):
                storage = storage.within(inside)
                break
        else:
            raise ConfigError(_why_none(storage))
    if not storage.exists(STUDENT_FILE):
        raise ConfigError(
            f"{storage.shown}: has no {STUDENT_FILE}, since a version before 0.2.0 has written it; for a run, --resume"
            " adds it; train students of a sweep anew"
        )
    return storage


def _why_none(storage: Storage) -> str:
    if storage.exists("sweep.yaml"):
        return f"{storage.shown}: the sweep has no best student yet; wait for a trial to finish, or go on with --resume"
    if storage.exists("experiment.yaml"):
        return f"{storage.shown}: the run has written no student yet; wait for its first evaluation"
    return f"{storage.shown}: has no {WEIGHTS_FILE}; expected the folder of a run, a trial or a sweep"


def _read_description(storage: Storage) -> dict[str, Any]:
    known: dict[str, Any] = records.read_json(storage, STUDENT_FILE)
    formats.check("student", known, storage.where(STUDENT_FILE), "use the version that has written it")
    return known


def _built(
    storage: Storage, known: dict[str, Any], experiment: Experiment, spec: InputSpec, facts: Facts, device: str
) -> Student:
    """Build the student with its trained weights."""
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, and then replaced
        student = rebuild_student(experiment, spec, facts, known.get("architecture", {}))
    load_strictly(student, read_safetensors(storage.read(WEIGHTS_FILE), storage.where(WEIGHTS_FILE)), storage.shown)
    try:
        student.to(device)
    except (RuntimeError, AssertionError) as err:  # how torch says that it doesn't know a device, or has none
        own = " ".join(str(err).split())[:200]
        raise ConfigError(
            f"device: '{device}' can't be used ({own}); expected cpu, or cuda where there is one"
        ) from err
    return student.eval().requires_grad_(False)


def _preprocess(experiment: Experiment, shape: tuple[int, ...], student: Student) -> Preprocess:
    if experiment.task.modality != "text":
        return Images(shape)
    return _texts(shape[0], experiment.task.pair_column is not None, student)


def _texts(width: int, pairs: bool, student: Student) -> Texts:
    tokens = student.backbone.tokens if isinstance(student.backbone, TextBackbone) else None
    return Texts(width, pairs, tokens)


def _retriever(
    storage: Storage,
    known: dict[str, Any],
    experiment: Experiment,
    spec: InputSpec,
    device: str,
    shared: dict[str, Any],
) -> LoadedRetriever:
    table = _documents(storage, known)
    embeddings = np.array(table["embedding"].tolist(), np.float32)
    facts = Facts(len(table), np.ones(len(table), np.int64), fits={"head": embeddings})
    student = _built(storage, known, experiment, spec, facts, device)
    task = experiment.task
    assert isinstance(task, Retrieval)
    return LoadedRetriever(
        Network(student),
        _texts(spec.shape[0], False, student),
        spec.shape,
        task.modality,
        **shared,
        documents=table[["id", "text"]],
        document_embeddings=embeddings,
        embeds_documents=experiment.objective.lookup is not None,
        document_preprocess=_texts(task.document_bytes, False, student),
        tower=read_tower(storage, device),
    )


def _documents(storage: Storage, known: dict[str, Any]) -> pd.DataFrame:
    """Read the documents that a student of retrieval ranks, with the embeddings that it ranks them by."""
    if not storage.exists(DOCUMENTS_FILE):
        why = (
            "since its run hasn't finished; load a run that has"
            if known.get("finished") is False
            else "since a version before 0.2.0 has written it; train it anew"
        )
        raise ConfigError(f"{storage.shown}: has no {DOCUMENTS_FILE}, which a student of retrieval needs, {why}")
    return pq.read_table(io.BytesIO(storage.read(DOCUMENTS_FILE))).to_pandas()


def _tokenizer(storage: Storage, known: dict[str, Any]) -> str:
    """Read the JSON of a student's tokenizer; empty where it has none.

    - known: what `describe` has written
    """
    if not storage.exists(TOKENIZER_FILE):
        return ""
    content = storage.read(TOKENIZER_FILE)
    if known.get("tokenizer_checksum") not in (None, checksum(content)):
        raise Damaged.of(storage.where(TOKENIZER_FILE), OTHER)
    try:
        json.loads(content)
    except ValueError as err:  # a version without checksums has written it
        raise Damaged.of(storage.where(TOKENIZER_FILE), "it is cut off, or has other bytes than were written") from err
    return content.decode()
