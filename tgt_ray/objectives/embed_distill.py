"""Distillation of a dual encoder into a smaller query encoder (EmbedDistill, Kim et al. 2023, arXiv 2301.12005)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from tgt_ray.core.signals.base import Signal
from tgt_ray.core.signals.of_anchor import DOCUMENT
from tgt_ray.core.signals.of_labeler import EMBEDDING
from tgt_ray.objectives.base import Lookup, Objective
from tgt_ray.objectives.facts import HEAD, Facts, Fit

if TYPE_CHECKING:
    from tgt_ray.objectives.criteria.base import Criterion


class EmbedDistill(Objective):
    """The student's encoder with a projection into the teacher's space. `document_encoder: teacher` ranks the teacher's frozen embeddings of
    documents d (the asymmetric student of EmbedDistill); `student` embeds documents as it does queries. Of a query x with its document y, teacher and student say t and s of it, both of length 1
    where the teacher's are; the candidates C are the documents of all queries of the batch (of a worker's part of it, where there are several), synthetic ones with
    their anchor's.

    Real rows: (1 - alpha) CE(y, softmax_C(s . d / student_temperature)) + alpha D; synthetic rows: D alone; each kind of row counts by
    its share of the batch.
    D = embedding_weight ||t - s||_2 + score_weight KL(softmax_C(t . d / temperature) || softmax_C(s . d / temperature)), where the student's
    scores are of its own documents if it embeds them. Then embedding_weight times the mean of ||d_t - d_s||_2 over C counts beside it, by
    the share of the batch that learns from the teacher.

    alpha 0 is training on labels with in-batch negatives; embedding_weight 0 is plain distillation of scores. The two terms of D are the
    paper's; our choices: candidates without mined negatives, weights and temperatures, and that the norm is not squared.
    """

    type: Literal["embed_distill"] = "embed_distill"

    alpha: float = Field(
        1.0, ge=0, le=1, description="share of the teacher's terms on real rows; 0 is training on labels alone"
    )
    temperature: float = Field(
        0.05, gt=0, description="of both sides' scores in the teacher's term; scores may be cosines"
    )
    student_temperature: float = Field(0.05, gt=0, description="of scores in the labels' term")
    embedding_weight: float = Field(1.0, ge=0, description="of the distance between embeddings; 0: scores alone")
    score_weight: float = Field(1.0, ge=0, description="of the divergence between scores of documents")

    document_encoder: Literal["teacher", "student"] = Field(
        "teacher",
        description="what embeds documents: the teacher, once and for all, or the student itself, whose max_tokens must then have room for"
        " them",
    )

    @property
    def signals(self) -> tuple[Signal, ...]:
        return EMBEDDING, DOCUMENT

    @property
    def fits(self) -> tuple[Fit, ...]:
        return (HEAD,)

    @property
    def lookup(self) -> Lookup | None:
        return Lookup("documents", DOCUMENT) if self.document_encoder == "student" else None

    @property
    def teaches_synthetic(self) -> bool:
        return bool(self.embedding_weight or self.score_weight)

    @model_validator(mode="after")
    def _something(self) -> EmbedDistill:
        if self.alpha > 0 and not (self.embedding_weight or self.score_weight):
            raise ValueError(
                "embedding_weight and score_weight are both 0, so the teacher has no say; give one of them"
            )
        return self

    def plain(self) -> dict[str, Any]:
        """Distillation of scores alone."""
        return {**self.model_dump(mode="json"), "embedding_weight": 0.0, "score_weight": self.score_weight or 1.0}

    def build(self, dim: int, facts: Facts) -> Criterion:
        from tgt_ray.objectives.criteria.embed_distill import EmbedDistillCriterion

        return EmbedDistillCriterion(
            dim,
            facts.fits[HEAD.name],
            self.alpha,
            self.temperature,
            self.student_temperature,
            self.embedding_weight,
            self.score_weight,
            self.document_encoder == "student",
        )
