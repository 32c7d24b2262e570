"""Text models as backbones: rows of bytes in (see `tgt_ray.texts`), each model's own tokenizer inside."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgt_ray.config import ConfigError, digest, nearest
from tgt_ray.hub import from_hub, own_file
from tgt_ray.models.pretrained import linear_head, settings_of
from tgt_ray.texts import SEPARATOR, clean, sentences, to_texts
from tgt_ray.vocabulary import SPECIAL


class Tokens:
    """Texts <-> token ids (N, T) int64, padded, T the same for all rows of a width; longer texts are cut. where: the config's key, for
    messages."""

    def __init__(self, tokenizer: Any, max_tokens: int, where: str):
        self.tokenizer, self.max_tokens, self.where = tokenizer, max_tokens, where
        self.key = "max_tokens"
        self.prefix = ""  # what is put before each text
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise ConfigError(f"{where}: its tokenizer is not one of the library tokenizers (a fast one)")
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        # A text that has the name of a special token in it has no special token.
        tokenizer.split_special_tokens = True
        # BERT and its kind call the end of a text its separator.
        ends = [each for each in (tokenizer.sep_token_id, tokenizer.eos_token_id) if each is not None]
        if tokenizer.pad_token_id is None or not ends:
            raise ConfigError(f"{where}: the tokenizer has no token for {'the end' if not ends else 'padding'}")
        self.pad, self.end, self.mask = int(tokenizer.pad_token_id), int(ends[0]), tokenizer.mask_token_id
        self.special = frozenset(int(each) for each in tokenizer.all_special_ids)
        #: What T5 and its kind have in place of a mask token: the first hidden span of a text is <extra_id_0>, and so on.
        self.sentinels = _sentinels(tokenizer, self.special)

    def __len__(self) -> int:
        return len(self.tokenizer)

    @property
    def top(self) -> int:
        """The highest id that a text may get."""
        # Of special tokens those that are put around texts or into them. Gemma 3's tokenizer has one more, for images, than its models
        # that read text alone have embeddings.
        put = {self.pad, self.end, self.mask, *self.sentinels, *self.tokenizer("", "")["input_ids"]}
        never = {each for each, token in self.tokenizer.added_tokens_decoder.items() if token.special} - put
        return max(each for each in self.tokenizer.get_vocab().values() if each not in never)

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows of bytes (N, width) uint8 -> ids (N, T)."""
        texts = [sentences(self.prefix + text) for text in to_texts(rows.cpu().numpy())]
        if self.sentinels:  # they are pieces of words as well, so the setting above doesn't reach them
            texts = [tuple(part.replace("<extra_id_", "< extra_id_") for part in text) for text in texts]
        most = self.most(rows.shape[1])
        out = np.empty((len(texts), most), np.int64)
        # The library takes a batch of single sentences, or one of pairs.
        for size in {len(text) for text in texts}:
            here = [number for number, text in enumerate(texts) if len(text) == size]
            out[here] = self.tokenizer(
                *map(list, zip(*(texts[number] for number in here), strict=True)),
                padding="max_length",
                truncation=True,
                max_length=most,
                return_attention_mask=False,
            )["input_ids"]
        return torch.from_numpy(out).to(rows.device)

    def most(self, width: int) -> int:
        """Tokens of a row of so many bytes, at the most."""
        # A token has a byte of its text at least, but for special ones and the space that some tokenizers put before each sentence. A
        # model's own limit may be 8,192 tokens, of which a row of few bytes would be padding.
        around = self.tokenizer.num_special_tokens_to_add(pair=True) + 2
        return min(self.max_tokens, width + len(self.prefix.encode()) + around)

    def types(self, ids: Tensor) -> Tensor:
        """1 where a token is of a pair's second sentence, of ids (N, T)."""
        ended = (ids == self.end).long()
        return ((ended.cumsum(dim=1) - ended) > 0).long() * (ids != self.pad)

    def joined(self, *ids: Tensor) -> Tensor:
        """Ids (N, T) of rows of several widths in one batch."""
        widest = max(each.shape[1] for each in ids)
        return torch.cat([F.pad(each, (0, widest - each.shape[1]), value=self.pad) for each in ids])

    def count_cut(self, texts: list[str]) -> tuple[int, str]:
        """How many of the texts are longer than `max_tokens`, and the first of them."""
        cut = [text for text in texts if self.is_cut(text)]
        return len(cut), cut[0] if cut else ""

    def is_cut(self, text: str) -> bool:
        """Whether a text is longer than `max_tokens`."""
        return len(self.tokenizer(*sentences(self.prefix + text), verbose=False)["input_ids"]) > self.max_tokens

    def texts(self, ids: Tensor) -> list[str]:
        """What ids say, without special tokens. The sentences of a pair are found by the end token between them."""
        out = []
        for row in ids.tolist():
            parts: list[list[int]] = [[]]
            for token in row:
                if token == self.end:
                    parts.append([])
                elif token not in self.special:
                    parts[-1].append(token)
            said = [self.tokenizer.decode(part).strip() for part in parts if part]
            out.append(SEPARATOR.join(map(clean, said[:2])))
        return out

    def facts(self) -> dict[str, Any]:
        """What ids follow from, as plain data."""
        whole = json.loads(self.tokenizer.backend_tokenizer.to_str())
        # How the last batch was padded and cut is no part of the vocabulary.
        rest = {key: value for key, value in whole.items() if key not in ("padding", "truncation")}
        return {
            "tokenizer": digest(rest),
            "max_tokens": self.max_tokens,
            **({"prefix": self.prefix} if self.prefix else {}),
        }


