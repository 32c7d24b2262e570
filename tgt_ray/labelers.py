"""Floor 2: labelers, h: X -> logits and embedding. A built-in one is pretrained here where no weights are given."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tgt_ray.core.config import Component, Config, FilePath, FolderOrName, OneOf
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.models.backbones import TextEncoder, TimmModel, TransformerSize, read_file

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tgt_ray.core.batch import InputRows
    from tgt_ray.models.text.sentence_settings import SentenceSettings


class Pretrain(Config):
    """How weights are made where none are given: once, then stored by fingerprint and reused."""

    split: Literal["full", "train"] = Field(
        "full",
        description="rows to train on: `full` is the train split before the long tail (the teacher has then seen rows and"
        " labels that the student has not, which is the setting of a pretrained teacher), `train` the student's own rows. Rows that"
        " `task.labelled` leaves without a label are for generators alone",
    )
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    seed: int = 0


class LabelerPretrain(Pretrain):
    steps: int = Field(500, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(0.05, gt=0, description="peak of Nesterov SGD; warm-up, then cosine decay")
    weight_decay: float = Field(5e-4, ge=0)
    shift: int = Field(1, ge=0, description="augmentation: largest random shift in pixels, each way")
    flip: bool = Field(False, description="augmentation: random horizontal flips")


class Probe(Config):
    """Logistic regression on the frozen model's embeddings (a linear probe)."""

    split: Literal["full", "train"] = Field("train", description="labelled rows that the head is fitted on")
    l2: float = Field(1e-3, ge=0, description="of the weights, on standardised embeddings")
    iterations: int = Field(200, ge=1, description="of L-BFGS, at the most")


class Labeler(Component):
    """`build` gives a module: inputs (B, ...) -> Outputs(logits (B, K), embedding (B, D))."""

    modality: ClassVar[str] = "image"  # "image", "text" or "any": the inputs that it takes
    answers: ClassVar[str] = "classes"  # or "documents": what it scores
    # Weights are kept in the storage; otherwise `build` gives the module with its weights.
    stored: ClassVar[bool] = True
    # Keys that say where weights from elsewhere are: no part of the fingerprint, since the weights themselves are.
    places: ClassVar[frozenset[str]] = frozenset({"weights"})
    weights: FilePath | None = Field(
        None, description="a .safetensors file of this architecture; where absent, `pretrain` runs"
    )
    pretrain: LabelerPretrain = Field(default_factory=LabelerPretrain)

    @abstractmethod
    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
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

    def embed_documents(self, model: nn.Module, inputs: InputRows) -> tuple[Tensor, Tensor]:
        """Where it `answers` documents: the rows of `model.head`'s weight for N documents, and which of these are cut (N,); after
        `load_weights`."""
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
        from tgt_ray.pretraining import fit_classifier

        fit_classifier(model, inputs, labels, self.pretrain)


class ConvLabeler(Labeler):
    """A plain convolutional network, for the smallest images."""

    type: Literal["conv"] = "conv"
    widths: tuple[int, ...] = Field(
        (32, 64, 64), min_length=1, description="channels of each 3x3 convolution, pooled between"
    )

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        from tgt_ray.models.image.conv import Classifier, ConvNet

        return Classifier(ConvNet(input_shape[0], self.widths, "pool", grid=2), num_classes)


class ResidualLabeler(Labeler):
    """A small residual network, for 28x28 pixels and up."""

    type: Literal["residual"] = "residual"
    widths: tuple[int, ...] = Field(
        (32, 64, 96, 128), min_length=2, description="channels of the stem and of each stage"
    )

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        from tgt_ray.models.image.conv import Classifier, ResidualNet

        return Classifier(ResidualNet(input_shape[0], self.widths), num_classes)


