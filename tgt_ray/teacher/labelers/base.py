"""A labeler maps inputs to logits and embeddings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import Component, FilePath
from tgt_ray.models.backbones import read_file
from tgt_ray.teacher.pretraining.config import LabelerPretrain

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tgt_ray.core.batch import InputRows
    from tgt_ray.tasks import Task, TaskData


class Labeler(Component):
    """A labeler maps rows to logits of classes and to embeddings.

    `build` returns a module: inputs (B, ...) -> Outputs(logits (B, K), embedding (B, D)).
    """

    #: The kind of inputs that it takes: "image", "text" or "any".
    modality: ClassVar[str] = "image"
    #: Whether its head is made of the embedded documents of a retrieval task; otherwise it scores a task's classes.
    embeds_documents: ClassVar[bool] = False
    #: Whether weights are kept in the storage; otherwise `build` returns the module with its weights.
    stored: ClassVar[bool] = True
    #: Whether it can be asked about any row; otherwise it knows the data's own rows alone, which `learn` tells it.
    live: ClassVar[bool] = True
    #: Libraries whose versions may change what it learns, besides torch.
    libraries: ClassVar[tuple[str, ...]] = ()
    #: Keys that say where external weights are. They are left out of its names, which cover the weights instead.
    places: ClassVar[frozenset[str]] = frozenset({"weights"})
    weights: FilePath | None = Field(
        None, description="a .safetensors file with weights of this architecture; absent: `pretrain` trains them"
    )
    pretrain: LabelerPretrain = Field(
        default_factory=LabelerPretrain, description="how the weights are trained where none are given"
    )

    @abstractmethod
    def build(self, spec: InputSpec, num_classes: int) -> nn.Module:
        """Build the module with fresh weights."""

    def check_folder(self) -> None:
        """Look at a folder that isn't one of a model of a library; raises ConfigError where it is of no use."""

    def name_classes(self, model: Any, names: Sequence[str]) -> None:
        """Tell a fresh model the task's classes in their order, for labelers that have classes of their own.

        - names: those of the data, or the numbers of its classes
        - raises ConfigError: where the model doesn't know one of them
        """

    def learn(self, model: Any, task: Task, data: TaskData) -> None:
        """Tell a fresh model what it knows of the data's rows, for labelers that are not `live`.

        `model.answered` says of how many rows of each table, and how many there are.

        - raises ConfigError: where it lacks a row that it must know
        """
        raise NotImplementedError

    def prompt(self) -> str:
        """Return the text that it puts before each text it reads.

        - raises ConfigError: where that can't be determined
        """
        return ""

    @property
    def head_split(self) -> str:
        """The table whose rows the head is fitted on, where `load_weights` says that it must be fitted."""
        return self.pretrain.split

    @property
    def fitting(self) -> str:
        """What `fit_head` does, for messages."""
        return "fitting the head"

    def fit_head(self, model: nn.Module, inputs: InputRows, labels: Tensor) -> dict[str, Any]:
        """Fit `model.head` in place on N rows; returns entries for the record."""
        raise NotImplementedError

    def document_embedder(self, model: nn.Module) -> Callable[[InputRows], tuple[Tensor, Tensor]]:
        """Return a function that embeds documents, for labelers with `embeds_documents`.

        - model: the model after `load_weights`
        - returns: a function from the inputs of N documents to the rows of `model.head`'s weight, and to which of the
          documents are cut (N,)
        """
        raise NotImplementedError

    @property
    def external(self) -> bool:
        """Whether the weights come from elsewhere instead of from `fit`."""
        return self.weights is not None

    def load_weights(self, model: nn.Module) -> dict[str, Any]:
        """Put external weights into `model`.

        - returns: entries for the record: `weights`, where they come from; `head`, "own", or "fit" where the head must
          still be fitted; `fitted_by`, a digest of what else the fit depends on, besides rows, weights and settings
        - raises ConfigError: where the weights do not fit
        """
        from tgt_ray.models.weights import load_strictly, read_safetensors

        assert self.weights is not None
        where = f"teacher.labeler.weights: {self.weights}"
        load_strictly(model, read_safetensors(read_file(self.weights, "teacher.labeler.weights"), where), where)
        return {"weights": str(self.weights), "head": "own"}

    def facts(self, model: nn.Module) -> dict[str, Any]:
        """Return everything else that changes the outputs of the built model, besides its weights and this config.

        These are plain data, such as the settings in a model's folder; they are part of its names.
        """
        return {}

    def fit(self, model: nn.Module, inputs: InputRows, labels: Tensor) -> None:
        """Pretrain `model` in place on N rows."""
        from tgt_ray.teacher.pretraining.labelers import fit_classifier

        fit_classifier(model, inputs, labels, self.pretrain)
