"""What a generator is: a module that encodes inputs to latents and decodes latents to inputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import Component, FilePath
from tgt_ray.models.backbones import read_file
from tgt_ray.teacher.pretraining.config import GeneratorPretrain

if TYPE_CHECKING:
    from torch import nn

    from tgt_ray.core.batch import InputRows


class Generator(Component):
    """`build` gives a module with encode(inputs) -> latents (B, L) and decode(latents) -> inputs.

    Where `samples`, it draws when it decodes: decode(latents, rng) -> inputs. Where it is `contextual`, it draws when it encodes as
    well, and decoding needs more than latents: see `tgt_ray.models.text.generation`.
    """

    modality: ClassVar[str] = "image"  # "image", "text" or "any": the inputs that it takes and makes
    differentiable: ClassVar[bool] = False  # gradients flow from decoded inputs to latents
    # Draws when it decodes.
    samples: ClassVar[bool] = False
    # Starts from inputs and not from stored latents.
    contextual: ClassVar[bool] = False
    # The task's tables whose rows it starts from, as far as they are there.
    starts_from: ClassVar[tuple[str, ...]] = ("train", "unlabelled")
    # What it makes of a pair of sentences is a pair.
    keeps_pairs: ClassVar[bool] = True
    # Has no latents that could be moved: for random exploration alone.
    only_samples: ClassVar[bool] = False
    # Weights are kept in the storage; otherwise `build` gives the module with its weights.
    stored: ClassVar[bool] = True
    # Keys that say where weights from elsewhere are: no part of the fingerprint, since the weights themselves are.
    places: ClassVar[frozenset[str]] = frozenset({"weights"})
    weights: FilePath | None = Field(
        None, description="a .safetensors file of this architecture; where absent, `pretrain` runs"
    )
    pretrain: GeneratorPretrain = Field(default_factory=GeneratorPretrain)

    @abstractmethod
    def build(self, spec: InputSpec) -> nn.Module:
        """The module with fresh weights."""

    @property
    def external(self) -> bool:
        """Whether weights come from elsewhere, and not from `fit`."""
        return self.weights is not None

    @property
    def starts_from_train(self) -> bool:
        """Otherwise from rows of another kind, such as documents, from which it makes rows of the train split's kind."""
        return "train" in self.starts_from

    @property
    def most_rows(self) -> int | None:
        """Rows that it is given at once, at the most; None: as many as usual."""
        return None

    @property
    def longest_text(self) -> int | None:
        """Tokens that it gives a text at the most; None where nothing is cut."""
        return None

    def load_weights(self, model: nn.Module) -> dict[str, Any]:
        """Put weights that come from elsewhere into `model`. Returns where from. ConfigError where they don't fit."""
        from tgt_ray.models.weights import load_strictly, read_safetensors

        assert self.weights is not None
        where = f"teacher.generator.weights: {self.weights}"
        load_strictly(model, read_safetensors(read_file(self.weights, "teacher.generator.weights"), where), where)
        return {"weights": str(self.weights)}

    def facts(self, model: nn.Module) -> dict[str, Any]:
        """What the outputs of `build`'s model follow from beside its weights and this config, as plain data: what a folder says."""
        return {}

    @abstractmethod
    def fit(
        self, model: nn.Module, inputs: InputRows, labeler: nn.Module, agreement: Callable[[], float]
    ) -> dict[str, Any]:
        """Pretrain `model` in place on N rows. agreement: measures now how often the labeler agrees with itself on reconstructions of
        validation rows, in percent. Returns what the teacher's record should say of it."""