def _sentinels(tokenizer: Any, special: frozenset[int]) -> list[int]:
    # A name that it doesn't have gives the token for what is unknown.
    known = special - {tokenizer.unk_token_id}
    return list(takewhile(known.__contains__, (tokenizer.convert_tokens_to_ids(f"<extra_id_{k}>") for k in count())))


def corpus_tokens(tokenizer_json: str, max_tokens: int, where: str) -> Tokens:
    """The tokens of the task's own vocabulary."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    if not tokenizer_json:
        raise ConfigError(f"{where}: a model from scratch needs a text task, which has a vocabulary")
    start, pad, end, unknown, mask = SPECIAL
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_json),
        bos_token=start,
        pad_token=pad,
        eos_token=end,
        unk_token=unknown,
        mask_token=mask,
    )
    return Tokens(fast, max_tokens, where)


def own_tokens(path: str, revision: str | None, max_tokens: int | None, where: str, key: str = "max_tokens") -> Tokens:
    """The tokens of a model's folder or hub name. max_tokens: None takes the model's own limit. key: where it was given."""
    from transformers import AutoConfig, AutoTokenizer

    longest = max_tokens or _own_length(path, revision, from_hub(AutoConfig.from_pretrained, path, revision))
    tokens = tokens_of(from_hub(AutoTokenizer.from_pretrained, path, revision), longest, where)
    tokens.key = key
    return tokens


def tokens_of(tokenizer: Any, max_tokens: int, where: str) -> Tokens:
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token  # as causal language models are used
    return Tokens(tokenizer, max_tokens, where)


#: Texts of about the same length that are embedded together.
ALIKE = 32


class TextBackbone(nn.Module):
    """Texts -> embeddings (B, dim).

    Texts are rows of bytes (B, width) uint8; ids (B, T) as `prepare` gives them; or soft tokens (B, T, V) float: shares of the
    vocabulary, through which gradients flow.
    pooling: "cls", "mean" over tokens, or "model": the body gives the embedding itself.
    """

    def __init__(self, body: Any, tokens: Tokens, pooling: str, dim: int):
        super().__init__()
        self.body, self.tokens, self.pooling, self.dim = body, tokens, pooling, dim
        config = body.config
        check_belongs(body, tokens)
        check_positions(config, tokens)
        self.typed = tells_sentences(config)

    def facts(self) -> dict[str, Any]:
        """What outputs follow from beside weights, as plain data."""
        return {"tokens": self.tokens.facts(), "pooling": self.pooling, "settings": settings_of(self.body.config)}

    def prepare(self, inputs: Tensor) -> Tensor:
        """Rows of bytes -> ids."""
        return self.tokens(inputs)

    def joined(self, *ids: Tensor) -> Tensor:
        """What `prepare` gave of rows of several widths, as one batch."""
        return self.tokens.joined(*ids)

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.is_floating_point():
            inputs, embeddings = inputs[:, : self.tokens.max_tokens], self.body.get_input_embeddings().weight
            # Either model may have room for more tokens than there are.
            shared = min(inputs.shape[2], len(embeddings))
            soft = inputs[:, :, :shared] @ embeddings[:shared]
            try:
                return self._embed(inputs.argmax(dim=2), {"inputs_embeds": soft})
            except NotImplementedError as err:  # BART's classifier
                raise ConfigError(
                    f"{self.tokens.where}: {type(self.body).__name__} takes no soft tokens, which gradient exploration moves through; use"
                    " random, or another model"
                ) from err
        ids = self.prepare(inputs) if inputs.dtype == torch.uint8 else inputs.long()
        lengths = (ids != self.tokens.pad).sum(dim=1)
        if self.training or len(ids) <= ALIKE:
            return self._of_ids(ids, lengths)
        # Short texts beside short ones: padding to the longest of a large batch would be most of the work.
        order = lengths.argsort(stable=True)
        parts = [self._of_ids(ids[rows], lengths[rows]) for rows in order.split(ALIKE)]
        return torch.cat(parts)[order.argsort()]

    def _of_ids(self, ids: Tensor, lengths: Tensor) -> Tensor:
        # What no text of the batch reaches costs nothing.
        ids = ids[:, : max(1, int(lengths.max()))]
        return self._embed(ids, {"input_ids": ids})

    def _embed(self, ids: Tensor, given: dict[str, Tensor]) -> Tensor:
        mask = ids != self.tokens.pad
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
    """Whether a model tells the second sentence of a pair by its token type, as BERT does."""
    return int(getattr(config, "type_vocab_size", 0) or 0) > 1


def scratch_backbone(tokens: Tokens, layers: int, width: int, heads: int, dropout: float) -> TextBackbone:
    """A BERT of any size with fresh weights and the task's vocabulary; 0 layers: the mean of word embeddings."""
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
    """An encoder or classifier of transformers with fresh weights and without its head."""
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    config = from_hub(AutoConfig.from_pretrained, path, revision)
    pooling = _pooling(path, revision, config) if pooling == "auto" else pooling
    if pooling == "model":
        if config.pad_token_id is None:
            config.pad_token_id = tokens.pad  # by which a causal model's classifier finds a text's end
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        name, head = linear_head(model, path)
        model.set_submodule(name, nn.Identity())
        return TextBackbone(model, tokens, pooling, head.in_features)
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
def _check_states(backbone: TextBackbone, path: str) -> None:
    """ConfigError for a model that gives an embedding and nothing of its tokens, as those of DPR do."""
    body, mode = backbone.body, backbone.body.training
    out = body.eval()(input_ids=torch.tensor([[backbone.tokens.end]]))  # without dropout nothing is drawn
    body.train(mode)
    if getattr(out, "last_hidden_state", None) is None:
        raise ConfigError(
            f"{backbone.tokens.where}.path: {path} is a {type(body).__name__}, which gives no states of its tokens; use another model, or the"
            " same weights as a BertModel or its kind, as sentence-transformers publishes those of DPR"
        )


