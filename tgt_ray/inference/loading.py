"""Opens the student of a run, of a trial, or of a sweep."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import nn

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import as_stored, validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.kept import STUDENT_FILE, WEIGHTS_FILE, KeptStudent
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.inference.preprocess import Images, Preprocess, Texts
from tgt_ray.inference.students import LoadedRetriever, LoadedStudent, Network
from tgt_ray.inference.tower import read_tower
from tgt_ray.models.text.encoder import TextBackbone
from tgt_ray.models.weights import load_strictly, read_safetensors
from tgt_ray.objectives import Facts
from tgt_ray.tasks import Retrieval
from tgt_ray.training.files import DOCUMENTS_FILE
from tgt_ray.training.student import Student, rebuild_student

if TYPE_CHECKING:
    import pandas as pd


def load_student(folder: str, device: str = "cpu") -> LoadedStudent | LoadedRetriever:
    """Open the student of a run, of a trial, of a sweep (its best one), or of an export.

    - folder: its folder, or a URI that pyarrow knows
    - device: of torch, that it runs on
    - raises ConfigError: where there is none, or one that an older version has written
    """
    kept = KeptStudent.at(folder)
    storage, known = kept.storage, kept.known
    kept.say_unfinished()
    with as_stored():
        experiment = validate(Experiment, known["experiment"], storage.where(STUDENT_FILE))
    spec = InputSpec(kept.shape, kept.tokenizer)
    shared: dict[str, Any] = {"experiment": experiment, "about": known, "folder": storage.shown}
    shared["storage"] = storage.without_secrets()  # so that a pickle of the student has none
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
    return _texts(shape[0], experiment.task.pair_column is not None, student.backbone)


def _texts(width: int, pairs: bool, backbone: nn.Module, may_be_empty: bool = False) -> Texts:
    tokens = backbone.tokens if isinstance(backbone, TextBackbone) else None
    return Texts(width, pairs, tokens, may_be_empty)


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
    tower = read_tower(storage, device)
    embeds = student.backbone if tower is None else tower.backbone
    return LoadedRetriever(
        Network(student),
        _texts(spec.shape[0], False, student.backbone),
        spec.shape,
        task.modality,
        **shared,
        documents=table[["id", "text"]],
        document_embeddings=embeddings,
        embeds_documents=experiment.objective.lookup is not None,
        document_preprocess=_texts(task.document_bytes, False, embeds, may_be_empty=True),
        tower=tower,
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
