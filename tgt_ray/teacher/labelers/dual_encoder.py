"""The labeler of a retrieval task is a dual encoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import FolderOrName, Temperature
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.models.backbones import TextEncoder
from tgt_ray.teacher.labelers.base import Labeler

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tgt_ray.core.batch import InputRows
    from tgt_ray.models.text.sentence_settings import SentenceSettings


class DualEncoderLabeler(TextEncoder, Labeler):
    """The labeler of a retrieval task: a sentence encoder for queries, with the embeddings of all documents as head.

    Pooling, normalisation and the prompts before texts are those in the model's own sentence-transformers files, unless
    settings here say otherwise; the log and the record show them. Documents are embedded once, and stored with the
    teacher.
    """

    modality: ClassVar[str] = "text"
    libraries: ClassVar[tuple[str, ...]] = ("transformers",)
    embeds_documents: ClassVar[bool] = True
    type: Literal["dual_encoder"] = "dual_encoder"
    places: ClassVar[frozenset[str]] = frozenset({"weights", "path", "revision", "document_path", "document_revision"})
    weights: None = Field(None, description="not used: `path` has the weights")
    document_path: FolderOrName | None = Field(
        None,
        description="a second model for documents, given as in `path`; absent: one model embeds queries and documents",
    )
    document_revision: str | None = Field(None, description="commit or tag of `document_path` on the hub")
    document_tokens: int | None = Field(
        None,
        ge=4,
        le=2**20,
        description="largest number of tokens of a document; longer documents are cut; absent: as `max_tokens`, or,"
        " with `document_path`, the limit of that model",
    )
    normalize: bool | None = Field(
        None,
        description="give embeddings length 1, so that scores are cosines; absent: as the model's own files say (a"
        " layer Normalize, or the similarity they name), or true where they say nothing",
    )
    query_prefix: str | None = Field(
        None, description="text put before each query; absent: what the model's own files say"
    )
    document_prefix: str | None = Field(
        None, description="text put before each document; absent: what the model's own files say"
    )
    temperature: Temperature = Field(
        0.05,
        description="a document's probability is the softmax of scores / temperature (our choice); higher is softer;"
        " rankings don't depend on it",
    )

    @model_validator(mode="after")
    def _revision_of_something(self) -> DualEncoderLabeler:
        if self.document_revision is not None and self.document_path is None:
            raise ValueError(
                f"document_revision: '{self.document_revision}' is of document_path, which is not given; for path, set"
                " revision"
            )
        return self

    def without_effect(self) -> dict[str, str]:
        return {"pretrain": "the weights come from elsewhere"}

    @property
    def external(self) -> bool:
        return True

    @property
    def head_split(self) -> str:
        return "documents"

    @property
    def fitting(self) -> str:
        return "embedding the documents"

    def build(self, spec: InputSpec, num_classes: int) -> nn.Module:
        from tgt_ray.models.text.dual_encoder import DualEncoder

        settings = self._settings(self.path, self.revision)
        backbone = self.backbone(spec, "teacher.labeler")
        backbone.tokens.prefix = settings.prefix("query", self.query_prefix)
        return DualEncoder(backbone, num_classes, settings.normalizes(self.normalize)[0], self.temperature)

    def prompt(self) -> str:
        return self._settings(self.path, self.revision).query if self.query_prefix is None else self.query_prefix

    def _settings(self, path: str, revision: str | None) -> SentenceSettings:
        from tgt_ray.models.text.sentence_settings import sentence_settings

        return sentence_settings(path, revision, self.pooling)

    def load_weights(self, model: Any) -> dict[str, Any]:
        self.load_body(model.backbone, "teacher.labeler")
        tower = self.documents_encoder(model)
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
        """The path and the revision of the model that embeds documents."""
        if self.document_path is None:
            return self.path, self.revision
        return self.document_path, self.document_revision

    def _said_of(self, tower: Any, path: str, revision: str | None) -> dict[str, Any]:
        """Describe how a model embeds texts, for the record and the log."""
        normalizes, said_by = self._settings(path, revision).normalizes(self.normalize)
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
        """Build the backbone that embeds documents, with its weights.

        - raises ConfigError: where its embeddings have another size than those of queries, or only one of the two is
          normalised
        """
        from tgt_ray.models.text.encoder import TextBackbone, transformers_backbone
        from tgt_ray.models.text.tokens import own_tokens

        path, revision = self._documents_place
        longest = self.document_tokens or (self.max_tokens if self.document_path is None else None)
        key = "document_tokens" if self.document_tokens is not None else "max_tokens"
        tokens = own_tokens(path, revision, longest, "teacher.labeler", key)
        settings = self._settings(path, revision)
        tokens.prefix = settings.prefix("document", self.document_prefix)
        if settings.normalizes(self.normalize)[0] != model.normalize:
            lengths = ["length 1" if each else "any length" for each in (not model.normalize, model.normalize)]
            raise ConfigError(
                f"teacher.labeler.document_path: {path} gives embeddings of {lengths[0]}, but path {self.path} of"
                f" {lengths[1]}, by their own files; for both, set teacher.labeler.normalize: true or false"
            )
        if self.document_path is None:
            return TextBackbone(model.backbone.body, tokens, model.backbone.pooling, model.backbone.dim)
        tower = transformers_backbone(path, revision, tokens, self.pooling)
        if tower.dim != model.backbone.dim:
            raise ConfigError(
                f"teacher.labeler.document_path: {path} gives embeddings of {tower.dim} numbers, and path {self.path}"
                f" of {model.backbone.dim}; use two models that were trained together"
            )
        TextEncoder(path=path, revision=revision, pooling=self.pooling).load_body(tower, "teacher.labeler")
        return tower

    def facts(self, model: Any) -> dict[str, Any]:
        return {**model.backbone.facts(), "normalize": model.normalize}

    def document_embedder(self, model: Any) -> Callable[[InputRows], tuple[Tensor, Tensor]]:
        return partial(model.embed_documents, self.documents_encoder(model))