def transformers_weights(
    path: str, revision: str | None, backbone: TextBackbone
) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
    """Weights of the body, and weight (K, D) and bias (K,) of its own head, None where it has none. ConfigError where some of the body's
    aren't there: the library would draw them at random."""
    from transformers import AutoModel, AutoModelForSequenceClassification

    classifies = backbone.pooling == "model"
    load = (AutoModelForSequenceClassification if classifies else AutoModel).from_pretrained
    model, info = from_hub(load, path, revision, output_loading_info=True, dtype=torch.float32)
    name, head = linear_head(model, path) if classifies else ("pooler", None)
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(f"{name}."))
    if missing:
        hint = "; give pooling: mean" if classifies else ""
        raise ConfigError(f"{backbone.tokens.where}.path: {path} has no weights for '{missing[0]}'{hint}")
    if head is None:
        return without_pooler(model).state_dict(), None, None
    rest = {key: value for key, value in model.state_dict().items() if not key.startswith(f"{name}.")}
    if f"{name}.weight" in info["missing_keys"]:
        return rest, None, None
    return rest, head.weight.detach(), head.bias.detach() if head.bias is not None else None


def without_pooler(body: Any) -> Any:
    """A layer behind the tokens' states that is not used here, and that many checkpoints lack."""
    if getattr(body, "pooler", None) is not None:
        body.pooler = None
    return body


