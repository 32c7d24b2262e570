"""Generators that write new texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import FolderOrName
from tgt_ray.core.errors import ConfigError
from tgt_ray.teacher.generators.text import TextGenerator

if TYPE_CHECKING:
    from torch import nn


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

    def tokens(self, spec: InputSpec, key: str = "teacher.generator") -> Any:
        from transformers import AutoTokenizer

        from tgt_ray.models.hub import from_hub
        from tgt_ray.models.text.tokens import tokens_of

        quantised = {"gguf_file": self.gguf_file} if self.gguf_file else {}
        return tokens_of(
            from_hub(AutoTokenizer.from_pretrained, self.path, self.revision, **quantised), self.max_tokens, key
        )

    def build(self, spec: InputSpec) -> nn.Module:
        from transformers import AutoModelForCausalLM

        from tgt_ray.models.text.causal_lm import CausalLanguageModel

        body = self._load(AutoModelForCausalLM, **({"gguf_file": self.gguf_file} if self.gguf_file else {}))
        tokens, most = self.tokens(spec), getattr(body.config, "max_position_embeddings", None)
        if most and self.max_tokens + self.max_new_tokens > most:
            raise ConfigError(
                f"teacher.generator.max_tokens: {self.max_tokens} and max_new_tokens {self.max_new_tokens} are more than the model's"
                f" {most} positions"
            )
        return CausalLanguageModel(
            body, tokens, spec.shape[0], self.shots, self.max_new_tokens, self.temperature, self.top_p
        )