class PretrainedLabeler(Labeler):
    """A model from elsewhere whose head may have to be fitted or cut to the task's classes."""

    weights: FilePath | None = Field(None, description="a .safetensors file of the model")
    head: Literal["auto", "own", "fit"] = Field(
        "auto",
        description="`own`: the model's own classes (or its `classes`) are the task's; `fit`: a linear head is fitted on labelled"
        " rows; `auto`: own where `classes` is given, or where a weights file's head has as many classes as the task",
    )
    classes: tuple[int, ...] | None = Field(
        None, min_length=1, description="for each class of the task, the number of the model's own class that it is"
    )
    probe: Probe = Field(default_factory=Probe)

    @property
    def head_split(self) -> str:
        return self.probe.split

    def fit_head(self, model: nn.Module, inputs: InputRows, labels: Tensor) -> dict[str, Any]:
        from tgt_ray.pretraining import fit_linear_head

        return {
            "probe": {"split": self.probe.split, "train_accuracy": fit_linear_head(model, inputs, labels, self.probe)}
        }

    def own_classes(self, model: Any, class_names: Sequence[str]) -> list[list[str]]:
        """Of each class what the model calls it and what the task does; nothing where either has no names. ConfigError where these are the
        same in another order."""
        own = _own_names(model)
        if own and self.classes is not None:
            own = [own[number] for number in self.classes]
        if len(own) != len(class_names):
            return []
        said, wanted = ([each.strip().casefold() for each in names] for names in (own, class_names))
        if self.classes is None and said != wanted and sorted(said) == sorted(wanted):
            raise ConfigError(
                f"teacher.labeler.classes: the model's own classes are {_some(own)}, and the task's {_some(class_names)}: the same in"
                f" another order; give classes: {[said.index(each) for each in wanted]}"
            )
        return [list(pair) for pair in zip(own, class_names, strict=True)]

    def _use_head(self, model: Any, weight_KD: Any, bias_K: Any, from_a_file: bool) -> str:
        """Give the model its own head, or say that one has to be fitted."""
        from tgt_ray.models.heads import set_head

        num_classes, there = model.head.out_features, 0 if weight_KD is None else len(weight_KD)
        if self.classes is not None:
            if len(self.classes) != num_classes or max(self.classes) >= there or min(self.classes) < 0:
                raise ConfigError(
                    f"teacher.labeler.classes: {len(self.classes)} numbers up to {max(self.classes)}; the task has {num_classes}"
                    f" classes, the model's head {there}"
                )
        elif self.head == "fit" or (self.head == "auto" and not (from_a_file and there == num_classes)):
            return "fit"
        elif weight_KD is None:
            raise ConfigError(
                "teacher.labeler.head: own, but the model has no head that is one linear layer on its embedding; use fit"
            )
        elif there != num_classes:
            raise ConfigError(
                f"teacher.labeler.head: own, but the model's head has {there} classes, the task {num_classes}; use fit, or name the"
                " model's classes in teacher.labeler.classes"
            )
        set_head(model.head, weight_KD, bias_K, self.classes)
        return "own"


def _own_names(model: Any) -> list[str]:
    """What transformers' configuration calls a model's own classes; nothing where it has no names for them."""
    for module in model.backbone.modules():
        names = getattr(getattr(module, "config", None), "id2label", None)
        if names:
            ordered = [str(names[number]) for number in sorted(names)]
            # What the library calls them where nobody has.
            return [] if all(re.fullmatch(r"LABEL_\d+", name) for name in ordered) else ordered
    return []


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


class TimmLabeler(TimmModel, PretrainedLabeler):
    """Any timm model: with pretrained weights (from the hub or a file), or trained here from scratch by `pretrain`."""

    type: Literal["timm"] = "timm"
    places: ClassVar[frozenset[str]] = frozenset({"weights", "pretrained"})

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        from tgt_ray.models.image.conv import Classifier

        return Classifier(self.backbone(input_shape), num_classes)

    def load_weights(self, model: Any) -> dict[str, Any]:
        where, weight, bias = self.load_body(model.backbone, "teacher.labeler")
        return {"weights": where, "head": self._use_head(model, weight, bias, from_a_file=self.weights is not None)}

    def facts(self, model: Any) -> dict[str, Any]:
        return model.backbone.facts()