def _pooling(path: str, revision: str | None, config: Any) -> str:
    """A classifier's own; as sentence-transformers wrote it; otherwise the mean."""
    if any(name.endswith("ForSequenceClassification") for name in config.architectures or ()):
        return "model"
    said = _pooling_file(path, revision, _modules(path, revision))
    modes = [
        name.removeprefix("pooling_mode_")
        for name, on in said.items()
        if name.startswith("pooling_mode_") and on is True
    ]
    if not modes:
        mode = said.get("pooling_mode") or "mean"
        modes = mode if isinstance(mode, list) else [mode]
    known = {"cls_token": "cls", "cls": "cls", "mean_tokens": "mean", "mean": "mean"}
    if len(modes) != 1 or modes[0] not in known:
        raise ConfigError(
            f"{path}: its embeddings are pooled by {', '.join(map(str, modes))}, which is not there; use another model, or give pooling: mean or cls"
            " where one of them will do"
        )
    return known[modes[0]]


def _modules(path: str, revision: str | None) -> dict[str, str] | None:
    """The layers of a model and their folders, as sentence-transformers wrote them; None where it wrote nothing."""
    modules = own_file(path, revision, "modules.json")
    if modules is None:
        return None
    return {str(each.get("type", "")).rpartition(".")[2]: str(each.get("path", "")) for each in modules}


def _pooling_file(path: str, revision: str | None, modules: dict[str, str] | None) -> dict[str, Any]:
    """What it says of pooling. ConfigError where the model's layers say that it is elsewhere than here."""
    if modules is None:
        return own_file(path, revision, "1_Pooling/config.json") or {}
    if "Pooling" not in modules:
        raise ConfigError(f"{path}: its modules.json has no layer 'Pooling'; give pooling: mean or cls")
    name = f"{modules['Pooling']}/config.json"
    said = own_file(path, revision, name)
    if said is None:
        raise ConfigError(f"{path}: has no file {name}, where its modules.json has pooling; give pooling: mean or cls")
    return said


def _own_length(path: str, revision: str | None, config: Any) -> int:
    """As sentence-transformers wrote it beside the model, or as many tokens as it has positions."""
    said = own_file(path, revision, "sentence_bert_config.json") or {}
    return int(said.get("max_seq_length") or _positions(config) or 512)


@dataclass(frozen=True)
class SentenceSettings:
    """As sentence-transformers wrote it beside the model at `path`.

    query, document: what is put before them. similarity: what it compares embeddings by; None: nothing is said. unit: whether a layer
    makes embeddings of length 1. pools_prompt: whether a prompt's tokens are pooled as the text's are.
    """

    path: str
    query: str
    document: str
    similarity: str | None
    unit: bool
    pools_prompt: bool

    def normalize(self) -> bool | None:
        """Whether dot products rank as the model does when embeddings are made of length 1; None: nothing is said. ConfigError where they
        don't either way."""
        if self.similarity not in (None, "cosine", "dot"):
            raise ConfigError(
                f"{self.path}: compares embeddings by '{self.similarity}', and rankings here are by dot products; give normalize: true where"
                " cosines will do, or use another model"
            )
        if self.unit:
            return True
        return None if self.similarity is None else self.similarity == "cosine"


