"""EmbedDistill distils a dual encoder into a smaller query encoder (Kim et al. 2023, arXiv 2301.12005)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from tgt_ray.core.config import Temperature
from tgt_ray.core.signals.base import Signal
from tgt_ray.core.signals.of_anchor import ANSWERS, DOCUMENT
from tgt_ray.core.signals.of_labeler import EMBEDDING
from tgt_ray.objectives.base import Lookup, Objective
from tgt_ray.objectives.facts import HEAD, Facts, Fit

if TYPE_CHECKING:
    from tgt_ray.objectives.criteria.base import Criterion


class EmbedDistill(Objective):
    """Distils a dual encoder into a smaller query encoder (EmbedDistill, Kim et al. 2023, arXiv 2301.12005).

    The student's embedding is projected into the teacher's space. With `document_encoder: teacher` it ranks the
    teacher's frozen embeddings of documents d (the asymmetric student of EmbedDistill); with `student` it embeds
    documents as it does queries.

    For a query x with document y, t and s are the embeddings of the teacher and of the student; both have length 1
    where the teacher's have. The candidates C are the documents of all queries of the batch, or of a worker's part of
    the batch where there are several workers. A synthetic query has the document of its anchor.

    Real rows: (1 - alpha) CE(y, softmax_N(s . d / student_temperature)) + alpha D. Synthetic rows: D. Each kind of row
    counts by its share of the batch. N are the candidates without the query's other answers, which are no negatives.

    D = embedding_weight ||t - s||_2
        + score_weight KL(softmax_C(t . d / temperature) || softmax_C(s . d / temperature)).

    If the student embeds documents, its scores use its own embeddings of them. Then embedding_weight times the mean of
    ||d_t - d_s||_2 over C is added, multiplied by the share of the batch that learns from the teacher.

    alpha 0 is training on labels with in-batch negatives; embedding_weight 0 is plain distillation of scores. The two
    terms of D are the paper's. Our choices: candidates without mined negatives and without other answers, weights and
    temperatures, and that the norm is not squared.
    """

    type: Literal["embed_distill"] = "embed_distill"

    alpha: float = Field(
        1.0, ge=0, le=1, description="share of the teacher's terms on real rows; 0 is training on labels alone"
    )
    temperature: Temperature = Field(
        0.05,
        description="temperature of the scores of teacher and student in the teacher's term; higher is softer; scores"
        " may be cosines",
    )
    student_temperature: Temperature = Field(0.05, description="temperature of the scores in the labels' term")
    embedding_weight: float = Field(
        1.0, ge=0, le=1e6, description="weight of the distance between embeddings; 0: only scores are distilled"
    )
    score_weight: float = Field(1.0, ge=0, le=1e6, description="weight of the divergence between scores of documents")

    document_encoder: Literal["teacher", "student"] = Field(
        "teacher",
        description="the model that embeds documents: the teacher, once, or the student itself, whose max_tokens must"
        " then be large enough for documents",
    )

    @property
    def signals(self) -> tuple[Signal, ...]:
        return EMBEDDING, DOCUMENT, ANSWERS

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
                "embedding_weight and score_weight are both 0, so nothing is learnt from the teacher; set one above 0"
            )
        return self

    def plain(self) -> dict[str, Any]:
        """Return the same objective without the distance between embeddings: distillation of scores."""
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
