"""Takes spans of documents as queries, where no model is trained to write them (as for `doc2query`)."""

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
    """Takes a few consecutive words of a document, within a sentence, as a query that the document answers.

    This is our choice; ICT (Lee et al. 2019, arXiv 1906.00300) and Contriever (arXiv 2112.09118) take sentences and
    passages in the same way. Where there is no white space between words, as in Japanese, two characters count as a
    word (our choice). Nothing is trained, and no latents are moved, so it is for random exploration without
    sigma.
    """

    type: Literal["spans"] = "spans"
    modality: ClassVar[str] = "text"
    contextual: ClassVar[bool] = True
    samples: ClassVar[bool] = True
    only_samples: ClassVar[bool] = True
    keeps_pairs: ClassVar[bool] = False
    starts_from: ClassVar[tuple[str, ...]] = ("sources",)
    stored: ClassVar[bool] = False
    weights: None = Field(None, description="not used: there are no weights")
    least_words: int = Field(
        4, ge=1, le=2**20, description="smallest number of words of a span, where a sentence has as many"
    )
    most_words: int = Field(12, ge=1, le=2**20, description="largest number of words of a span")

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
