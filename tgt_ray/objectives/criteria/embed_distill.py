"""Computes the loss of `tgt_ray.objectives.embed_distill`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgt_ray.core.batch import Loss
from tgt_ray.core.signals.values import Ragged
from tgt_ray.models.numerics import at_least_float32, kl_rows
from tgt_ray.objectives.criteria.base import Criterion


class EmbedDistillCriterion(Criterion):
    """Computes the formula of `tgt_ray.objectives.embed_distill.EmbedDistill`.

    Everything is float32: half precision can't tell the scores of many documents apart.

    - dim: D, size of the student's embeddings
    - documents_KE: the teacher's embeddings of all documents
    - own_documents: whether the student embeds documents as well
    """

    def __init__(
        self,
        dim: int,
        documents_KE: np.ndarray,
        alpha: float,
        temperature: float,
        student_temperature: float,
        embedding_weight: float,
        score_weight: float,
        own_documents: bool = False,
    ):
        super().__init__(nn.Linear(dim, documents_KE.shape[1]))
        # Not buffers: so checkpoints and snapshots leave them out, and data parallelism does not send them at each
        # step.
        self.teacher_documents = torch.from_numpy(documents_KE.copy())
        self.documents = self.teacher_documents  # what is ranked
        self.own_documents = own_documents
        # The median, since the embedding of an empty document may be zero.
        self.unit = bool(abs(np.median(np.linalg.norm(documents_KE, axis=1)) - 1) < 1e-3)
        self.alpha, self.temperature, self.student_temperature = alpha, temperature, student_temperature
        self.embedding_weight, self.score_weight = embedding_weight, score_weight
        #: Read by `rows_at_once`: fewer rows are taken together where each has many scores.
        self.largest_shape = (len(documents_KE),)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EmbedDistillCriterion:
        super()._apply(fn, recurse)
        shared = self.documents is self.teacher_documents
        self.teacher_documents = fn(self.teacher_documents)
        self.documents = self.teacher_documents if shared else fn(self.documents)
        return self

    def embed(self, embedding_BD: Tensor) -> Tensor:
        """Project the student's embeddings into the teacher's space, (B, E)."""
        with torch.autocast(embedding_BD.device.type, enabled=False):
            out = self.head(at_least_float32(embedding_BD))
            return F.normalize(out, dim=1) if self.unit else out

    def scores(self, embedding_BD: Tensor) -> Tensor:
        """Compute the scores of all documents, (B, K)."""
        with torch.autocast(embedding_BD.device.type, enabled=False):
            return self.embed(embedding_BD) @ self.documents.T / self.temperature

    def remember(self, embedded: Tensor) -> None:
        """Rank the documents as the student embeds them from now on."""
        self.documents = embedded

    def ranked(self) -> Tensor:
        return self.documents

    def forward(
        self, embedding_BD: Tensor, labels: Tensor, teacher: Mapping[str, Any], further: Mapping[str, Tensor]
    ) -> Loss:
        with torch.autocast(embedding_BD.device.type, enabled=False):
            own_CE = self.embed(further["documents"]) if self.own_documents else None
            teacher_BE = at_least_float32(teacher["embedding"])
            student_BE, answers = self.embed(embedding_BD), teacher["answers"]
            return self._loss(student_BE, labels, teacher_BE, teacher["document"], answers, own_CE)

    def _loss(
        self,
        student_BE: Tensor,
        labels: Tensor,
        teacher_BE: Tensor,
        documents_B: Tensor,
        answers: Ragged,
        own_CE: Tensor | None,
    ) -> Loss:
        """Compute the loss from embeddings in the teacher's space.

        - documents_B: the document of each row
        - answers: all documents that answer each row
        - own_CE: the student's embeddings of the candidates; None where it embeds no documents
        """
        real = len(labels)
        candidates, place = documents_B.unique(return_inverse=True)
        documents_CE = self.teacher_documents[candidates]
        student_BC = student_BE @ (documents_CE if own_CE is None else own_CE).T
        distance = torch.linalg.vector_norm(teacher_BE - student_BE, dim=1)
        kl = kl_rows(teacher_BE @ documents_CE.T, student_BC, self.temperature)
        # Sums over the rows of the batch: each kind of row counts by its share, also where a batch has none of a kind.
        negatives = student_BC.masked_fill(other_answers(candidates, place, answers), -torch.inf)
        ce_sum = F.cross_entropy(negatives[:real] / self.student_temperature, place[:real], reduction="none").sum()
        taught = self.embedding_weight * distance + self.score_weight * kl
        value = ((1 - self.alpha) * ce_sum + self.alpha * taught[:real].sum() + taught[real:].sum()) / len(taught)
        parts = {"ce": ce_sum.detach() / max(real, 1)}
        for name, rows in (("distance", distance.detach()), ("kl", kl.detach())):
            parts[f"{name}_real"] = rows[:real].sum() / max(real, 1)
            parts[f"{name}_synthetic"] = rows[real:].sum() / max(len(rows) - real, 1)
        if own_CE is not None:
            apart = torch.linalg.vector_norm(documents_CE - own_CE, dim=1).mean()
            taught_share = (self.alpha * real + len(taught) - real) / len(taught)
            value = value + taught_share * self.embedding_weight * apart
            parts["distance_documents"] = apart.detach()
        return Loss(value, parts)


def other_answers(candidates_C: Tensor, place_B: Tensor, answers: Ragged) -> Tensor:
    """Mark the candidates that answer a row in addition to its own document, (B, C) bool.

    - candidates_C: numbers of documents, in rising order
    - place_B: the place of each row's own document among them
    - answers: the documents that answer each row, B lists
    """
    rows = torch.arange(len(place_B), device=place_B.device)
    row = rows.repeat_interleave(answers.lengths)
    at = torch.searchsorted(candidates_C, answers.values).clamp_max(len(candidates_C) - 1)
    there = candidates_C[at] == answers.values
    mask = torch.zeros(len(place_B), len(candidates_C), dtype=torch.bool, device=place_B.device)
    mask[row[there], at[there]] = True
    mask[rows, place_B] = False
    return mask
