"""Provides generators that mask tokens and fill them, and masked language models as such generators."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tgt_ray.core.errors import ConfigError
from tgt_ray.models.text.encoder import bert_config, tells_sentences
from tgt_ray.models.text.generation import AT_ONCE, TextGenerator, logits_at
from tgt_ray.models.text.tokens import Tokens, check_positions


class MaskingGenerator(TextGenerator):
    """Masks some tokens of each text, makes states of what is left, and fills the masked places from (moved) states.

    - width: bytes of a row, to which texts are cut
    - mask_rate: share of tokens that are masked, at least one in each text; 0: none
    - temperature: of the draw from the model's distribution; 0 takes the likeliest token
    - where: the config's key, for messages
    """

    def __init__(self, body: Any, tokens: Tokens, width: int, mask_rate: float, temperature: float, where: str):
        super().__init__(body, tokens, width)
        check_positions(body.config, tokens)
        if mask_rate and not self.can_mask(tokens):
            raise ConfigError(
                f"{where}: its tokenizer has neither a mask token nor sentinels <extra_id_0> and so on,"
                f" which mask_rate {mask_rate:g} needs"
            )
        self.mask_rate, self.temperature = mask_rate, temperature

    def can_mask(self, tokens: Tokens) -> bool:
        return tokens.mask is not None

    @abstractmethod
    def states(self, ids: Tensor) -> Tensor:
        """Return what explorers move: ids (B, t) -> (B, t, H)."""

    @abstractmethod
    def logits(self, states: Tensor, ids: Tensor, masked: Tensor, places: Tensor) -> Tensor:
        """Return the logits of the tokens at some places.

        - states: (B, t, H)
        - ids: (B, t), the text's own
        - masked: (B, t) bool, which of them are masked
        - places: (B, t) bool, M of them true
        - returns: (M, V)
        """

    def hidden(self, inputs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the ids (B, t) of texts, and which of them are masked, (B, t) bool."""
        ids = self.tokens(inputs)
        ids = ids[:, : max(1, int((ids != self.tokens.pad).sum(dim=1).max()))]
        return ids, self.drawn_mask(ids, rng)

    def drawn_mask(self, ids: Tensor, rng: torch.Generator) -> Tensor:
        """Draw which of the ids are masked, (B, t) bool; special tokens never are."""
        if not self.mask_rate:
            return torch.zeros_like(ids, dtype=torch.bool)
        special = torch.isin(ids, torch.tensor(sorted(self.tokens.special), device=ids.device))
        draw = torch.rand(ids.shape, generator=rng).to(ids.device).masked_fill(special, 2.0)
        least = draw.min(dim=1, keepdim=True).values
        return ((draw < self.mask_rate) | (draw == least)) & ~special

    def hide(self, ids: Tensor, masked: Tensor) -> Tensor:
        """Return the ids with mask tokens in the masked places; without a mask token nothing is masked."""
        return ids if self.tokens.mask is None else ids.masked_fill(masked, self.tokens.mask)

    def encode(self, inputs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        ids, masked = self.hidden(inputs, rng)
        context = torch.stack([ids, masked.long()], dim=1)
        return self.states(self.hide(ids, masked)).flatten(1), torch.cat([context, self._unknown(inputs, ids)], dim=1)

    def _unknown(self, inputs: Tensor, ids: Tensor) -> Tensor:
        """Return the words that a vocabulary doesn't have, as bytes (B, c, t); they stay as they are in a new text."""
        known = ids[:, None, :][:, :0]
        if self.tokens.unknown is None or not (ids == self.tokens.unknown).any():
            return known
        words = ["\0".join(each).encode() for each in self.tokens.unknown_words(inputs)]
        size = -(-max(map(len, words)) // ids.shape[1]) * ids.shape[1]
        rows = b"".join(each.ljust(size, b"\0") for each in words)
        return torch.frombuffer(bytearray(rows), dtype=torch.uint8).to(ids).view(len(ids), -1, ids.shape[1])

    def _words(self, context: Tensor) -> list[list[str]]:
        """Return each row's words that the vocabulary doesn't have, from what `encode` gave."""
        rows = context[:, 2:].flatten(1).to(torch.uint8).cpu().numpy()
        return [row.tobytes().rstrip(b"\0").decode().split("\0") for row in rows]

    def present(self, context: Tensor) -> Tensor:
        """Return which tokens that `encode` gave states of are no padding, (B, t) bool."""
        return self.hide(context[:, 0], context[:, 1].bool()) != self.tokens.pad

    def latent_std(self, inputs: Tensor, rng: torch.Generator) -> Tensor:
        hidden = self.hide(*self.hidden(inputs, rng))
        return self.states(hidden)[hidden != self.tokens.pad].std(dim=0)

    def _filled(self, latents: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (M, V) of masked places, in which special tokens can't be drawn; ids, and what is masked."""
        ids, masked = context[:, 0], context[:, 1].bool()
        logits = self.logits(latents.unflatten(1, (ids.shape[1], -1)), ids, masked, masked).float()
        never = torch.zeros(logits.shape[1], device=logits.device)
        never[[each for each in self.tokens.special if each < len(never)]] = -torch.inf
        # A model may have room for more tokens than its tokenizer has.
        never[len(self.tokens) :] = -torch.inf
        return logits + never, ids, masked

    def decode(self, latents: Tensor, rng: torch.Generator, context: Tensor) -> Tensor:
        # A few at a time: each token has a number for each word of the vocabulary.
        parts = zip(latents.split(AT_ONCE), context.split(AT_ONCE), strict=True)
        return torch.cat([self._decode(some, rng, theirs) for some, theirs in parts])

    def _decode(self, latents: Tensor, rng: torch.Generator, context: Tensor) -> Tensor:
        logits, ids, masked = self._filled(latents, context)
        filled = ids.masked_scatter(masked, self._draw(logits, rng))
        return self.rows(self.tokens.texts(filled, self._words(context)), latents.device)

    def _draw(self, logits_MV: Tensor, rng: torch.Generator) -> Tensor:
        """Draw one token for each masked place from the softmax of its logits: the largest with Gumbel noise."""
        if not self.temperature:
            return logits_MV.argmax(dim=1)
        uniform = torch.rand(logits_MV.shape, generator=rng).clamp_min(1e-20).to(logits_MV.device)
        return (logits_MV / self.temperature - (-uniform.log()).log()).argmax(dim=1)

    def relaxed(self, latents: Tensor, context: Tensor) -> Tensor:
        """Return shares of the vocabulary at masked places, and the text's own tokens elsewhere, (B, t, V).

        They are differentiable with respect to the latents.
        """
        logits, ids, masked = self._filled(latents, context)
        soft = logits.new_zeros(*ids.shape, logits.shape[1]).scatter_(2, ids[:, :, None], 1.0)
        soft[masked] = logits.softmax(dim=1)
        return soft

    def denoising_loss(self, ids: Tensor, rng: torch.Generator) -> Tensor:
        """Compute the cross-entropy of masked places."""
        masked = self.drawn_mask(ids, rng)
        logits = self.logits(self.states(self.hide(ids, masked)), ids, masked, masked)
        return F.cross_entropy(logits, ids[masked])


class MaskedLanguageModel(MaskingGenerator):
    """An encoder that fills masked tokens. Its latents are the embeddings of the words that it reads.

    - trained_elsewhere: whether the second sentence of a pair has a token type of its own, where the model has one; a
      small model that is trained here knows only the separator
    """

    def __init__(
        self,
        body: Any,
        tokens: Tokens,
        width: int,
        mask_rate: float,
        temperature: float,
        where: str,
        trained_elsewhere: bool = False,
    ):
        super().__init__(body, tokens, width, mask_rate, temperature, where)
        self.typed = trained_elsewhere and tells_sentences(body.config)

    def states(self, ids: Tensor) -> Tensor:
        return self.body.get_input_embeddings()(ids)

    def logits(self, states: Tensor, ids: Tensor, masked: Tensor, places: Tensor) -> Tensor:
        given = {"token_type_ids": self.tokens.types(ids)} if self.typed else {}
        mask = (ids != self.tokens.pad).long()
        return logits_at(self.body, places, inputs_embeds=states, attention_mask=mask, **given)


def scratch_bert(tokens: Tokens, layers: int, width: int, heads: int) -> Any:
    """Build a masked language model with fresh weights."""
    from transformers import BertForMaskedLM

    return BertForMaskedLM(bert_config(tokens, layers, width, heads, dropout=0.0))
