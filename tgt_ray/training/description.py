"""A trained student in the hands of a user, without its experiment, its teacher or Ray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tgt_ray.core import formats, records
from tgt_ray.core.batch import InputSpec, rows_at_once
from tgt_ray.core.config import as_stored, validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import OTHER, Damaged, checksum
from tgt_ray.core.texts import SEPARATOR, clean, to_bytes
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.weights import load_strictly, read_safetensors
from tgt_ray.objectives import Facts
from tgt_ray.teacher.transfer_set import StudentData
from tgt_ray.training.files import STUDENT_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from tgt_ray.training.student import Student, make_student

if TYPE_CHECKING:
    import pandas as pd


def describe(experiment: Experiment, data: StudentData, tokenizer: bytes = b"") -> bytes:
    """What must be known beside the weights to build the student again, as JSON.

    - tokenizer: of a text student
    """
    known = {
        formats.KEY: formats.FORMATS["student"],
        "experiment": experiment.model_dump(mode="json"),
        "input_shape": list(data.input_shape),
    }
    if not experiment.task.has_documents:  # thousands of them, which are no part of the student
        known["classes"] = list(data.class_names) or [str(number) for number in range(data.num_classes)]
        # A correction for rare classes takes the prior from here.
        known["class_counts"] = data.class_counts.tolist()
    if tokenizer:  # whose file has no room for its own
        known["tokenizer_checksum"] = checksum(tokenizer)
    return (json.dumps(known, indent=2) + "\n").encode()


@dataclass(frozen=True)
class LoadedStudent:
    """A trained student.

    - module: backbone and head; `module.scores(inputs)` gives (B, K) scores of model inputs (B, ...)
    - classes: K names, in the order of the scores
    - input_shape: (C, H, W) of images; (bytes,) of texts
    - modality: of its inputs, "image" or "text"
    """

    module: Student
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    modality: str

    def predict(self, inputs: Sequence[str] | Sequence[tuple[str, str]] | np.ndarray | Tensor) -> pd.DataFrame:
        """The most likely class of each row, with its probability: columns `label` and `probability`.

        - inputs: texts, or pairs of texts; or images (N, C, H, W), or (N, H, W) where they are grey, as uint8 or as
          floats in [0, 1]
        - raises ConfigError: where images have another shape or other values
        """
        import pandas as pd

        probabilities = self.probabilities(inputs)
        best = probabilities.argmax(axis=1)
        return pd.DataFrame(
            {"label": [self.classes[k] for k in best], "probability": probabilities[np.arange(len(best)), best]}
        )

    @torch.no_grad()
    def probabilities(self, inputs: Sequence[str] | Sequence[tuple[str, str]] | np.ndarray | Tensor) -> np.ndarray:
        """The same for all classes, (N, K)."""
        rows = self._texts(inputs) if self.modality == "text" else self._images(inputs)
        parts = rows.split(rows_at_once(self.input_shape, self.module, most=256))
        device = next(self.module.parameters()).device
        scores = [self.module.scores(part.to(device)).float().softmax(dim=1).cpu() for part in parts]
        return torch.cat(scores).numpy()

    def _texts(self, texts: Any) -> Tensor:
        if isinstance(texts, str):
            raise ConfigError("inputs: one text; expected a list of texts, or of pairs of texts")
        joined = [clean(text) if isinstance(text, str) else SEPARATOR.join(map(clean, text)) for text in texts]
        return torch.from_numpy(to_bytes(joined, self.input_shape[0]))

    def _images(self, images: Any) -> Tensor:
        rows = torch.as_tensor(images)
        if rows.ndim == 3 and self.input_shape[0] == 1:
            rows = rows[:, None]
        if tuple(rows.shape[1:]) != self.input_shape:
            raise ConfigError(
                f"inputs: shape {tuple(rows.shape)}; expected (N, {', '.join(map(str, self.input_shape))})"
            )
        if rows.dtype == torch.uint8:
            return rows.float() / 255
        if not len(rows):
            return rows.float()
        low, high = float(rows.min()), float(rows.max())
        if not (rows.is_floating_point() and low >= 0 and high <= 1):
            raise ConfigError(
                f"inputs: {rows.dtype} from {low:g} to {high:g}; expected uint8, or floating-point values from 0 to 1"
            )
        return rows.float()


def load_student(folder: str, device: str = "cpu") -> LoadedStudent:
    """The student of a run, of a trial, or of a sweep (its best one).

    - folder: its folder, or a URI that pyarrow knows
    - raises ConfigError: where there is none, or one that an older version has written, or one of retrieval
    """
    storage = Storage(folder)
    if not storage.exists(WEIGHTS_FILE) and storage.exists("best", WEIGHTS_FILE):
        storage = storage.within("best")
    if not storage.exists(WEIGHTS_FILE):
        raise ConfigError(f"{storage.shown}: has no {WEIGHTS_FILE}; expected the folder of a run, a trial or a sweep")
    if not storage.exists(STUDENT_FILE):
        raise ConfigError(
            f"{storage.shown}: has no {STUDENT_FILE}, since a version before 0.2.0 has written it; for a run, --resume"
            " adds it; train students of a sweep anew"
        )
    known = records.read_json(storage, STUDENT_FILE)
    formats.check("student", known, storage.where(STUDENT_FILE), "use the version that has written it")
    with as_stored():
        experiment = validate(Experiment, known["experiment"], storage.where(STUDENT_FILE))
    if experiment.task.has_documents:
        raise ConfigError(
            f"{storage.shown}: its student embeds queries for an index of documents; load_student opens students of"
            " classes"
        )
    spec = InputSpec(tuple(known["input_shape"]), _tokenizer(storage, known))
    facts = Facts(len(known["classes"]), np.array(known["class_counts"]), tuple(known["classes"]))
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, and then replaced
        student = make_student(experiment, spec, facts, first_weights=False)
    load_strictly(student, read_safetensors(storage.read(WEIGHTS_FILE), storage.where(WEIGHTS_FILE)), storage.shown)
    student.to(device).eval().requires_grad_(False)
    return LoadedStudent(student, tuple(known["classes"]), spec.shape, experiment.task.modality)


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
