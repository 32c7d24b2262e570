"""Turns text models into backbones that take rows of bytes (see `tgt_ray.core.texts`) and tokenize them inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tgt_ray.core.errors import ConfigError
from tgt_ray.models.heads import linear_head, settings_of
from tgt_ray.models.hub import from_hub, has_head, made_from, model_from_hub, refuse_missing
from tgt_ray.models.text.sentence_settings import own_pooling
from tgt_ray.models.text.tokens import Tokens, check_belongs, check_positions

#: Texts of about the same length that are embedded together.
ALIKE = 32


class WithoutHead(nn.Module):
    """Takes the place of a classifier's head and passes its inputs on.

    A causal model's head sees the states of all tokens (B, T, H), of which the model then takes that of a text's end.
    It looks for the end by its config's padding token, or takes the last place where it gets embeddings. Here each
    place has the state of the end that the mask tells.

    - last: (B,) the place of each text's last token
    - of_tokens: whether the head has seen states of tokens
    """

    def __init__(self) -> None:
        super().__init__()
        self.last: Tensor | None = None
        self.of_tokens = False

    def forward(self, states: Tensor) -> Tensor:
        self.of_tokens = states.dim() == 3
        if not self.of_tokens or self.last is None:
            return states
        # Not len(states), which torch.export would take for a constant.
        rows = torch.arange(states.shape[0], device=states.device)
        return states[rows, self.last][:, None].expand_as(states)


class TextBackbone(nn.Module):
    """Maps texts to embeddings (B, dim).

    Texts are rows of bytes (B, width) uint8; ids (B, T) as `prepare` gives them; or soft tokens (B, T, V) float: shares
    of the vocabulary, through which gradients flow.

    - pooling: "cls": the first token, "mean": the mean over tokens, "model": the body gives the embedding itself
    - dim: size of the embedding
    """

    def __init__(self, body: Any, tokens: Tokens, pooling: str, dim: int):
        super().__init__()
        self.body, self.tokens, self.pooling, self.dim = body, tokens, pooling, dim
        config = body.config
        check_belongs(body, tokens)
        check_positions(config, tokens)
        self.typed = tells_sentences(config)
        #: Where the head of a classifier was.
        self.head = next((each for each in body.modules() if isinstance(each, WithoutHead)), None)

    def facts(self) -> dict[str, Any]:
        """Return everything besides the weights that changes the outputs, as plain data; part of the fingerprint."""
        facts = {"tokens": self.tokens.facts(), "pooling": self.pooling, "settings": settings_of(self.body.config)}
        # Part of the fingerprint, since an end was once where the model's own code looked for it.
        return {**facts, **({"end": "by the mask"} if self.head is not None and self.head.of_tokens else {})}

    def prepare(self, inputs: Tensor) -> Tensor:
        """Tokenize rows of bytes (B, width) uint8 to ids (B, T)."""
        return self.tokens(inputs)

    def joined(self, *ids: Tensor) -> Tensor:
        """Join what `prepare` gave for rows of several widths into one batch."""
        return self.tokens.joined(*ids)

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.is_floating_point():
            inputs, embeddings = inputs[:, : self.tokens.max_tokens], self.body.get_input_embeddings().weight
            # Either model may have room for more tokens than the vocabulary has.
            shared = min(inputs.shape[2], len(embeddings))
            soft = inputs[:, :, :shared] @ embeddings[:shared]
            try:
                return self._embed(inputs.argmax(dim=2), {"inputs_embeds": soft})
            except NotImplementedError as err:  # BART's classifier
                raise ConfigError(
                    f"{self.tokens.where}: {type(self.body).__name__} takes no soft tokens, which gradient exploration"
                    " needs; use random exploration, or another model"
                ) from err
        ids = self.prepare(inputs) if inputs.dtype == torch.uint8 else inputs.long()
        lengths = self.tokens.present(ids).sum(dim=1)
        if self.training or len(ids) <= ALIKE:
            return self._of_ids(ids, lengths)
        # Texts of like length go together: padding to the longest of a large batch would be most of the work.
        order = lengths.argsort(stable=True)
        parts = [self._of_ids(ids[rows], lengths[rows]) for rows in order.split(ALIKE)]
        return torch.cat(parts)[order.argsort()]

    def of_any_ids(self, ids: Tensor) -> Tensor:
        """Embed ids (B, T) without a look at their values, so that torch.export can follow it."""
        out = self._embed(ids, {"input_ids": ids})
        if self.head is not None:
            self.head.last = None  # it must not stay behind where it is no real tensor
        return out

    def _of_ids(self, ids: Tensor, lengths: Tensor) -> Tensor:
        # Columns that are padding in all rows are left out.
        ids = ids[:, : max(1, int(lengths.max()))]
        return self._embed(ids, {"input_ids": ids})

    def _embed(self, ids: Tensor, given: dict[str, Tensor]) -> Tensor:
        mask = self.tokens.present(ids)
        if self.head is not None:
            self.head.last = mask.sum(dim=1).clamp(min=1) - 1
        if self.typed:
            given["token_type_ids"] = self.tokens.types(ids)
        out = self.body(**given, attention_mask=mask.long())
        if self.pooling == "model":
            return out.logits
        states = out.last_hidden_state
        if self.pooling == "cls":
            return states[:, 0]
        weights = mask[:, :, None].to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def tells_sentences(config: Any) -> bool:
    """Tell whether a model marks the second sentence of a pair by a token type, as BERT does."""
    return int(getattr(config, "type_vocab_size", 0) or 0) > 1


def scratch_backbone(tokens: Tokens, layers: int, width: int, heads: int, dropout: float) -> TextBackbone:
    """Build a BERT of any size with fresh weights and the task's vocabulary.

    - layers: 0: the mean of word embeddings
    - width: numbers in a token's state
    """
    from transformers import BertModel

    body = BertModel(bert_config(tokens, layers, width, heads, dropout), add_pooling_layer=False)
    return TextBackbone(body, tokens, "mean", width)


def bert_config(tokens: Tokens, layers: int, width: int, heads: int, dropout: float) -> Any:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=tokens.max_tokens,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        type_vocab_size=2,
        pad_token_id=tokens.pad,
    )


def transformers_backbone(path: str, revision: str | None, tokens: Tokens, pooling: str) -> TextBackbone:
    """Build an encoder or classifier of transformers with fresh weights and without its head.

    - path: folder or name on the hub
    - pooling: "cls", "mean", "model", or "auto": what the model was made for
    - raises ConfigError: for a model that gives no embeddings of texts
    """
    from transformers import AutoConfig

    config = from_hub(AutoConfig.from_pretrained, path, revision)
    with made_from(path):
        pooling = own_pooling(path, revision, config) if pooling == "auto" else pooling
        return _of_config(config, path, tokens, pooling)


def kept_architecture(backbone: TextBackbone) -> dict[str, Any]:
    """Return what rebuilds a backbone beside its weights and its tokenizer's file, as plain data."""
    config = backbone.body.config
    return {
        "config": {**settings_of(config), "model_type": config.model_type},
        "pooling": backbone.pooling,
        **kept_tokens(backbone.tokens),
    }


