"""Provides the settings that labelers and students of one kind of model share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import Config, FilePath, FolderOrName
from tgt_ray.core.errors import ConfigError, nearest


def known_to_timm(name: str) -> str:
    """Return the name of a timm model; ValueError where timm doesn't have it."""
    import timm

    architecture, _, tag = name.partition(".")
    what, given, known = "model", architecture, timm.list_models()
    if tag and architecture in known:
        what, given, known = "weights", name, timm.list_pretrained(f"{architecture}.*")
    if given not in known:
        raise ValueError(f"timm has no {what} '{given}'; {nearest(given, known, 3)[:200]}")
    return name


#: A timm architecture, perhaps with the tag of its weights.
TimmName = Annotated[
    str,
    AfterValidator(known_to_timm),
    Field(
        description="name of the architecture, as `timm.list_models()` gives it, or with the tag of its weights, as"
        " `timm.list_pretrained()` does (`vit_base_patch16_224.dino`); input size and normalisation are those of the"
        " tag's weights"
    ),
]


class TimmModel(Config):
    """A model of the library timm, as labeler or as student."""

    name: TimmName
    pretrained: bool = Field(
        False, description="whether to load the weights that timm knows for this name from the hub; excludes `weights`"
    )
    weights: FilePath | None = Field(
        None, description="a .safetensors file with weights of the timm model; excludes `pretrained`"
    )
    img_size: int | None = Field(
        None,
        ge=8,
        le=2**14,
        description="height and width in pixels that images are resized to; absent: the size of the pretraining, or,"
        " from scratch, as they are",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments of `timm.create_model`")

    @model_validator(mode="after")
    def _one_source(self) -> TimmModel:
        if self.pretrained and self.weights is not None:
            raise ValueError("pretrained and weights exclude each other: give one of them")
        return self

    @property
    def external(self) -> bool:
        """Whether its weights come from elsewhere."""
        return self.pretrained or self.weights is not None

    @property
    def own_size(self) -> tuple[int, ...] | None:
        """Height and width of the images of the pretraining, as timm knows them."""
        import timm

        config = timm.get_pretrained_cfg(self.name, allow_unregistered=True)
        return None if config is None else tuple(config.input_size[1:])

    def backbone(self, spec: InputSpec) -> Any:
        """Build the architecture without its head, with fresh weights."""
        from tgt_ray.models.image.timm import timm_backbone

        return timm_backbone(self.name, spec.shape[0], self.img_size, self.external, self.options)

    def load_body(self, backbone: Any, key: str) -> tuple[str, Any, Any]:
        """Put weights from elsewhere into a backbone.

        - key: of this config, for messages
        - returns: where the weights come from, and weight (K, D) and bias (K,) of their head, None where it has none
        """
        from tgt_ray.models.image.timm import at_size, split_head, timm_weights
        from tgt_ray.models.weights import check_finite, load_strictly, read_safetensors, unprefixed

        own = backbone.body.state_dict()
        if self.weights is not None:
            where = f"{key}.weights: {self.weights}"
            state = unprefixed(read_safetensors(read_file(self.weights, f"{key}.weights"), where), own, where)
        else:
            where, state = f"timm's weights of {self.name}", timm_weights(self.name)
        body, weight, bias = split_head(self.name, state, own)
        if self.img_size is not None:
            body = at_size(backbone.body, body, self.name, key)
        load_strictly(backbone.body, body, where)
        check_finite((each for each in state.items() if each[0] not in own), where)
        return where, weight, bias


class ReadsTexts(Config):
    """A model of texts, with a tokenizer of its own or the task's."""

    @property
    def vocabulary(self) -> str | None:
        """Where its tokenizer comes from, a folder or a name on the hub; None: it is the task's own."""
        raise NotImplementedError

    def tokens(self, spec: InputSpec, key: str) -> Any:
        """Return its `tgt_ray.models.text.tokens.Tokens`.

        - key: of this config, for messages
        """
        raise NotImplementedError


class TransformerSize(ReadsTexts):
    """A transformer encoder of any size with the task's vocabulary; the mean over its tokens is the embedding."""

    layers: int = Field(
        2,
        ge=0,
        le=1024,
        description="transformer layers; more: more capacity at more cost; 0: the mean of word embeddings",
    )
    width: int = Field(
        128,
        ge=8,
        le=2**16,
        description="size of a token's state and of the embedding, a multiple of heads; larger: more capacity at more"
        " cost",
    )
    heads: int = Field(4, ge=1, le=1024, description="attention heads of each layer, which divide the width among them")
    max_tokens: int = Field(
        64, ge=4, le=2**20, description="tokens of a text at the most; longer texts are cut; more cost time and memory"
    )
    dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of states and attention weights that training sets to 0; higher: less overfitting",
    )

    @property
    def vocabulary(self) -> str | None:
        return None

    @model_validator(mode="after")
    def _heads_divide(self) -> TransformerSize:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    def tokens(self, spec: InputSpec, key: str) -> Any:
        from tgt_ray.models.text.tokens import corpus_tokens

        return corpus_tokens(spec.tokenizer, self.max_tokens, key)

    def backbone(self, spec: InputSpec, key: str) -> Any:
        from tgt_ray.models.text.encoder import scratch_backbone

        size = self.model_dump(include={"layers", "width", "heads", "dropout"})
        return scratch_backbone(self.tokens(spec, key), **size)


class TextEncoder(ReadsTexts):
    """An encoder or a sequence classifier of the library transformers, as labeler or as student."""

    path: FolderOrName = Field(
        description="folder that `save_pretrained` wrote (with its tokenizer) and that all nodes see,"
        " `package:NAME/FOLDER` for a folder in an installed Python package, or a name on the hub"
    )
    revision: str | None = Field(None, description="commit or tag of a model on the hub")
    max_tokens: int | None = Field(
        None,
        ge=4,
        le=2**20,
        description="tokens of a text at the most; longer texts are cut; more cost time and memory; absent: the model's"
        " own limit",
    )
    pooling: Literal["auto", "model", "mean", "cls"] = Field(
        "auto",
        description="how tokens become an embedding; model: as for the model's own classification head, mean: their"
        " mean, cls: the first token, auto: what the model was made for",
    )

    @property
    def vocabulary(self) -> str | None:
        return self.path

    def tokens(self, spec: InputSpec, key: str) -> Any:
        from tgt_ray.models.text.tokens import own_tokens

        return own_tokens(self.path, self.revision, self.max_tokens, key)

    def backbone(self, spec: InputSpec, key: str) -> Any:
        """Build the architecture without its head, with fresh weights."""
        from tgt_ray.models.text.encoder import transformers_backbone

        return transformers_backbone(self.path, self.revision, self.tokens(spec, key), self.pooling)

    def load_body(self, backbone: Any, key: str) -> tuple[Any, Any]:
        """Put the model's weights into a backbone.

        - key: of this config, for messages
        - returns: weight (K, D) and bias (K,) of the model's own head, None where it has none
        """
        from tgt_ray.models.text.encoder import transformers_weights
        from tgt_ray.models.weights import load_strictly

        body, weight, bias = transformers_weights(self.path, self.revision, backbone)
        load_strictly(backbone.body, body, f"{key}.path: {self.path}")
        return weight, bias


def read_file(path: Path, key: str) -> bytes:
    """Read a file that the config names at `key`; ConfigError where that fails."""
    try:
        return path.read_bytes()
    except OSError as err:
        raise ConfigError(f"{key}: cannot read {path} ({err.strerror})") from err
