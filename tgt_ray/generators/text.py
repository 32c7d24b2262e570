"""Generators of texts: denoising encoder-decoders, masked language models, and causal language models with a few examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tgt_ray.core.config import FolderOrName
from tgt_ray.core.errors import ConfigError
from tgt_ray.generators.base import Generator
from tgt_ray.labelers import Pretrain
from tgt_ray.models.backbones import corpus_of

if TYPE_CHECKING:
    from torch import nn

    from tgt_ray.core.batch import InputRows


class TextGeneratorPretrain(Pretrain):
    """Denoising: the model learns to give back texts of which some tokens are masked."""

    steps: int = Field(2000, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0, description="peak of AdamW; warm-up, then cosine decay")
    weight_decay: float = Field(0.01, ge=0)
    agreement: float | None = Field(
        None,
        gt=0,
        le=100,
        description="stop before `steps` when the labeler agrees with itself on this share of refilled validation texts, in percent",
    )
    check_every: int = Field(500, ge=1, description="steps between looks at the agreement")


class TextGenerator(Generator):
    """A generator of texts from transformers: from a folder or the hub, or a small one that is trained here."""

    modality: ClassVar[str] = "text"
    # Which tokens are masked is drawn anew each time, so it starts from texts and not from stored latents.
    contextual: ClassVar[bool] = True
    places: ClassVar[frozenset[str]] = frozenset({"weights", "path", "revision"})
    path: FolderOrName | None = Field(
        None,
        description="folder that `save_pretrained` wrote and all nodes see, `package:NAME/FOLDER`, or a name on the hub; absent: a small"
        " model with the task's vocabulary is trained here on the task's texts, by `pretrain`",
    )
    revision: str | None = Field(None, description="commit or tag on the hub")
    weights: None = Field(None, description="not used: the folder has them")
    max_tokens: int = Field(64, ge=4, description="of a text; longer ones are cut")
    pretrain: TextGeneratorPretrain = Field(default_factory=TextGeneratorPretrain)  # type: ignore[assignment]

    @property
    def external(self) -> bool:
        return self.path is not None

    @property
    def stored(self) -> bool:  # type: ignore[override]
        """Others may be gigabytes, which every process loads from where they are."""
        return self.path is None

    @property
    def longest_text(self) -> int | None:
        return self.max_tokens

    @property
    def vocabulary(self) -> str | None:
        """Where its tokens come from; None: the task's own."""
        return self.path

    def load_weights(self, model: nn.Module) -> dict[str, Any]:
        return {"weights": self.path}

    def facts(self, model: Any) -> dict[str, Any]:
        return model.facts()

    def fit(
        self, model: nn.Module, inputs: InputRows, labeler: nn.Module, agreement: Callable[[], float]
    ) -> dict[str, Any]:
        from tgt_ray.pretraining import fit_denoiser

        return fit_denoiser(model, inputs, agreement, self.pretrain)

    def tokens(self, input_shape: tuple[int, ...], key: str = "teacher.generator") -> Any:
        from tgt_ray.models.text.tokens import corpus_tokens, own_tokens

        if self.path is None:
            return corpus_tokens(corpus_of(input_shape), self.max_tokens, key)
        return own_tokens(self.path, self.revision, self.max_tokens, key)

    def _load(self, auto: Any, **options: Any) -> Any:
        """The model with its weights. ConfigError where some aren't there: the library would draw them at random."""
        import torch

        from tgt_ray.models.hub import from_hub

        assert self.path is not None
        options |= {"output_loading_info": True, "dtype": torch.float32}
        model, info = from_hub(auto.from_pretrained, self.path, self.revision, **options)
        if info["missing_keys"]:
            raise ConfigError(f"teacher.generator.path: {self.path} has no weights for '{min(info['missing_keys'])}'")
        return model


