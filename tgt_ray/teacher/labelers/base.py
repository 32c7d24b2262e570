"""What a labeler is: X -> logits and embedding."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import Component, FilePath
from tgt_ray.models.backbones import read_file
from tgt_ray.teacher.pretraining.config import LabelerPretrain

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tgt_ray.core.batch import InputRows


class Labeler(Component):
    """`build` gives a module: inputs (B, ...) -> Outputs(logits (B, K), embedding (B, D))."""

    modality: ClassVar[str] = "image"  # "image", "text" or "any": the inputs that it takes
    # Its head is made of the embedded documents of a retrieval task; otherwise it scores the classes of a classification task.
    embeds_documents: ClassVar[bool] = False
    # Weights are kept in the storage; otherwise `build` gives the module with its weights.
    stored: ClassVar[bool] = True
    # Keys that say where weights from elsewhere are: no part of the fingerprint, since the weights themselves are.
    places: ClassVar[frozenset[str]] = frozenset({"weights"})
    weights: FilePath | None = Field(
        None, description="a .safetensors file of this architecture; where absent, `pretrain` runs"
    )
    pretrain: LabelerPretrain = Field(default_factory=LabelerPretrain)

    @abstractmethod
    def build(self, spec: InputSpec, num_classes: int) -> nn.Module:
        """The module with fresh weights."""

    def prompt(self) -> str:
        """What it puts before each text that it reads. ConfigError where that can't be found out."""
        return ""

    @property
    def head_split(self) -> str:
        """The rows that a head is fitted on, where `load_weights` says that it has to be."""
        return self.pretrain.split

    def fit_head(self, model: nn.Module, inputs: InputRows, labels: Tensor) -> dict[str, Any]:
        """Fit `model.head` in place on N rows. Returns what the record should say of it."""
        raise NotImplementedError

    def document_embedder(self, model: nn.Module) -> Callable[[InputRows], tuple[Tensor, Tensor]]:
        """Where it `embeds_documents`: gives for the inputs of N documents the rows of `model.head`'s weight, and which of the documents
        are cut (N,). model: after `load_weights`."""
        raise NotImplementedError

    @property
    def external(self) -> bool:
        """Whether weights come from elsewhere, and not from `fit`."""
        return self.weights is not None

    def load_weights(self, model: nn.Module) -> dict[str, Any]:
        """Put weights that come from elsewhere into `model`. Returns where from, and `head`: "own", or "fit" where it has still to
        be fitted; `fitted_by`, where that depends on more than rows, weights and settings: a digest of it. ConfigError where they don't
        fit."""
        from tgt_ray.models.weights import load_strictly, read_safetensors

        assert self.weights is not None
        where = f"teacher.labeler.weights: {self.weights}"
        load_strictly(model, read_safetensors(read_file(self.weights, "teacher.labeler.weights"), where), where)
        return {"weights": str(self.weights), "head": "own"}

    def facts(self, model: nn.Module) -> dict[str, Any]:
        """What the outputs of `build`'s model follow from beside its weights and this config, as plain data: what a folder says."""
        return {}

    def fit(self, model: nn.Module, inputs: InputRows, labels: Tensor) -> None:
        """Pretrain `model` in place on N rows."""
        from tgt_ray.teacher.pretraining.labelers import fit_classifier

        fit_classifier(model, inputs, labels, self.pretrain)
