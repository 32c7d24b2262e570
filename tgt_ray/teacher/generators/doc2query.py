"""Doc2query writes queries for documents with a model that was trained to do so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import Temperature
from tgt_ray.teacher.generators.writing import Writing

if TYPE_CHECKING:
    from torch import nn


class Doc2QueryGenerator(Writing):
    """Reads a document and writes a query that it answers (doc2query, Nogueira et al. 2019, arXiv 1904.08375).

    The model is an encoder-decoder. GPL (arXiv 2112.07577) uses such queries to train for retrieval.
    """

    type: Literal["doc2query"] = "doc2query"
    starts_from: ClassVar[tuple[str, ...]] = ("sources",)
    prefix: str = Field("", description="text put before each document, as the model was trained to read it")
    max_tokens: int = Field(
        256, ge=4, le=2**20, description="largest number of tokens of a document; longer documents are cut"
    )
    max_new_tokens: int = Field(32, ge=1, le=2**20, description="largest number of tokens of a query")
    temperature: Temperature = Field(
        1.0, description="temperature of the draw of tokens; higher gives more varied, less likely queries"
    )
    top_k: int = Field(
        10,
        ge=0,
        le=2**20,
        description="each token is drawn from this many most likely ones; higher gives more variety; 0: from all",
    )

    @property
    def longest_text(self) -> int | None:
        return self.max_new_tokens

    def tokens(self, spec: InputSpec, key: str = "teacher.generator") -> Any:
        tokens = super().tokens(spec, key)
        tokens.prefix = self.prefix
        return tokens

    def build(self, spec: InputSpec) -> nn.Module:
        from transformers import AutoModelForSeq2SeqLM

        from tgt_ray.models.text.query_writer import QueryWriter

        body, tokens = self._load(AutoModelForSeq2SeqLM), self.tokens(spec)
        draws = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "top_k": self.top_k}
        return QueryWriter(body, tokens, spec.shape[0], draws, "teacher.generator")