class Masking(TextGenerator):
    mask_rate: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="share of tokens that are masked before encoding; at least one of each text, unless 0",
    )
    temperature: float = Field(1.0, ge=0, description="of the draw of tokens; 0: the likeliest")
    layers: int = Field(2, ge=1, description="of a model that is trained here; of encoder and decoder each")
    width: int = Field(128, ge=8, description="of a model that is trained here")
    heads: int = Field(4, ge=1, description="of a model that is trained here")

    @model_validator(mode="after")
    def _heads_divide(self) -> Masking:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class Seq2SeqGenerator(Masking):
    """An encoder-decoder (BART and its kind): tokens are masked, noise moves the encoder's states, the decoder writes.

    BART as generator is the paper's (TGT, arXiv 2208.06825, for text), rates and decodings are our choice.
    """

    type: Literal["seq2seq"] = "seq2seq"
    decoding: Literal["parallel", "sample"] = Field(
        "parallel",
        description="parallel: one pass of the decoder fills the masked places, the other tokens stay; sample: the decoder writes a whole"
        " text, token by token",
    )

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        """Through soft tokens."""
        return self.decoding == "parallel"

    @property
    def keeps_pairs(self) -> bool:  # type: ignore[override]
        return self.decoding == "parallel"

    @model_validator(mode="after")
    def _fills_something(self) -> Seq2SeqGenerator:
        if self.decoding == "parallel" and not self.mask_rate:
            raise ValueError(
                "decoding 'parallel' fills masked places, and mask_rate is 0; give a rate, or decoding: sample"
            )
        return self

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        from transformers import AutoModelForSeq2SeqLM

        from tgt_ray.models.text.seq2seq import Seq2Seq, scratch_bart

        tokens = self.tokens(input_shape)
        body = (
            scratch_bart(tokens, self.layers, self.width, self.heads)
            if self.path is None
            else self._load(AutoModelForSeq2SeqLM)
        )
        return Seq2Seq(
            body, tokens, input_shape[0], self.mask_rate, self.temperature, self.decoding, "teacher.generator"
        )


class MaskedLMGenerator(Masking):
    """A masked language model (BERT and its kind) fills masked tokens in one pass; noise moves the word embeddings that it reads."""

    type: Literal["masked_lm"] = "masked_lm"
    differentiable: ClassVar[bool] = True
    mask_rate: float = Field(
        0.3, gt=0, lt=1, description="share of tokens that are masked and filled; at least one of each text"
    )

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        from transformers import AutoModelForMaskedLM

        from tgt_ray.models.text.masked_lm import MaskedLanguageModel, scratch_bert

        tokens = self.tokens(input_shape)
        body = (
            scratch_bert(tokens, self.layers, self.width, self.heads)
            if self.path is None
            else self._load(AutoModelForMaskedLM)
        )
        return MaskedLanguageModel(
            body,
            tokens,
            input_shape[0],
            self.mask_rate,
            self.temperature,
            "teacher.generator",
            trained_elsewhere=self.external,
        )


class Writing(TextGenerator):
    """Writes new texts, and is not trained here. Nothing is moved, so it is for random exploration, whose sigma has no meaning here."""

    only_samples: ClassVar[bool] = True
    keeps_pairs: ClassVar[bool] = False
    path: FolderOrName = Field(
        description="folder that `save_pretrained` wrote and all nodes see, `package:NAME/FOLDER`, or a name on the hub"
    )


class CausalLMGenerator(Writing):
    """A causal language model writes a new text after a few anchors (the setting of GAL, arXiv 2106.06168)."""

    type: Literal["causal_lm"] = "causal_lm"
    gguf_file: str | None = Field(
        None, description="of the folder: quantised weights, which need the packages gguf and accelerate"
    )
    max_tokens: int = Field(256, ge=4, description="of a prompt; what is longer loses its beginning")
    shots: int = Field(3, ge=1, description="texts of a prompt: the anchor, and other anchors before it")
    max_new_tokens: int = Field(48, ge=1, description="of a new text")
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(0.95, gt=0, le=1)

    @property
    def longest_text(self) -> int | None:
        return self.max_new_tokens

    def tokens(self, input_shape: tuple[int, ...], key: str = "teacher.generator") -> Any:
        from transformers import AutoTokenizer

        from tgt_ray.models.hub import from_hub
        from tgt_ray.models.text.tokens import tokens_of

        quantised = {"gguf_file": self.gguf_file} if self.gguf_file else {}
        return tokens_of(
            from_hub(AutoTokenizer.from_pretrained, self.path, self.revision, **quantised), self.max_tokens, key
        )

    def build(self, input_shape: tuple[int, ...]) -> nn.Module:
        from transformers import AutoModelForCausalLM

        from tgt_ray.models.text.causal_lm import CausalLanguageModel

        body = self._load(AutoModelForCausalLM, **({"gguf_file": self.gguf_file} if self.gguf_file else {}))
        tokens, most = self.tokens(input_shape), getattr(body.config, "max_position_embeddings", None)
        if most and self.max_tokens + self.max_new_tokens > most:
            raise ConfigError(
                f"teacher.generator.max_tokens: {self.max_tokens} and max_new_tokens {self.max_new_tokens} are more than the model's"
                f" {most} positions"
            )
        return CausalLanguageModel(
            body, tokens, input_shape[0], self.shots, self.max_new_tokens, self.temperature, self.top_p
        )
