"""Provides what generators of texts share.

They start from an anchor's text, not from a stored latent, since the masked tokens are drawn anew each time. Each is a
module with

    encode(inputs (B, width) uint8, rng) -> latents (B, L), context (B, ...)
    decode(latents, rng, context) -> inputs (B, width) uint8
    latent_std(inputs, rng) -> (H,): the standard deviation of each dimension

where a latent is t times H numbers, for t tokens in the batch, and rng is a generator on the CPU. Where gradients flow,
it also has

    relaxed(latents, context) -> soft tokens (B, t, V)

and where some of the t tokens are padding, so that steps leave them alone,

    present(context) -> (B, t) bool, which of them are none
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.texts import to_bytes
from tgt_ray.models.heads import settings_of
from tgt_ray.models.text.tokens import Tokens, check_belongs

#: How many texts are decoded together.
AT_ONCE = 32


class TextGenerator(nn.Module):
    """A generator that has a model of transformers for its body.

    - width: bytes of a row, to which texts are cut
    """

    def __init__(self, body: Any, tokens: Tokens, width: int):
        super().__init__()
        check_belongs(body, tokens)
        self.body, self.tokens, self.width = body, tokens, width

    def facts(self) -> dict[str, Any]:
        """Return everything besides the weights that changes the outputs, as plain data; part of the fingerprint."""
        return {"tokens": self.tokens.facts(), "settings": settings_of(self.body.config)}

    def rows(self, texts: list[str], device: torch.device) -> Tensor:
        """Return texts as rows of bytes (B, width) uint8."""
        return torch.from_numpy(to_bytes(texts, self.width)).to(device)


class Writer(TextGenerator):
    """Writes new texts. It has no latents that an explorer could move."""

    def __init__(self, body: Any, tokens: Tokens, width: int):
        super().__init__(body, tokens, width)
        self.ends = write_by_our_settings(body)

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "ends": self.ends}

    def latent_std(self, inputs: Tensor, rng: torch.Generator) -> Tensor:
        return torch.zeros(0, device=inputs.device)

    def decode(self, latents: Tensor, rng: torch.Generator, context: Tensor) -> Tensor:
        return torch.cat([self._written(some, rng) for some in context.split(AT_ONCE)])

    @abstractmethod
    def _written(self, context: Tensor, rng: torch.Generator) -> Tensor:
        """Write rows of texts for a part of the context that `encode` gave."""


def check_decoder(body: Any, where: str) -> None:
    """Raise ConfigError where a model has no decoder that can start to write.

    - where: the config's key, for messages
    """
    if not body.config.is_encoder_decoder:
        raise ConfigError(f"{where}.path: a model without a decoder; give an encoder-decoder, such as BART or T5")
    # Some configs have no such name at all where the file doesn't.
    if getattr(body.config, "decoder_start_token_id", None) is None:
        raise ConfigError(f"{where}.path: its config doesn't say with which token the decoder starts")


def write_by_our_settings(body: Any) -> dict[str, Any]:
    """Keep only the special tokens of what a model's folder says about writing, and return them.

    How tokens are drawn is a setting of the generator.
    """
    from transformers import GenerationConfig

    names = [f"{kind}_token_id" for kind in ("bos", "eos", "pad", "decoder_start", "forced_bos", "forced_eos")]
    said = {name: getattr(body.config, name, None) for name in names}
    said |= {name: value for name in names if (value := getattr(body.generation_config, name, None)) is not None}
    body.generation_config = GenerationConfig(**said)
    return said


def logits_at(body: Any, places: Tensor, **given: Any) -> Tensor:
    """Compute a language model's logits at some places.

    The layer with an output for each word of the vocabulary is most of the work. It sees only these places where the
    model calls it as a layer.

    - places: (B, t) bool, M of them true
    - given: arguments of the model
    - returns: (M, V)
    """
    seen = []

    def some(_layer: Any, states: tuple[Tensor, ...]) -> tuple[Tensor]:
        seen.append(True)
        return (states[0][places],)

    hook = body.get_output_embeddings().register_forward_pre_hook(some)
    try:
        logits = body(**given).logits
    finally:
        hook.remove()
    return logits if seen else logits[places]


@contextmanager
def seeded(rng: torch.Generator) -> Iterator[None]:
    """Seed torch's own generators, from which the library draws, by `rng`; afterwards they are as before."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=rng)))
        yield