def kept_tokens(tokens: Tokens) -> dict[str, Any]:
    """Return what rebuilds tokens beside the tokenizer's file, as plain data."""
    names = tokens.tokenizer.special_tokens_map.items()
    return {
        "max_tokens": tokens.max_tokens,
        "special_tokens": {
            name: [str(each) for each in given] if isinstance(given, list | tuple) else str(given)
            for name, given in names
        },
    }


def rebuilt_backbone(architecture: dict[str, Any], tokenizer_json: str, where: str) -> TextBackbone:
    """Build a backbone with fresh weights from what `kept_architecture` returned.

    - tokenizer_json: of the library tokenizers
    - where: the config's key, for messages
    - raises ConfigError: where the installed transformers doesn't know the model
    """
    from transformers import AutoConfig

    tokens = rebuilt_tokens(architecture, tokenizer_json, where)
    settings = dict(architecture["config"])
    kind = settings.pop("model_type")
    try:
        config = AutoConfig.for_model(kind, **settings)
    except ValueError as err:
        raise ConfigError(f"{where}: the installed transformers has no model of the type '{kind}'") from err
    with made_from(kind):
        return _of_config(config, kind, tokens, architecture["pooling"])


def rebuilt_tokens(architecture: dict[str, Any], tokenizer_json: str, where: str) -> Tokens:
    """Build tokens from what `kept_tokens` returned; parameters as for `rebuilt_backbone`."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_json), **architecture["special_tokens"]
    )
    return Tokens(fast, architecture["max_tokens"], where)


def _of_config(config: Any, path: str, tokens: Tokens, pooling: str) -> TextBackbone:
    return _classifier(config, path, tokens) if pooling == "model" else _encoder(config, path, tokens, pooling)


def _classifier(config: Any, path: str, tokens: Tokens) -> TextBackbone:
    from transformers import AutoModelForSequenceClassification

    if config.pad_token_id is None:
        config.pad_token_id = tokens.pad  # without one a causal model's classifier takes no batches
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    name, head = linear_head(model, path)
    model.set_submodule(name, WithoutHead())
    backbone = TextBackbone(model, tokens, "model", head.in_features)
    _called_once(backbone)  # tells whether the head is for tokens
    return backbone


def _encoder(config: Any, path: str, tokens: Tokens, pooling: str) -> TextBackbone:
    from transformers import AutoModel

    if config.is_encoder_decoder:
        raise ConfigError(f"{tokens.where}.path: {path} has a decoder; an encoder or a sequence classifier is needed")
    try:
        body = AutoModel.from_config(config, dtype=torch.float32)
    except ValueError as err:
        raise ConfigError(
            f"{tokens.where}.path: {path} is not a text encoder ({' '.join(str(err).split())[:200]})"
        ) from err
    backbone = TextBackbone(without_pooler(body), tokens, pooling, int(config.hidden_size))
    _check_states(backbone, path)
    return backbone


@torch.no_grad()
def _called_once(backbone: TextBackbone) -> Any:
    """Return what the body says of the end token alone."""
    body, mode = backbone.body, backbone.body.training
    out = body.eval()(input_ids=torch.tensor([[backbone.tokens.end]]))  # without dropout nothing is drawn
    body.train(mode)
    return out


@torch.no_grad()
def _check_states(backbone: TextBackbone, path: str) -> None:
    """Raise ConfigError for a model that gives an embedding and no states of its tokens, as those of DPR do."""
    body, out = backbone.body, _called_once(backbone)
    if getattr(out, "last_hidden_state", None) is None:
        raise ConfigError(
            f"{backbone.tokens.where}.path: {path} is a {type(body).__name__}, which gives no states of its tokens; use"
            " another model, or the same weights as a BertModel or its kind, as sentence-transformers publishes those"
            " of DPR"
        )


def transformers_weights(
    path: str, revision: str | None, backbone: TextBackbone
) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
    """Load a model's weights for a backbone.

    - returns: (weights of the body, weight (K, D), bias (K,) of the model's own head); None where it has no head
    - raises ConfigError: where weights of the body are missing, since the library would draw them at random
    """
    from transformers import AutoModel, AutoModelForSequenceClassification

    classifies = backbone.pooling == "model"
    auto = AutoModelForSequenceClassification if classifies else AutoModel
    where = f"{backbone.tokens.where}.path: {path}"
    model, info = model_from_hub(auto, path, revision, where)
    if not classifies:
        # The pooler isn't used.
        refuse_missing((key for key in info["missing_keys"] if not key.startswith("pooler.")), where)
        return without_pooler(model).state_dict(), None, None
    name, head = linear_head(model, path)
    rest = {key: value for key, value in model.state_dict().items() if not key.startswith(f"{name}.")}
    if not has_head(info, name, head, where, "; give pooling: mean"):
        return rest, None, None
    return rest, head.weight.detach(), head.bias.detach() if head.bias is not None else None


def without_pooler(body: Any) -> Any:
    """Remove a model's pooler, a layer behind the tokens' states that isn't used here and many checkpoints lack."""
    if getattr(body, "pooler", None) is not None:
        body.pooler = None
    return body
