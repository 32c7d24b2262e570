"""Turns encoder-decoders into generators of texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tgt_ray.core.errors import ConfigError
from tgt_ray.models.text.generation import check_decoder, logits_at, seeded, write_by_our_settings
from tgt_ray.models.text.masked_lm import MaskingGenerator
from tgt_ray.models.text.tokens import Tokens


class Seq2Seq(MaskingGenerator):
    """An encoder-decoder whose latents are the encoder's hidden states.

    T5 and its kind (Raffel et al. 2020, arXiv 1910.10683) have no mask token: a sentinel stands for each masked span,
    and the decoder writes only the spans, each after its sentinel.

    - decoding: "parallel": one pass of the decoder, which sees the anchor's own tokens before each place, fills the
      masked places; "sample": the decoder writes a text from the states alone
    """

    def __init__(
        self, body: Any, tokens: Tokens, width: int, mask_rate: float, temperature: float, decoding: str, where: str
    ):
        super().__init__(body, tokens, width, mask_rate, temperature, where)
        self.decoding, self.ends = decoding, write_by_our_settings(body)
        # Some of T5's kind have a mask token that no training ever used.
        self.spans = bool(tokens.sentinels)
        if self.spans and mask_rate and decoding == "sample":
            raise ConfigError(
                f"{where}.decoding: sample, but the model writes only masked spans; give mask_rate: 0,"
                " or decoding: parallel"
            )
        check_decoder(body, where)

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), **({"ends": self.ends} if self.decoding == "sample" else {})}

    def can_mask(self, tokens: Tokens) -> bool:
        return tokens.mask is not None or bool(tokens.sentinels)

    def drawn_mask(self, ids: Tensor, rng: torch.Generator) -> Tensor:
        masked = super().drawn_mask(ids, rng)
        # No more spans than there are sentinels.
        return masked & (span_starts(masked).cumsum(dim=1) <= len(self.tokens.sentinels)) if self.spans else masked

    def hide(self, ids: Tensor, masked: Tensor) -> Tensor:
        if not self.spans:
            return super().hide(ids, masked)
        starts = span_starts(masked)
        return packed(torch.where(starts, self._sentinels(starts), ids), ~masked | starts, self.tokens.pad)

    def _sentinels(self, starts: Tensor) -> Tensor:
        """Return the sentinel of each span, at all places from its start on."""
        sentinels = torch.tensor(self.tokens.sentinels, device=starts.device)
        return sentinels[(starts.cumsum(dim=1) - 1).clamp(0, len(sentinels) - 1)]

    def states(self, ids: Tensor) -> Tensor:
        return self.body.get_encoder()(input_ids=ids, attention_mask=(ids != self.tokens.pad).long()).last_hidden_state

    def logits(self, states: Tensor, ids: Tensor, masked: Tensor, places: Tensor) -> Tensor:
        written, wanted = self._spans_of(ids, masked) if self.spans else (ids, places)
        start = torch.full_like(ids[:, :1], self.body.config.decoder_start_token_id)
        return logits_at(
            self.body,
            wanted,
            encoder_outputs=(states,),
            attention_mask=(self.hide(ids, masked) != self.tokens.pad).long(),
            decoder_input_ids=torch.cat([start, written[:, :-1]], dim=1),
        )

    def _spans_of(self, ids: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the decoder writes, (B, t'): each masked span after its sentinel.

        The second result tells where the masked tokens are in it, (B, t') bool.
        """
        starts = span_starts(masked)
        # Two slots for each place: its span's sentinel, and its token.
        pairs = torch.stack([self._sentinels(starts), ids], dim=2).flatten(1)
        kept = torch.stack([starts, masked], dim=2).flatten(1)
        tokens = torch.stack([torch.zeros_like(masked), masked], dim=2).flatten(1)
        longest = max(1, int(kept.sum(dim=1).max()))
        return packed(pairs, kept, self.tokens.pad)[:, :longest], packed(tokens, kept, False)[:, :longest]

    def _decode(self, latents: Tensor, rng: torch.Generator, context: Tensor) -> Tensor:
        if self.decoding == "parallel":
            return super()._decode(latents, rng, context)
        from transformers.modeling_outputs import BaseModelOutput

        ids = context[:, 0]
        draws = {"do_sample": True, "temperature": self.temperature, "top_k": 0} if self.temperature else {}
        with seeded(rng):
            out = self.body.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=latents.unflatten(1, (ids.shape[1], -1))),
                attention_mask=(ids != self.tokens.pad).long(),
                max_new_tokens=self.tokens.max_tokens,
                num_beams=1,
                **draws,
            )
        return self.rows(self.tokens.texts(out, self._words(context)), latents.device)

    def denoising_loss(self, ids: Tensor, rng: torch.Generator) -> Tensor:
        """Compute the cross-entropy of all tokens: the decoder must be able to copy as well."""
        assert not self.spans, "a model that writes only masked spans is not trained here"
        said, masked = ids != self.tokens.pad, self.drawn_mask(ids, rng)
        return F.cross_entropy(self.logits(self.states(self.hide(ids, masked)), ids, masked, said), ids[said])


def span_starts(masked: Tensor) -> Tensor:
    """Mark the first place of each masked span, (B, t) bool."""
    return masked & ~F.pad(masked[:, :-1], (1, 0))


def packed(values: Tensor, kept: Tensor, filler: int) -> Tensor:
    """Move the kept values of each row to its front, in order, and fill up the rest; all (B, t)."""
    order = (~kept).long().argsort(dim=1, stable=True)
    return values.gather(1, order).masked_fill(~kept.gather(1, order), filler)


def scratch_bart(tokens: Tokens, layers: int, width: int, heads: int) -> Any:
    """Build a BART with fresh weights; encoder and decoder have `layers` layers each."""
    from transformers import BartConfig, BartForConditionalGeneration

    start = tokens.tokenizer.bos_token_id
    config = BartConfig(
        vocab_size=len(tokens),
        max_position_embeddings=tokens.max_tokens + 2,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        dropout=0.0,
        attention_dropout=0.0,
        bos_token_id=start,
        pad_token_id=tokens.pad,
        eos_token_id=tokens.end,
        decoder_start_token_id=tokens.end,
        forced_eos_token_id=tokens.end,
    )
    return BartForConditionalGeneration(config)
