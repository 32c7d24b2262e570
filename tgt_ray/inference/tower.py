"""The model that embeds documents as the teacher did, beside a student that embeds queries alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from tgt_ray.core import formats, records
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import OTHER, Damaged, checksum
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.text.encoder import TextBackbone, kept_architecture, rebuilt_backbone
from tgt_ray.models.weights import load_strictly, read_safetensors, whole
from tgt_ray.teacher.labelers import DualEncoderLabeler

#: The folder of a tower in that of a student, and its files.
FOLDER, WEIGHTS_FILE, TOKENIZER_FILE, ABOUT_FILE = "document_tower", "tower.safetensors", "tokenizer.json", "tower.json"
#: Largest difference of an embedding's numbers from those that the student was trained with. The same weights give
#: others on another processor, by rounding alone.
LARGEST_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class DocumentTower:
    """Embeds documents: rows of bytes (B, width) -> (B, E).

    - normalize: whether embeddings are brought to length 1
    """

    backbone: TextBackbone
    normalize: bool

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> Tensor:
        embedded: Tensor = self.backbone(rows.to(next(self.backbone.parameters()).device)).float()
        return F.normalize(embedded, dim=1) if self.normalize else embedded


def tower_of(experiment: Experiment, spec: InputSpec) -> DocumentTower:
    """Load the model that has embedded the documents of an experiment.

    - raises ConfigError: where its teacher is no dual encoder, or can't be loaded here
    """
    labeler = experiment.teacher.labeler
    if not isinstance(labeler, DualEncoderLabeler):
        raise ConfigError(
            f"--with-document-tower: the teacher is of type '{labeler.type}'; expected a dual_encoder, which embeds"
            " documents"
        )
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, and then replaced
        model: Any = labeler.build(spec, 1)
        labeler.load_body(model.backbone, "teacher.labeler")
        backbone = labeler.documents_encoder(model)
    return DocumentTower(backbone.eval().requires_grad_(False), model.normalize)


def check_same(tower: DocumentTower, rows: Tensor, expected_NE: np.ndarray) -> float:
    """Compare a tower's embeddings with those that a student was trained with.

    - rows: documents, (N, width)
    - expected_NE: their embeddings
    - returns: the largest difference
    - raises ConfigError: where they differ by more than rounding
    """
    difference = float(np.abs(tower(rows).numpy() - expected_NE).max())
    if not difference <= LARGEST_DIFFERENCE:
        raise ConfigError(
            f"--with-document-tower: the teacher's model here embeds documents otherwise than in training (by up to"
            f" {difference:.2g}); restore the model that the student was trained with"
        )
    return difference


def write_tower(tower: DocumentTower, student: Storage) -> None:
    """Write a tower into the folder of a student."""
    storage = student.within(FOLDER)
    tokens = tower.backbone.tokens
    tokenizer = tokens.tokenizer.backend_tokenizer.to_str().encode()
    about = {
        formats.KEY: formats.FORMATS["document_tower"],
        "architecture": kept_architecture(tower.backbone),
        "normalize": tower.normalize,
        "prefix": tokens.prefix,
        "tokenizer_checksum": checksum(tokenizer),
    }
    storage.write(safetensors.torch.save(whole(tower.backbone.state_dict())), WEIGHTS_FILE)
    storage.write(tokenizer, TOKENIZER_FILE)
    storage.write((json.dumps(about, indent=2) + "\n").encode(), ABOUT_FILE)


def read_tower(student: Storage, device: str) -> DocumentTower | None:
    """Read the tower in the folder of a student; None where it has none."""
    storage = student.within(FOLDER)
    if not storage.exists(ABOUT_FILE):
        return None
    about = records.read_json(storage, ABOUT_FILE)
    formats.check("document_tower", about, storage.where(ABOUT_FILE), "use the version that has written it")
    tokenizer = storage.read(TOKENIZER_FILE)
    if about["tokenizer_checksum"] != checksum(tokenizer):
        raise Damaged.of(storage.where(TOKENIZER_FILE), OTHER)
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, and then replaced
        backbone = rebuilt_backbone(about["architecture"], tokenizer.decode(), "document_tower")
    backbone.tokens.prefix = about["prefix"]
    load_strictly(backbone, read_safetensors(storage.read(WEIGHTS_FILE), storage.where(WEIGHTS_FILE)), storage.shown)
    return DocumentTower(backbone.to(device).eval().requires_grad_(False), about["normalize"])
