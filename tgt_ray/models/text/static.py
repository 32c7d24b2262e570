"""Embeds texts by the mean of vectors of their tokens, which begin as what a text encoder says of each token alone.

The recipe is that of static embedding models (Model2Vec, Tulkens and van Dongen 2024, doi 10.5281/zenodo.17270888):
embed each token by itself, reduce by PCA, and weigh by smooth inverse frequency (SIF, Arora et al. 2017), with
frequencies by Zipf's law. Vectors are trained afterwards.
"""

from __future__ import annotations

import re
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.progress import counted
from tgt_ray.models.text.encoder import TextBackbone, kept_tokens, rebuilt_tokens
from tgt_ray.models.text.tokens import Tokens

#: Tokens that the encoder embeds at once.
AT_ONCE = 256
#: The constant of SIF; the lower, the less frequent tokens count.
SIF = 1e-4
#: Empty places of BERT's vocabularies, which would count as its most frequent words.
UNUSED = re.compile(r"\[unused\d+\]")


class WordVectors(nn.Module):
    """Holds a vector for each token, and gives them as the bodies of transformers give states.

    - rows, dims: how many vectors, and of how many numbers
    """

    def __init__(self, rows: int, dims: int):
        super().__init__()
        self.vectors = nn.Embedding(rows, dims)
        #: As far as a backbone looks at one: neither positions nor marks of sentences.
        self.config = SimpleNamespace(model_type="static", vocab_size=rows, hidden_size=dims)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.vectors

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> Any:
        states = self.vectors(input_ids) if inputs_embeds is None else inputs_embeds
        return SimpleNamespace(last_hidden_state=states)


class StaticBackbone(TextBackbone):
    """Maps texts to the mean of their tokens' vectors, (B, dim)."""

    def __init__(self, tokens: Tokens, rows: int, dims: int):
        super().__init__(WordVectors(rows, dims), tokens, "mean", dims)
        #: (E, dims) for a projection back into the encoder's space, before training; None: not known.
        self.directions: Tensor | None = None

    def facts(self) -> dict[str, Any]:
        return {"tokens": self.tokens.facts(), "pooling": self.pooling, "settings": dict(vars(self.body.config))}


@torch.no_grad()
def first_vectors(encoder: TextBackbone, outputs: bool, dims: int, where: str) -> tuple[Tensor, Tensor]:
    """Compute a vector for each token of an encoder.

    Special tokens have none, so that the mean over a text's tokens has the direction of the mean over its words.
    Vectors are scaled so that their numbers have a root mean square of 1, which a learning rate can rely on (our
    choice).

    - outputs: from what the encoder says of each token alone; otherwise from its input embeddings
    - where: the config's key, for messages
    - returns: the vectors (V, dims), and the directions (E, dims) in the encoder's space that their numbers stand for
    - raises ConfigError: where there are more dims than numbers in an embedding
    """
    words = words_of(encoder)
    said = _said_of(encoder, words) if outputs else encoder.body.get_input_embeddings().weight[words]
    if dims > min(said.shape):
        raise ConfigError(f"{where}.dims: {dims}, and the encoder's tokens have vectors of {said.shape[1]} numbers")
    centred = said.double() - said.double().mean(dim=0)
    # Ascending eigenvalues: the last directions have the most variance.
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -dims:].flip(1)
    # Eigenvectors may point either way; so one machine's are another's.
    directions *= directions.gather(0, directions.abs().argmax(dim=0, keepdim=True)).sign()
    # By Zipf's law: vocabularies begin with frequent tokens, and the first rank counts as the second.
    frequency = 1 / torch.arange(2, len(words) + 2, dtype=torch.float64)
    weights = SIF / (SIF + frequency / frequency.sum())
    vectors = torch.zeros(rows_of(encoder.tokens), dims)
    weighed = centred @ directions * weights[:, None]
    vectors[words] = (weighed / weighed.square().mean().sqrt()).float()
    return vectors, directions.float()


def rows_of(tokens: Tokens) -> int:
    """Count the vectors that ids of texts may need."""
    return max(len(tokens), tokens.top + 1)


def words_of(encoder: TextBackbone) -> Tensor:
    """Return the ids of tokens that texts are made of: neither special nor empty places of the vocabulary."""
    tokens, room = encoder.tokens, len(encoder.body.get_input_embeddings().weight)
    names = {each: name for name, each in tokens.tokenizer.get_vocab().items()}
    used = [each for each in sorted(names) if each not in tokens.special and not UNUSED.fullmatch(names[each])]
    return torch.tensor([each for each in used if each < room])


def _said_of(encoder: TextBackbone, words: Tensor) -> Tensor:
    """Embed each token alone, with the special tokens around it that any text has, (N, E)."""
    tokens, parts = encoder.tokens, []
    start, end = around(tokens)
    encoder.eval()
    for part in counted(words.split(AT_ONCE), "embedding tokens", len(words), "tokens"):
        columns = [*(torch.full_like(part, each) for each in start), part, *(torch.full_like(part, e) for e in end)]
        parts.append(encoder(torch.stack(columns, dim=1)).float())
    return torch.cat(parts)


def around(tokens: Tokens) -> tuple[list[int], list[int]]:
    """Return the special tokens that are put before and after a text."""
    said = tokens.tokenizer("a", return_special_tokens_mask=True)
    ids = list(said["input_ids"])
    # Where the vocabulary doesn't have the letter, it has no token, or the unknown one.
    inside = [place for place, added in enumerate(said["special_tokens_mask"]) if not added] or [len(ids)]
    return ids[: inside[0]], ids[inside[-1] + 1 :]


@lru_cache(maxsize=2)
def vectors_of(path: str, revision: str | None, outputs: bool, dims: int, where: str) -> tuple[Tensor, Tensor]:
    """Load an encoder and return its `first_vectors`, which are computed once in a process: trials share them."""
    from tgt_ray.models.backbones import TextEncoder

    config = TextEncoder(path=path, revision=revision)
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, and then replaced
        encoder = config.backbone(InputSpec((1,)), where)
    config.load_body(encoder, where)
    return first_vectors(encoder, outputs, dims, where)


def kept_architecture(backbone: TextBackbone) -> dict[str, Any]:
    """Return what rebuilds a backbone beside its weights and its tokenizer's file, as plain data."""
    return {"rows": backbone.body.config.vocab_size, **kept_tokens(backbone.tokens)}


def rebuilt_backbone(architecture: dict[str, Any], tokenizer_json: str, dims: int, where: str) -> StaticBackbone:
    """Build a backbone with fresh weights from what `kept_architecture` returned; parameters as for the encoder's."""
    return StaticBackbone(rebuilt_tokens(architecture, tokenizer_json, where), architecture["rows"], dims)
