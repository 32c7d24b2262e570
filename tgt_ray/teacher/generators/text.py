"""Text generators share this base class."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import FolderOrName
from tgt_ray.core.errors import ConfigError
from tgt_ray.models.backbones import ReadsTexts
from tgt_ray.teacher.generators.base import Generator
from tgt_ray.teacher.pretraining.config import TextGeneratorPretrain

if TYPE_CHECKING:
    from torch import nn

    from tgt_ray.core.batch import InputRows


class TextGenerator(ReadsTexts, Generator):
    """A text generator is a model of transformers: from a folder or the hub, or a small one that is trained here."""

    modality: ClassVar[str] = "text"
    libraries: ClassVar[tuple[str, ...]] = ("transformers",)
    # Masked tokens are drawn anew each time, so it starts from texts instead of stored latents.
    contextual: ClassVar[bool] = True
    samples: ClassVar[bool] = True
    places: ClassVar[frozenset[str]] = frozenset({"weights", "path", "revision"})
    path: FolderOrName | None = Field(
        None,
        description="folder that `save_pretrained` wrote and all nodes see, `package:NAME/FOLDER` for a folder in an"
        " installed Python package, or a name on the hub; absent: `pretrain` trains a small model with the task's"
        " vocabulary on the task's texts",
    )
    revision: str | None = Field(None, description="commit or tag on the hub")
    weights: None = Field(None, description="not used: `path` has the weights")
    max_tokens: int = Field(64, ge=4, le=2**20, description="largest number of tokens of a text; longer texts are cut")
    pretrain: TextGeneratorPretrain = Field(  # type: ignore[assignment]
        default_factory=TextGeneratorPretrain, description="how a small model is trained where `path` is absent"
    )

    def without_effect(self) -> dict[str, str]:
        return {**super().without_effect(), **({} if self.path is not None else {"revision": "there is no path"})}

    @property
    def external(self) -> bool:
        return self.path is not None

    @property
    def stored(self) -> bool:  # type: ignore[override]
        """Whether weights are kept in the storage; external ones may have gigabytes and stay where they are."""
        return self.path is None

    @property
    def longest_text(self) -> int | None:
        return self.max_tokens

    @property
    def vocabulary(self) -> str | None:
        return self.path

    def load_weights(self, model: nn.Module) -> dict[str, Any]:
        return {"weights": self.path}

    def facts(self, model: Any) -> dict[str, Any]:
        return model.facts()

    def fit(
        self, model: nn.Module, inputs: InputRows, labeler: nn.Module, agreement: Callable[[], float]
    ) -> dict[str, Any]:
        from tgt_ray.teacher.pretraining.generators import fit_denoiser

        return fit_denoiser(model, inputs, agreement, self.pretrain)

    def tokens(self, spec: InputSpec, key: str = "teacher.generator") -> Any:
        from tgt_ray.models.text.tokens import corpus_tokens, own_tokens

        if self.path is None:
            return corpus_tokens(spec.tokenizer, self.max_tokens, key)
        return own_tokens(self.path, self.revision, self.max_tokens, key)

    def _load(self, auto: Any, **options: Any) -> Any:
        """Load the model with its weights.

        - raises ConfigError: where some weights are missing, which the library would draw at random
        """
        from tgt_ray.models.hub import model_from_hub

        assert self.path is not None
        where = f"teacher.generator.path: {self.path}"
        model, info = model_from_hub(auto, self.path, self.revision, where, **options)
        if info["missing_keys"]:
            raise ConfigError(f"teacher.generator.path: {self.path} has no weights for '{min(info['missing_keys'])}'")
        return model