class TransformersLabeler(PretrainedLabeler):
    """An image classifier of transformers, from a folder that all nodes see or from the hub."""

    type: Literal["transformers"] = "transformers"
    places: ClassVar[frozenset[str]] = frozenset({"weights", "path", "revision"})
    path: FolderOrName = Field(
        description="folder that `save_pretrained` wrote (with its image processor), or a name on the hub"
    )
    revision: str | None = Field(None, description="commit or tag on the hub")
    weights: None = Field(None, description="not used: the folder has them")
    img_size: int | None = Field(
        None, ge=8, description="height and width that images are resized to; absent: the model's own"
    )

    @property
    def external(self) -> bool:
        return True

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        from tgt_ray.models.image.conv import Classifier
        from tgt_ray.models.image.transformers import transformers_backbone

        backbone = transformers_backbone(self.path, self.revision, input_shape[0], self.img_size)
        return Classifier(backbone, num_classes)

    def load_weights(self, model: Any) -> dict[str, Any]:
        from tgt_ray.models.image.transformers import transformers_weights
        from tgt_ray.models.weights import load_strictly

        body, weight, bias = transformers_weights(self.path, self.revision)
        load_strictly(model.backbone.body, body, f"teacher.labeler.path: {self.path}")
        return {"weights": self.path, "head": self._use_head(model, weight, bias, from_a_file=Path(self.path).is_dir())}

    def facts(self, model: Any) -> dict[str, Any]:
        return model.backbone.facts()


class TextPretrain(Pretrain):
    """AdamW with warm-up and cosine decay on the cross-entropy of labels."""

    steps: int = Field(1000, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-3, gt=0, description="peak")
    weight_decay: float = Field(0.01, ge=0)


class FineTune(TextPretrain):
    """All weights of a pretrained model, with a new head, on labelled rows."""

    split: Literal["full", "train"] = Field("train", description="labelled rows to train on, as `pretrain.split`")
    steps: int = Field(500, ge=1)
    learning_rate: float = Field(3e-5, gt=0, description="peak")


class TextTransformerLabeler(TransformerSize, Labeler):
    """A small transformer, trained here from nothing."""

    modality: ClassVar[str] = "text"
    type: Literal["text_transformer"] = "text_transformer"
    pretrain: TextPretrain = Field(default_factory=TextPretrain)  # type: ignore[assignment]

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        from tgt_ray.models.image.conv import Classifier

        return Classifier(self.backbone(input_shape, "teacher.labeler"), num_classes)

    def fit(self, model: nn.Module, inputs: InputRows, labels: Tensor) -> None:
        from tgt_ray.pretraining import fit_text_classifier

        fit_text_classifier(model, inputs, labels, self.pretrain)


class TextEncoderLabeler(TextEncoder, PretrainedLabeler):
    """A text model from elsewhere: its own classes, or a head that is fitted on labelled rows, alone or with all weights."""

    modality: ClassVar[str] = "text"
    type: Literal["text_encoder"] = "text_encoder"
    places: ClassVar[frozenset[str]] = frozenset({"weights", "path", "revision"})
    weights: None = Field(None, description="not used: the folder has them")
    finetune: FineTune | None = Field(
        None,
        description="fit a new head, and train all weights with it; absent: the head alone (`probe`), where one has to be fitted",
    )

    @model_validator(mode="after")
    def _one_head(self) -> TextEncoderLabeler:
        if self.finetune is not None and (self.head == "own" or self.classes is not None):
            given = "head: own" if self.head == "own" else "classes"
            raise ValueError(f"finetune: trains a new head, and {given} keeps the model's own; leave one of them out")
        return self

    @property
    def external(self) -> bool:
        return True

    @property
    def head_split(self) -> str:
        return self.finetune.split if self.finetune is not None else self.probe.split

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        from tgt_ray.models.image.conv import Classifier

        return Classifier(self.backbone(input_shape, "teacher.labeler"), num_classes)

    def load_weights(self, model: Any) -> dict[str, Any]:
        from tgt_ray.models.hub import place

        weight, bias = self.load_body(model.backbone, "teacher.labeler")
        if self.finetune is not None:
            return {"weights": self.path, "head": "fit"}
        in_a_folder = Path(place(self.path)).is_dir()
        return {"weights": self.path, "head": self._use_head(model, weight, bias, from_a_file=in_a_folder)}

    def facts(self, model: Any) -> dict[str, Any]:
        return model.backbone.facts()

    def fit_head(self, model: nn.Module, inputs: InputRows, labels: Tensor) -> dict[str, Any]:
        if self.finetune is None:
            return super().fit_head(model, inputs, labels)
        from tgt_ray.pretraining import fit_text_classifier

        fit_text_classifier(model, inputs, labels, self.finetune)
        return {"finetune": {"split": self.finetune.split, "steps": self.finetune.steps}}


