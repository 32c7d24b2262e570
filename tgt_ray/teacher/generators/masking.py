"""These generators mask tokens of a text and fill them in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import LEAST_TEMPERATURE
from tgt_ray.core.errors import ConfigError
from tgt_ray.teacher.generators.text import TextGenerator

if TYPE_CHECKING:
    from torch import nn


def _zero_or_enough(temperature: float) -> float:
    if 0 < temperature < LEAST_TEMPERATURE:
        raise ValueError(f"is below {LEAST_TEMPERATURE:g}; give 0 for the most likely token")
    return temperature


class Masking(TextGenerator):
    """Masks tokens of a text and fills them in."""

    mask_rate: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="share of tokens that are masked before encoding, at least one of each text unless 0; higher"
        " changes more of a text",
    )
    temperature: Annotated[float, AfterValidator(_zero_or_enough)] = Field(
        1.0,
        ge=0,
        le=1e6,
        description="temperature of the draw of tokens; higher gives more varied, less likely texts; 0: the most likely"
        " token",
    )
    layers: int = Field(
        2,
        ge=1,
        le=1024,
        description="layers of a model that is trained here; of encoder and decoder each, where it has both",
    )
    width: int = Field(128, ge=8, le=2**16, description="width of a model that is trained here, a multiple of `heads`")
    heads: int = Field(4, ge=1, le=1024, description="attention heads of a model that is trained here")

    def without_effect(self) -> dict[str, str]:
        sizes = dict.fromkeys(("layers", "width", "heads"), "the model in path has its own size") if self.path else {}
        return {**super().without_effect(), **sizes}

    @model_validator(mode="after")
    def _heads_divide(self) -> Masking:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class Seq2SeqGenerator(Masking):
    """An encoder-decoder such as BART: tokens are masked, exploration moves the encoder's states, the decoder writes.

    BART as the generator for texts is from TGT (arXiv 2208.06825); rates and decodings are our choice.
    """

    type: Literal["seq2seq"] = "seq2seq"
    decoding: Literal["parallel", "sample"] = Field(
        "parallel",
        description="`parallel`: one pass of the decoder fills the masked places, and the other tokens stay; `sample`:"
        " the decoder writes a whole text, token by token",
    )

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        """Whether gradients flow to latents, which they do through soft tokens."""
        return self.decoding == "parallel"

    @property
    def keeps_pairs(self) -> bool:  # type: ignore[override]
        return self.decoding == "parallel"

    @model_validator(mode="after")
    def _fills_something(self) -> Seq2SeqGenerator:
        if self.decoding == "parallel" and not self.mask_rate:
            raise ValueError(
                "decoding 'parallel' fills masked places, but mask_rate is 0; set it above 0, or set decoding: sample"
            )
        return self

    def build(self, spec: InputSpec) -> nn.Module:
        from transformers import AutoModelForSeq2SeqLM

        from tgt_ray.models.text.seq2seq import Seq2Seq, scratch_bart

        tokens = self.tokens(spec)
        body = (
            scratch_bart(tokens, self.layers, self.width, self.heads)
            if self.path is None
            else self._load(AutoModelForSeq2SeqLM)
        )
        return Seq2Seq(
            body, tokens, spec.shape[0], self.mask_rate, self.temperature, self.decoding, "teacher.generator"
        )


class MaskedLMGenerator(Masking):
    """A masked language model such as BERT: masked tokens are filled in one pass, exploration moves word embeddings."""

    type: Literal["masked_lm"] = "masked_lm"
    differentiable: ClassVar[bool] = True
    mask_rate: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="share of tokens that are masked and filled, at least one of each text; higher changes more of it",
    )

    def build(self, spec: InputSpec) -> nn.Module:
        from transformers import AutoModelForMaskedLM

        from tgt_ray.models.text.masked_lm import MaskedLanguageModel, scratch_bert

        tokens = self.tokens(spec)
        body = (
            scratch_bert(tokens, self.layers, self.width, self.heads)
            if self.path is None
            else self._load(AutoModelForMaskedLM)
        )
        if body.config.is_encoder_decoder:
            raise ConfigError(
                f"teacher.generator.path: {self.path} writes with a decoder instead of filling in masked tokens in"
                " place; use teacher.generator.type seq2seq"
            )
        return MaskedLanguageModel(
            body,
            tokens,
            spec.shape[0],
            self.mask_rate,
            self.temperature,
            "teacher.generator",
            trained_elsewhere=self.external,
        )
