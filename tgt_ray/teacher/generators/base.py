"""A generator is a module that encodes inputs to latents and decodes latents to inputs."""

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
    """A generator makes new rows: it encodes anchors to latents and decodes moved latents to inputs.

    `build` returns a module with encode(inputs) -> latents (B, L) and decode(latents) -> inputs. A generator with
    `samples` draws when it decodes: decode(latents, rng) -> inputs. A `contextual` generator also draws when it
    encodes, and needs more than latents to decode: see `tgt_ray.models.text.generation`.
    """

    #: The kind of inputs that it takes and makes: "image", "text" or "any".
    modality: ClassVar[str] = "image"
    #: Whether gradients flow from decoded inputs to latents.
    differentiable: ClassVar[bool] = False
    #: Whether it draws when it decodes.
    samples: ClassVar[bool] = False
    #: Whether it starts from inputs instead of stored latents.
    contextual: ClassVar[bool] = False
    #: The task's tables whose rows it starts from; some may be missing.
    starts_from: ClassVar[tuple[str, ...]] = ("train", "unlabelled")
    #: Whether it turns a pair of sentences into a pair.
    keeps_pairs: ClassVar[bool] = True
    #: Whether it has no latents to move, and so is for random exploration only.
    only_samples: ClassVar[bool] = False
    #: Whether weights are kept in the storage; otherwise `build` returns the module with its weights.
    stored: ClassVar[bool] = True
    #: Libraries whose versions may change what it learns, besides torch.
    libraries: ClassVar[tuple[str, ...]] = ()
    #: Keys that say where external weights are. They are left out of its names, which cover the weights instead.
    places: ClassVar[frozenset[str]] = frozenset({"weights"})
    weights: FilePath | None = Field(
        None, description="a .safetensors file with weights of this architecture; absent: `pretrain` trains them"
    )
    pretrain: GeneratorPretrain = Field(
        default_factory=GeneratorPretrain, description="how the weights are trained where none are given"
    )

    def without_effect(self) -> dict[str, str]:
        return {"pretrain": "the weights come from elsewhere"} if self.external else {}

    @abstractmethod
    def build(self, spec: InputSpec) -> nn.Module:
        """Build the module with fresh weights."""

    @property
    def external(self) -> bool:
        """Whether the weights come from elsewhere instead of from `fit`."""
        return self.weights is not None

    @property
    def starts_from_train(self) -> bool:
        """Whether it starts from the train split; otherwise it makes such rows from others, such as documents."""
        return "train" in self.starts_from

    @property
    def most_rows(self) -> int | None:
        """The largest number of rows that it is given at once; None: as many as usual."""
        return None

    @property
    def longest_text(self) -> int | None:
        """The largest number of tokens that it gives a text; None where nothing is cut."""
        return None

    def load_weights(self, model: nn.Module) -> dict[str, Any]:
        """Put external weights into `model`.

        - returns: entries for the record: where the weights come from
        - raises ConfigError: where the weights do not fit
        """
        from tgt_ray.models.weights import load_strictly, read_safetensors

        assert self.weights is not None
        where = f"teacher.generator.weights: {self.weights}"
        load_strictly(model, read_safetensors(read_file(self.weights, "teacher.generator.weights"), where), where)
        return {"weights": str(self.weights)}

    def facts(self, model: nn.Module) -> dict[str, Any]:
        """Return everything else that changes the outputs of the built model, besides its weights and this config.

        These are plain data, such as the settings in a model's folder; they are part of its names.
        """
        return {}

    @abstractmethod
    def fit(
        self, model: nn.Module, inputs: InputRows, labeler: nn.Module, agreement: Callable[[], float]
    ) -> dict[str, Any]:
        """Pretrain `model` in place on N rows.

        - agreement: measures how often the labeler predicts for reconstructions of validation rows what it predicts for
          the rows, in percent
        - returns: entries for the generator's record
        """