def sentence_settings(path: str, revision: str | None, pooling: str = "auto") -> SentenceSettings:
    """ConfigError for a model with further layers. pooling: as a person gave it, where it is not for the model's files to say."""
    modules = _modules(path, revision)
    other = [kind for kind in modules or {} if kind not in ("Transformer", "Pooling", "Normalize")]
    if other:
        raise ConfigError(
            f"{path}: its embeddings come from a layer '{other[0]}', which is not there; use another model"
        )
    said = own_file(path, revision, "config_sentence_transformers.json") or {}
    prompts = {name: text or "" for name, text in (said.get("prompts") or {}).items()}
    usual = said.get("default_prompt_name")
    if usual is not None and usual not in prompts:
        raise ConfigError(
            f"{path}: config_sentence_transformers.json: default_prompt_name: '{usual}' is none of its prompts; {nearest(usual, prompts)}"
        )

    def prompt(*names: str) -> str:
        return next((prompts[name] for name in (*names, usual) if name in prompts), "")

    return SentenceSettings(
        path,
        prompt("query"),
        prompt("document", "passage", "corpus"),
        said.get("similarity_fn_name"),
        "Normalize" in (modules or {}),
        pooling != "auto" or _pooling_file(path, revision, modules).get("include_prompt", True) is not False,
    )


#: Models whose positions are counted from the padding token's id on, by texts' own ids: those of transformers 4.56 to 5.23 with a
#: function `create_position_ids_from_input_ids` that their text encoders use.
AFTER_PADDING = frozenset(
    [
        "camembert",
        "data2vec-text",
        "esm",
        "ibert",
        "layoutlmv3",
        "lilt",
        "longformer",
        "luke",
        "markuplm",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    ]
)
#: These as well, but without a table of positions that could end.
AFTER_PADDING_WITHOUT_END = frozenset(("fsmt", "m2m_100", "nllb-moe", "seamless_m4t", "seamless_m4t_v2"))


def _positions(config: Any) -> int | None:
    """Tokens at the most; None where positions are relative."""
    longest = getattr(config, "max_position_embeddings", None) or 0
    if longest <= 0:
        return None
    pad = _counted_from(config)
    return int(longest) - pad - 1 if pad is not None and config.model_type in AFTER_PADDING else int(longest)


def _counted_from(config: Any) -> int | None:
    """The padding token after which positions begin; None where positions are the same whatever tokens there are."""
    if config.model_type not in AFTER_PADDING | AFTER_PADDING_WITHOUT_END:
        return None
    # MPNet's code says 1, whatever its config does.
    return 1 if config.model_type == "mpnet" else config.pad_token_id


def check_belongs(body: Any, tokens: Tokens) -> None:
    """ConfigError where a tokenizer can't be its model's own: it gives ids that have no embedding, or pads with another token than the
    one from which the model counts positions.

    Of other models' special tokens nothing is refused, since what a config says of them is often a default that its checkpoint never
    used: BERT's multilingual kin with XLM-R's tokenizer (Multilingual-MiniLM, multilingual E5) say pad 0 and pad with 1. That does no
    harm, since padding is masked; the embedding of `padding_idx` is a row like others once it is trained.
    """
    config, room = body.config, len(body.get_input_embeddings().weight)
    if tokens.top >= room:
        raise ConfigError(
            f"{tokens.where}: the tokenizer gives ids up to {tokens.top}, and its model has {room} embeddings: they don't belong together;"
            " give a folder with the model's own tokenizer"
        )
    pad = _counted_from(config)
    if pad is not None and pad != tokens.pad:
        raise ConfigError(
            f"{tokens.where}: the tokenizer pads with token {tokens.pad}, and its model counts positions from padding token {pad}: they don't"
            " belong together; give a folder with the model's own tokenizer"
        )


def check_positions(config: Any, tokens: Tokens, wanted: int | None = None, key: str | None = None) -> None:
    """ConfigError where texts may have more tokens than a model has positions. wanted: absent, what `tokens` gives."""
    wanted, most = tokens.max_tokens if wanted is None else wanted, _positions(config)
    if most is not None and wanted > most:
        raise ConfigError(
            f"{tokens.where}.{key or tokens.key}: {wanted}, but the model has positions for {most} tokens at the most"
        )
