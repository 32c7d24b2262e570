"""Queries from documents, where no model is at hand that was trained to write them (`tgt_ray.teacher.generators.doc2query`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tgt_ray.core.batch import InputSpec
from tgt_ray.teacher.generators.base import Generator

if TYPE_CHECKING:
    from torch import nn

    from tgt_ray.core.batch import InputRows


class SpanGenerator(Generator):
    """A few words of a document that follow each other, within a sentence, stand for a query that it answers (our choice, as the spans of
    ICT, Lee et al. 2019, arXiv 1906.00300, and of Contriever, arXiv 2112.09118, do for sentences and passages). Where there is no white
    space between words, as in Japanese, two characters stand for a word (our choice).

    Nothing is trained, and nothing is moved: for random exploration, whose sigma has no meaning here.
    """

    type: Literal["spans"] = "spans"
    modality: ClassVar[str] = "text"
    contextual: ClassVar[bool] = True
    samples: ClassVar[bool] = True
    only_samples: ClassVar[bool] = True
    keeps_pairs: ClassVar[bool] = False
    starts_from: ClassVar[tuple[str, ...]] = ("sources",)
    stored: ClassVar[bool] = False
    weights: None = Field(None, description="not used: there are none")
    least_words: int = Field(4, ge=1, description="of a span")
    most_words: int = Field(12, ge=1, description="of a span")

    @model_validator(mode="after")
    def _in_order(self) -> SpanGenerator:
        if self.least_words > self.most_words:
            raise ValueError(f"least_words {self.least_words} is more than most_words {self.most_words}")
        return self

    @property
    def external(self) -> bool:
        return True

    def load_weights(self, model: nn.Module) -> dict[str, Any]:
        return {
            "weights": "none",
            "queries": "spans: words of documents that follow each other; no trained query generator was used",
        }

    def build(self, spec: InputSpec) -> nn.Module:
        from tgt_ray.models.text.spans import Spans

        return Spans(spec.shape[0], self.least_words, self.most_words)

    def fit(
        self, model: nn.Module, inputs: InputRows, labeler: nn.Module, agreement: Callable[[], float]
    ) -> dict[str, Any]:
        raise NotImplementedError("there is nothing to train")
