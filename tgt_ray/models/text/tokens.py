"""Wraps each text model's own tokenizer, which turns texts into token ids and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count, pairwise, takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.texts import SEPARATOR, clean, sentences, to_texts
from tgt_ray.models.hub import from_hub, own_file, tokenizer_from_hub
from tgt_ray.models.text.vocabulary import SPECIAL

#: Characters of a text that are tokenized for each token that is read, far more than a token has; and how many tokens
#: more than those that are read they have to give.
CHARACTERS, AT_THE_END = 32, 16


class Tokens:
    """Turns texts into token ids (N, T) int64 and back; T is the same for all rows of a width.

    - tokenizer: a fast one of transformers
    - max_tokens: T at the most; longer texts are cut
    - where: the config's key, for messages

    `unknown` is the id of words that the vocabulary doesn't have; None where it has all.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, where: str):
        self.tokenizer, self.max_tokens, self.where = tokenizer, max_tokens, where
        self.key = "max_tokens"
        self.prefix = ""  # what is put before each text
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise ConfigError(f"{where}: its tokenizer is not one of the library tokenizers (a fast one)")
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        # The name of a special token in a text is text.
        tokenizer.split_special_tokens = True
        # BERT and its kind call the end token a separator.
        ends = [each for each in (tokenizer.sep_token_id, tokenizer.eos_token_id) if each is not None]
        if tokenizer.pad_token_id is None or not ends:
            raise ConfigError(f"{where}: the tokenizer has no token for {'the end' if not ends else 'padding'}")
        self.pad, self.end, self.mask = int(tokenizer.pad_token_id), int(ends[0]), tokenizer.mask_token_id
        self.unknown = tokenizer.unk_token_id
        self.ends_with_pad = tokenizer("a")["input_ids"][-1:] == [self.pad]
        self.special = frozenset(int(each) for each in tokenizer.all_special_ids)
        #: T5 and its kind have these in place of a mask token: <extra_id_0> is a text's first masked span, and so on.
        self.sentinels = _sentinels(tokenizer, self.special)

    def __len__(self) -> int:
        return len(self.tokenizer)

    @property
    def top(self) -> int:
        """The highest id that a text may get."""
        # Only special tokens that are put around texts or into them count. Gemma 3's tokenizer has one more, for
        # images, than its models that read only text have embeddings.
        put = {self.pad, self.end, self.mask, *self.sentinels, *self.tokenizer("", "")["input_ids"]}
        never = {each for each, token in self.tokenizer.added_tokens_decoder.items() if token.special} - put
        return max(each for each in self.tokenizer.get_vocab().values() if each not in never)

    def __call__(self, rows: Tensor) -> Tensor:
        """Tokenize rows of bytes (N, width) uint8 to ids (N, T)."""
        texts = [self._parts(text) for text in to_texts(rows.cpu().numpy())]
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

    def _parts(self, text: str) -> tuple[str, ...]:
        """Return a text's sentences as the tokenizer gets them."""
        parts = tuple(self._begin(part) for part in sentences(self.prefix + text))
        if self.sentinels:  # `split_special_tokens` doesn't reach them, since they are pieces of words as well
            return tuple(part.replace("<extra_id_", "< extra_id_") for part in parts)
        return parts

    def _begin(self, text: str) -> str:
        """Return as much of a text as decides on its first `max_tokens` tokens, so that longer ones cost no more."""
        size = CHARACTERS * self.max_tokens
        while size < len(text):
            head = text[: max(text.rfind(" ", 0, size), 0) or size]
            if self._is_enough(head):
                return head
            size *= 4
        return text

    def end_of(self, text: str) -> str:
        """Return as much of a text as decides on its last `max_tokens` tokens."""
        size = CHARACTERS * self.max_tokens
        while size < len(text):
            space = text.find(" ", len(text) - size)
            tail = text[space if space >= 0 else len(text) - size :]
            if self._is_enough(tail):
                return tail
            size *= 4
        return text

    def _is_enough(self, part: str) -> bool:
        # What is cut off may change the tokens where it was, but not those that are some places away.
        ids = self.tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
        return len(ids) > self.max_tokens + AT_THE_END

    def unknown_words(self, rows: Tensor) -> list[list[str]]:
        """Return what the unknown tokens of each row of bytes (N, width) stand for, in order."""
        out = []
        for text in to_texts(rows.cpu().numpy()):
            parts = self._parts(text)
            said = self.tokenizer(*parts, truncation=True, max_length=self.most(rows.shape[1])).encodings[0]
            tokens = zip(said.ids, said.sequence_ids, said.offsets, strict=True)
            out.append(
                [parts[part][slice(*at)] for each, part, at in tokens if each == self.unknown and part is not None]
            )
        return out

    def present(self, ids: Tensor) -> Tensor:
        """Return which ids (N, T) are no padding, bool: all up to a text's end, even where words have its id."""
        there = (ids != self.pad).flip(1).cumsum(dim=1).flip(1) > 0
        # The end token may be the one that pads; the first one behind a text is its end.
        return F.pad(there[:, :-1], (1, 0), value=True) if self.ends_with_pad else there

    def most(self, width: int) -> int:
        """Return how many tokens a row of `width` bytes has at the most."""
        # Each token takes a byte of the text at least, except for special ones and the space that some tokenizers put
        # before each sentence. A model's own limit may be 8,192 tokens, nearly all padding for a row of few bytes.
        around = self.tokenizer.num_special_tokens_to_add(pair=True) + 2
        return min(self.max_tokens, width + len(self.prefix.encode()) + around)

    def types(self, ids: Tensor) -> Tensor:
        """Return 1 where a token belongs to a pair's second sentence, otherwise 0, for ids (N, T)."""
        ended = (ids == self.end).long()
        return ((ended.cumsum(dim=1) - ended) > 0).long() * (ids != self.pad)

    def joined(self, *ids: Tensor) -> Tensor:
        """Join ids (N, T) of rows of several widths into one batch."""
        widest = max(each.shape[1] for each in ids)
        return torch.cat([F.pad(each, (0, widest - each.shape[1]), value=self.pad) for each in ids])

    def count_cut(self, texts: list[str]) -> tuple[int, str]:
        """Count the texts that are longer than `max_tokens`, and return the first of them as well."""
        cut = [text for text in texts if self.is_cut(text)]
        return len(cut), cut[0] if cut else ""

    def is_cut(self, text: str) -> bool:
        """Tell whether a text is longer than `max_tokens`."""
        return len(self.tokenizer(*self._parts(text), verbose=False)["input_ids"]) > self.max_tokens

    def texts(self, ids: Tensor, unknown: list[list[str]] | None = None) -> list[str]:
        """Return the texts of ids, without special tokens. The end token separates the sentences of a pair.

        - unknown: the words that stand in the place of each row's unknown tokens, in order; None: these are left out
        """
        out = []
        for number, row in enumerate(ids.tolist()):
            words = iter(unknown[number] if unknown is not None else ())
            parts: list[list[int]] = [[]]
            for token in row:
                if token == self.end:
                    parts.append([])
                elif token not in self.special or (unknown is not None and token == self.unknown):
                    parts[-1].append(token)
            said = [self._decoded(part, words).strip() for part in parts if part]
            out.append(SEPARATOR.join(map(clean, said[:2])))
        return out

    def _decoded(self, ids: list[int], words: Iterator[str]) -> str:
        """Decode ids, with a word in the place of each unknown token."""
        count = ids.count(self.unknown) if self.unknown is not None else 0
        if not count:
            return str(self.tokenizer.decode(ids))
        between = self.tokenizer.decode(ids).split(self.tokenizer.unk_token)
        if len(between) != count + 1:  # the text has the token's name as well
            places = [-1, *(place for place, each in enumerate(ids) if each == self.unknown), len(ids)]
            between = [f" {self.tokenizer.decode(ids[first + 1 : last])} " for first, last in pairwise(places)]
        return "".join(part + next(words, "") for part in between[:-1]) + between[-1]

    def facts(self) -> dict[str, Any]:
        """Return all that the ids follow from, as plain data."""
        whole = json.loads(self.tokenizer.backend_tokenizer.to_str())
        # How the last batch was padded and cut doesn't belong to the vocabulary.
        rest = {key: value for key, value in whole.items() if key not in ("padding", "truncation")}
        return {
            "tokenizer": digest(rest),
            "max_tokens": self.max_tokens,
            **({"prefix": self.prefix} if self.prefix else {}),
        }


