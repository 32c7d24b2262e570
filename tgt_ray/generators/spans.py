"""Queries from documents, where no model is at hand that was trained to write them (`tgt_ray.generators.doc2query`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tgt_ray.generators.base import Untrained

if TYPE_CHECKING:
    from torch import nn


class SpanGenerator(Untrained):
    """A few words of a document that follow each other, within a sentence, stand for a query that it answers (our choice, as the spans of
    ICT, Lee et al. 2019, arXiv 1906.00300, and of Contriever, arXiv 2112.09118, do for sentences and passages). Where there is no white
    space between words, as in Japanese, two characters stand for a word (our choice)."""

    type: Literal["spans"] = "spans"
    modality: ClassVar[str] = "text"
    keeps_pairs: ClassVar[bool] = False
    starts_from_documents: ClassVar[bool] = True
    least_words: int = Field(4, ge=1, description="of a span")
    most_words: int = Field(12, ge=1, description="of a span")

    @model_validator(mode="after")
    def _in_order(self) -> SpanGenerator:
        if self.least_words > self.most_words:
            raise ValueError(f"least_words {self.least_words} is more than most_words {self.most_words}")
        return self

    def load_weights(self, model: nn.Module) -> dict[str, Any]:
        return {
            **super().load_weights(model),
            "queries": "spans: words of documents that follow each other; no trained query generator was used",
        }

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        from tgt_ray.models.spans import Spans

        return Spans(input_shape[0], self.least_words, self.most_words)
