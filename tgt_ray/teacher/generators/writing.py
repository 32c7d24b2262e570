"""These generators write new texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import FolderOrName, Temperature
from tgt_ray.core.errors import ConfigError
from tgt_ray.teacher.generators.text import TextGenerator

if TYPE_CHECKING:
    from torch import nn


class Writing(TextGenerator):
    """Writes new texts with a model that is not trained here.

    No latents are moved, so it is for random exploration without sigma.
    """

    only_samples: ClassVar[bool] = True
    keeps_pairs: ClassVar[bool] = False
    path: FolderOrName = Field(
        description="folder that `save_pretrained` wrote and all nodes see, `package:NAME/FOLDER` for a folder in an"
        " installed Python package, or a name on the hub"
    )


class CausalLMGenerator(Writing):
    """Writes a new text after a few anchors with a causal language model (the setting of GAL, arXiv 2106.06168)."""

    type: Literal["causal_lm"] = "causal_lm"
    gguf_file: str | None = Field(
        None,
        description="file with quantised weights in the folder `path`, which needs the packages gguf and accelerate;"
        " absent: the folder's usual weights",
    )
    max_tokens: int = Field(
        256, ge=4, le=2**20, description="largest number of tokens of a prompt; longer prompts lose their beginning"
    )
    shots: int = Field(3, ge=1, le=1024, description="texts in a prompt: the anchor, and other anchors before it")
    max_new_tokens: int = Field(48, ge=1, le=2**20, description="largest number of tokens of a new text")
    temperature: Temperature = Field(
        1.0, description="temperature of the draw of tokens; higher gives more varied, less likely texts"
    )
    top_p: float = Field(
        0.95,
        gt=0,
        le=1,
        description="each token is drawn from the most likely ones that together have this probability; higher gives"
        " more variety; 1: from all",
    )

    @property
    def longest_text(self) -> int | None:
        return self.max_new_tokens

    def tokens(self, spec: InputSpec, key: str = "teacher.generator") -> Any:
        from tgt_ray.models.hub import tokenizer_from_hub
        from tgt_ray.models.text.tokens import tokens_of

        quantised = {"gguf_file": self.gguf_file} if self.gguf_file else {}
        return tokens_of(tokenizer_from_hub(self.path, self.revision, **quantised), self.max_tokens, key)

    def build(self, spec: InputSpec) -> nn.Module:
        from transformers import AutoModelForCausalLM

        from tgt_ray.models.text.causal_lm import CausalLanguageModel

        body = self._load(AutoModelForCausalLM, **({"gguf_file": self.gguf_file} if self.gguf_file else {}))
        tokens, most = self.tokens(spec), getattr(body.config, "max_position_embeddings", None)
        if most and self.max_tokens + self.max_new_tokens > most:
            raise ConfigError(
                f"teacher.generator.max_tokens: {self.max_tokens} and max_new_tokens {self.max_new_tokens} are together"
                f" more than the model's {most} positions; lower one of them"
            )
        return CausalLanguageModel(
            body, tokens, spec.shape[0], self.shots, self.max_new_tokens, self.temperature, self.top_p
        )