def _sentinels(tokenizer: Any, special: frozenset[int]) -> list[int]:
    # A name that the tokenizer doesn't have gives the unknown token.
    known = special - {tokenizer.unk_token_id}
    return list(takewhile(known.__contains__, (tokenizer.convert_tokens_to_ids(f"<extra_id_{k}>") for k in count())))


def corpus_tokens(tokenizer_json: str, max_tokens: int, where: str) -> Tokens:
    """Return the tokens of the task's own vocabulary.

    - tokenizer_json: as `tgt_ray.models.text.vocabulary` makes it; empty where the task has none
    - where: the config's key, for messages
    """
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
    """Return the tokens of a model.

    - path: folder or name on the hub
    - max_tokens: None takes the model's own limit
    - where: the config's key, for messages
    - key: of `max_tokens` in that config, for messages
    """
    from transformers import AutoConfig

    longest = max_tokens or _own_length(path, revision, from_hub(AutoConfig.from_pretrained, path, revision))
    tokens = tokens_of(tokenizer_from_hub(path, revision), longest, where)
    tokens.key = key
    return tokens


def tokens_of(tokenizer: Any, max_tokens: int, where: str) -> Tokens:
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token  # as causal language models are used
    return Tokens(tokenizer, max_tokens, where)


def _own_length(path: str, revision: str | None, config: Any) -> int:
    """Return the limit that sentence-transformers wrote beside the model, or the number of its positions."""
    said = own_file(path, revision, "sentence_bert_config.json") or {}
    return int(said.get("max_seq_length") or _positions(config) or 512)