class DualEncoderLabeler(TextEncoder, Labeler):
    """The teacher of a retrieval task: a sentence encoder for queries, and its embeddings of all documents as head.

    Pooling, normalisation and what is put before texts are as sentence-transformers wrote them beside the model, where nothing else is
    said; the log and the record show what that was. Documents are embedded once, and stored with the teacher.
    """

    modality: ClassVar[str] = "text"
    answers: ClassVar[str] = "documents"
    type: Literal["dual_encoder"] = "dual_encoder"
    places: ClassVar[frozenset[str]] = frozenset({"weights", "path", "revision", "document_path", "document_revision"})
    weights: None = Field(None, description="not used: the folder has them")
    document_path: FolderOrName | None = Field(
        None, description="a second model for documents, as `path`; absent: the same one embeds queries and documents"
    )
    document_revision: str | None = Field(None, description="as revision, of document_path")
    document_tokens: int | None = Field(None, ge=4, description="as max_tokens, of a document")
    normalize: bool | None = Field(
        None,
        description="embeddings of length 1, so that scores are cosines; absent: as the model's own files say (a layer Normalize, or the"
        " similarity they name), or true where they say nothing",
    )
    query_prefix: str | None = Field(None, description="put before queries; absent: as the model's own files say")
    document_prefix: str | None = Field(None, description="put before documents; absent: as the model's own files say")
    temperature: float = Field(
        0.05,
        gt=0,
        description="a document's share is the softmax of scores / temperature (our choice); rankings don't depend on it",
    )

    @model_validator(mode="after")
    def _revision_of_something(self) -> DualEncoderLabeler:
        if self.document_revision is not None and self.document_path is None:
            raise ValueError(
                f"document_revision: '{self.document_revision}' is of document_path, which is not given; that of path is revision"
            )
        return self

    @property
    def external(self) -> bool:
        return True

    @property
    def head_split(self) -> str:
        return "documents"

    def build(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        from tgt_ray.models.text.dual_encoder import DualEncoder

        settings = self._settings(self.path, self.revision)
        backbone = self.backbone(input_shape, "teacher.labeler")
        backbone.tokens.prefix = self._prefix("query", settings)
        return DualEncoder(backbone, num_classes, self._normalizes(settings)[0], self.temperature)

    def prompt(self) -> str:
        return self._settings(self.path, self.revision).query if self.query_prefix is None else self.query_prefix

    def _settings(self, path: str, revision: str | None) -> SentenceSettings:
        from tgt_ray.models.text.sentence_settings import sentence_settings

        return sentence_settings(path, revision, self.pooling)

    def _prefix(self, kind: Literal["query", "document"], settings: SentenceSettings) -> str:
        """What is put before queries or documents. ConfigError where the model wouldn't pool it."""
        given: str | None = getattr(self, f"{kind}_prefix")
        prefix: str = getattr(settings, kind) if given is None else given
        if prefix and not settings.pools_prompt:
            raise ConfigError(
                f"{settings.path}: leaves the tokens of its prompt '{prefix}' out of pooling (include_prompt: false), which is not there; give"
                f" {kind}_prefix: '', or pooling: mean or cls where the prompt's tokens may have a part in it"
            )
        return prefix

    def _normalizes(self, settings: SentenceSettings) -> tuple[bool, str]:
        """Whether embeddings are made of length 1, and who says so."""
        if self.normalize:
            return True, "config"
        said = settings.normalize()
        if self.normalize is not None:
            return self.normalize, "config"
        # As sentence-transformers compares embeddings where a model doesn't say how.
        return (True, "default") if said is None else (said, "files")

    def load_weights(self, model: Any) -> dict[str, Any]:
        self.load_body(model.backbone, "teacher.labeler")
        tower = self.documents_encoder(model)
        model.tower[:] = [tower]
        weights = [value.numpy().tobytes() for value in tower.state_dict().values()]
        return {
            "weights": self.path,
            "head": "fit",
            "fitted_by": digest(tower.facts(), model.normalize, *weights),
            "encoders": {
                "queries": self._said_of(model.backbone, self.path, self.revision),
                "documents": self._said_of(tower, *self._documents_place),
            },
        }

    @property
    def _documents_place(self) -> tuple[str, str | None]:
        """Path and revision of the model that embeds documents."""
        if self.document_path is None:
            return self.path, self.revision
        return self.document_path, self.document_revision

    def _said_of(self, tower: Any, path: str, revision: str | None) -> dict[str, Any]:
        """How it embeds, for people."""
        normalizes, said_by = self._normalizes(self._settings(path, revision))
        return {
            "path": path,
            "revision": revision,
            "prompt": tower.tokens.prefix,
            "max_tokens": tower.tokens.max_tokens,
            "pooling": tower.pooling,
            "normalize": normalizes,
            "normalize_said_by": said_by,
        }

    def documents_encoder(self, model: Any) -> Any:
        """The backbone that embeds documents, with its weights. ConfigError where its embeddings have another size than queries'."""
        from tgt_ray.models.text.encoder import TextBackbone, transformers_backbone
        from tgt_ray.models.text.tokens import own_tokens

        path, revision = self._documents_place
        longest = self.document_tokens or (self.max_tokens if self.document_path is None else None)
        key = "document_tokens" if self.document_tokens is not None else "max_tokens"
        tokens = own_tokens(path, revision, longest, "teacher.labeler", key)
        settings = self._settings(path, revision)
        tokens.prefix = self._prefix("document", settings)
        if self._normalizes(settings)[0] != model.normalize:
            lengths = ["length 1" if each else "any length" for each in (not model.normalize, model.normalize)]
            raise ConfigError(
                f"teacher.labeler.document_path: {path} gives embeddings of {lengths[0]}, and path {self.path} of {lengths[1]}, as far as"
                " their files say; say it for both by teacher.labeler.normalize: true or false"
            )
        if self.document_path is None:
            return TextBackbone(model.backbone.body, tokens, model.backbone.pooling, model.backbone.dim)
        tower = transformers_backbone(path, revision, tokens, self.pooling)
        if tower.dim != model.backbone.dim:
            raise ConfigError(
                f"teacher.labeler.document_path: {path} gives embeddings of {tower.dim} numbers, and path {self.path} of"
                f" {model.backbone.dim}; the two must belong together"
            )
        TextEncoder(path=path, revision=revision, pooling=self.pooling).load_body(tower, "teacher.labeler")
        return tower

    def facts(self, model: Any) -> dict[str, Any]:
        return {**model.backbone.facts(), "normalize": model.normalize}

    def embed_documents(self, model: Any, inputs: InputRows) -> tuple[Tensor, Tensor]:
        embeddings, cut = model.embed_documents(inputs)
        return embeddings, cut


AnyLabeler = Annotated[
    Labeler,
    OneOf(
        ConvLabeler,
        ResidualLabeler,
        TimmLabeler,
        TransformersLabeler,
        TextEncoderLabeler,
        TextTransformerLabeler,
        DualEncoderLabeler,
    ),
]