#: Models that count positions from the padding token's id on, by the texts' own ids: those of transformers 4.56 to 5.23
#: whose text encoders use a function `create_position_ids_from_input_ids`.
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
#: These do so as well, but have no table of positions that limits a text's length.
AFTER_PADDING_WITHOUT_END = frozenset(("fsmt", "m2m_100", "nllb-moe", "seamless_m4t", "seamless_m4t_v2"))


def _positions(config: Any) -> int | None:
    """Return how many tokens the positions allow; None where positions are relative."""
    longest = getattr(config, "max_position_embeddings", None) or 0
    if longest <= 0:
        return None
    pad = _counted_from(config)
    return int(longest) - pad - 1 if pad is not None and config.model_type in AFTER_PADDING else int(longest)


def _counted_from(config: Any) -> int | None:
    """Return the padding token after which positions begin; None where positions don't depend on it."""
    if config.model_type not in AFTER_PADDING | AFTER_PADDING_WITHOUT_END:
        return None
    # MPNet's code says 1, whatever its config does.
    return 1 if config.model_type == "mpnet" else config.pad_token_id


def check_belongs(body: Any, tokens: Tokens) -> None:
    """Raise ConfigError where a tokenizer can't be its model's own.

    It isn't where it gives ids that have no embedding, or pads with another token than the one from which the model
    counts positions. Other differences in special tokens are not refused, since what a config says of them is often a
    default that its checkpoint never used: BERT's multilingual kin with XLM-R's tokenizer (Multilingual-MiniLM,
    multilingual E5) say pad 0 and pad with 1. That does no harm, since padding is masked; the embedding of
    `padding_idx` is a row like others once it is trained.
    """
    config, room = body.config, len(body.get_input_embeddings().weight)
    if tokens.top >= room:
        raise ConfigError(
            f"{tokens.where}: the tokenizer gives ids up to {tokens.top}, and its model has {room} embeddings: they"
            " don't belong together; give a folder with the model's own tokenizer"
        )
    pad = _counted_from(config)
    if pad is not None and pad != tokens.pad:
        raise ConfigError(
            f"{tokens.where}: the tokenizer pads with token {tokens.pad}, and its model counts positions from padding"
            f" token {pad}: they don't belong together; give a folder with the model's own tokenizer"
        )


def check_positions(config: Any, tokens: Tokens, wanted: int | None = None, key: str | None = None) -> None:
    """Raise ConfigError where texts may have more tokens than a model has positions.

    - wanted: how many tokens; None: as many as `tokens` gives
    - key: of that number in the config, for messages
    """
    wanted, most = tokens.max_tokens if wanted is None else wanted, _positions(config)
    if most is not None and wanted > most:
        raise ConfigError(
            f"{tokens.where}.{key or tokens.key}: {wanted}, but the model has positions for {most} tokens at the most"
        )
