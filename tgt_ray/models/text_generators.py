"""Generators of texts. They start from an anchor's text and not from a stored latent, since which tokens are masked is drawn anew each
time.

Each is a module with the attribute `contextual` and

    encode(inputs (B, width) uint8, rng) -> latents (B, L), context (B, ...)
    decode(latents, rng, context) -> inputs (B, width) uint8
    latent_std(inputs, rng) -> (H,): the standard deviation of each dimension; latents are t times H numbers, t tokens of the batch

and, where gradients flow, relaxed(latents, context) -> soft tokens (B, t, V). rng: a generator on the CPU.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgt_ray.config import ConfigError
from tgt_ray.models.pretrained import settings_of
from tgt_ray.models.text import Tokens, bert_config, check_belongs, check_positions, tells_sentences
from tgt_ray.texts import SEPARATOR, clean, sentences, to_bytes, to_texts

#: Texts that are decoded together.
AT_ONCE = 32


class TextGenerator(nn.Module):
    contextual = True
    samples = True

    def __init__(self, body: Any, tokens: Tokens, width: int):
        super().__init__()
        check_belongs(body, tokens)
        self.body, self.tokens, self.width = body, tokens, width

    def facts(self) -> dict[str, Any]:
        """What outputs follow from beside weights, as plain data."""
        return {"tokens": self.tokens.facts(), "settings": settings_of(self.body.config)}

    def rows(self, texts: list[str], device: torch.device) -> Tensor:
        return torch.from_numpy(to_bytes(texts, self.width)).to(device)


class Writer(TextGenerator):
    """Writes new texts. It has no latents: nothing is moved."""

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
        """Rows of texts for a part of what `encode` gave."""


class MaskingGenerator(TextGenerator):
    """Masks some tokens of each text, makes states of what is left, and fills the masked places from (moved) states.

    mask_rate: share of tokens, at least one of each text. temperature: of the draw from the model's distribution; 0 takes the likeliest.
    """

    def __init__(self, body: Any, tokens: Tokens, width: int, mask_rate: float, temperature: float, where: str):
        super().__init__(body, tokens, width)
        check_positions(body.config, tokens)
        if mask_rate and not self.can_mask(tokens):
            raise ConfigError(
                f"{where}: its tokenizer has neither a mask token nor sentinels <extra_id_0> and so on, which mask_rate {mask_rate:g} needs"
            )
        self.mask_rate, self.temperature = mask_rate, temperature

    def can_mask(self, tokens: Tokens) -> bool:
        return tokens.mask is not None

    @abstractmethod
    def states(self, ids: Tensor) -> Tensor:
        """What is moved: ids (B, t) -> (B, t, H)."""

    @abstractmethod
    def logits(self, states: Tensor, ids: Tensor, masked: Tensor, places: Tensor) -> Tensor:
        """Of the tokens at `places` (B, t), M of them: states (B, t, H), the text's own ids and which of them are masked (B, t) -> (M, V)."""

    def hidden(self, inputs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """ids (B, t) of texts, and which of them are masked (B, t)."""
        ids = self.tokens(inputs)
        ids = ids[:, : max(1, int((ids != self.tokens.pad).sum(dim=1).max()))]
        return ids, self.drawn_mask(ids, rng)

    def drawn_mask(self, ids: Tensor, rng: torch.Generator) -> Tensor:
        if not self.mask_rate:
            return torch.zeros_like(ids, dtype=torch.bool)
        special = torch.isin(ids, torch.tensor(sorted(self.tokens.special), device=ids.device))
        draw = torch.rand(ids.shape, generator=rng).to(ids.device).masked_fill(special, 2.0)
        least = draw.min(dim=1, keepdim=True).values
        return ((draw < self.mask_rate) | (draw == least)) & ~special

    def hide(self, ids: Tensor, masked: Tensor) -> Tensor:
        """ids with mask tokens in the masked places; without a mask token nothing is masked."""
        return ids if self.tokens.mask is None else ids.masked_fill(masked, self.tokens.mask)

    def encode(self, inputs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        ids, masked = self.hidden(inputs, rng)
        return self.states(self.hide(ids, masked)).flatten(1), torch.stack([ids, masked.long()], dim=1)

    def latent_std(self, inputs: Tensor, rng: torch.Generator) -> Tensor:
        hidden = self.hide(*self.hidden(inputs, rng))
        return self.states(hidden)[hidden != self.tokens.pad].std(dim=0)

    def _filled(self, latents: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (M, V) of masked places, in which special tokens can't be drawn; ids, and what is masked."""
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
        return self.rows(self.tokens.texts(filled), latents.device)

    def _draw(self, logits_MV: Tensor, rng: torch.Generator) -> Tensor:
        """One token for each masked place, from the softmax of its logits: the largest with Gumbel noise."""
        if not self.temperature:
            return logits_MV.argmax(dim=1)
        uniform = torch.rand(logits_MV.shape, generator=rng).clamp_min(1e-20).to(logits_MV.device)
        return (logits_MV / self.temperature - (-uniform.log()).log()).argmax(dim=1)

    def relaxed(self, latents: Tensor, context: Tensor) -> Tensor:
        """Shares of the vocabulary at masked places, the text's own tokens elsewhere. Differentiable to the latents."""
        logits, ids, masked = self._filled(latents, context)
        soft = logits.new_zeros(*ids.shape, logits.shape[1]).scatter_(2, ids[:, :, None], 1.0)
        soft[masked] = logits.softmax(dim=1)
        return soft

    def denoising_loss(self, ids: Tensor, rng: torch.Generator) -> Tensor:
        """Cross-entropy of masked places."""
        masked = self.drawn_mask(ids, rng)
        logits = self.logits(self.states(self.hide(ids, masked)), ids, masked, masked)
        return F.cross_entropy(logits, ids[masked])


class MaskedLanguageModel(MaskingGenerator):
    """An encoder that fills masked tokens. Its latents are the embeddings of the words that it reads.

    trained_elsewhere: the second sentence of a pair has a token type of its own where the model has one; a small model that is trained
    here knows its separator alone.
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


class Seq2Seq(MaskingGenerator):
    """Encoder and decoder. Its latents are the encoder's hidden states.

    decoding "parallel": one pass of the decoder, which sees the anchor's own tokens before each place, and only masked places are
    filled; "sample": the decoder writes a text from the states alone.

    T5 and its kind (Raffel et al. 2020, arXiv 1910.10683) have no mask token: a sentinel stands for each masked span, and the decoder
    writes the spans alone, each after its sentinel.
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
                f"{where}.decoding: sample, of a model that writes masked spans alone; give mask_rate: 0, or decoding: parallel"
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
        """The sentinel of each span, at all places from its start on."""
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
        """What the decoder writes of masked spans, (B, t'): each after its sentinel; and where the masked tokens are in it."""
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
        return self.rows(self.tokens.texts(out), latents.device)

    def denoising_loss(self, ids: Tensor, rng: torch.Generator) -> Tensor:
        """Cross-entropy of all tokens: the decoder must be able to copy as well."""
        assert not self.spans, "a model that writes masked spans alone is not trained here"
        said, masked = ids != self.tokens.pad, self.drawn_mask(ids, rng)
        return F.cross_entropy(self.logits(self.states(self.hide(ids, masked)), ids, masked, said), ids[said])


class CausalLanguageModel(Writer):
    """Writes a new text after a few others, one a line (the setting of GAL, arXiv 2106.06168).

    shots: texts of each prompt, the anchor last; the others are other anchors of the batch.
    """

    def __init__(
        self, body: Any, tokens: Tokens, width: int, shots: int, max_new_tokens: int, temperature: float, top_p: float
    ):
        super().__init__(body, tokens, width)
        self.shots, self.max_new_tokens, self.temperature, self.top_p = shots, max_new_tokens, temperature, top_p

    def encode(self, inputs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        texts = [" ".join(" ".join(sentences(text)).split()) for text in to_texts(inputs.cpu().numpy())]
        prompts = []
        for own, text in enumerate(texts):
            # Of all but its own place; an anchor alone is its whole prompt.
            shots = self.shots - 1 if len(texts) > 1 else 0
            drawn = torch.randint(max(1, len(texts) - 1), (shots,), generator=rng)
            others = (drawn + (drawn >= own)).tolist()
            prompts.append("".join(f"{each}\n" for each in [*(texts[other] for other in others), text]))
        tokenizer = self.tokens.tokenizer
        tokenizer.padding_side = tokenizer.truncation_side = "left"
        ids = tokenizer(prompts, padding=True, truncation=True, max_length=self.tokens.max_tokens)
        context = torch.stack([torch.tensor(ids["input_ids"]), torch.tensor(ids["attention_mask"])], dim=1)
        return torch.zeros(len(inputs), 0, device=inputs.device), context.to(inputs.device)

    def _written(self, context: Tensor, rng: torch.Generator) -> Tensor:
        tokenizer = self.tokens.tokenizer
        with seeded(rng):
            out = self.body.generate(
                input_ids=context[:, 0],
                attention_mask=context[:, 1],
                max_new_tokens=self.max_new_tokens,
                do_sample=True,
                temperature=self.temperature,
                top_p=self.top_p,
                pad_token_id=self.tokens.pad,
                tokenizer=tokenizer,
                stop_strings=["\n"],
            )
        written = tokenizer.batch_decode(out[:, context.shape[2] :], skip_special_tokens=True)
        return self.rows([clean(text.strip().partition("\n")[0]) for text in written], context.device)


class QueryWriter(Writer):
    """Reads documents and writes queries of them. draws: settings of the library's sampling."""

    def __init__(self, body: Any, tokens: Tokens, width: int, draws: dict[str, Any], where: str):
        super().__init__(body, tokens, width)
        check_decoder(body, where)
        check_positions(body.config, tokens)
        check_positions(body.config, tokens, draws["max_new_tokens"], "max_new_tokens")
        self.draws = draws

    def encode(self, inputs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(inputs), 0, device=inputs.device), self.tokens(inputs)

    def _written(self, context: Tensor, rng: torch.Generator) -> Tensor:
        ids = context[:, : max(1, int((context != self.tokens.pad).sum(dim=1).max()))]
        with seeded(rng):
            out = self.body.generate(
                input_ids=ids, attention_mask=(ids != self.tokens.pad).long(), do_sample=True, num_beams=1, **self.draws
            )
        # A pair of sentences is no query.
        return self.rows([text.partition(SEPARATOR)[0] for text in self.tokens.texts(out)], ids.device)


def check_decoder(body: Any, where: str) -> None:
    if not body.config.is_encoder_decoder:
        raise ConfigError(f"{where}.path: a model without a decoder")
    if body.config.decoder_start_token_id is None:
        raise ConfigError(f"{where}.path: its config doesn't say with which token the decoder starts")


def write_by_our_settings(body: Any) -> dict[str, Any]:
    """Of what a model's folder says of writing, only special tokens count, which are returned: how is drawn is said in the generator's
    config."""
    from transformers import GenerationConfig

    names = [f"{kind}_token_id" for kind in ("bos", "eos", "pad", "decoder_start", "forced_bos", "forced_eos")]
    said = {name: getattr(body.config, name, None) for name in names}
    said |= {name: value for name in names if (value := getattr(body.generation_config, name, None)) is not None}
    body.generation_config = GenerationConfig(**said)
    return said


def span_starts(masked: Tensor) -> Tensor:
    """The first place of each masked span, (B, t) bool."""
    return masked & ~F.pad(masked[:, :-1], (1, 0))


def packed(values: Tensor, kept: Tensor, filler: int) -> Tensor:
    """The kept values of each row one after another, filled up at the end; all (B, t)."""
    order = (~kept).long().argsort(dim=1, stable=True)
    return values.gather(1, order).masked_fill(~kept.gather(1, order), filler)


def logits_at(body: Any, places: Tensor, **given: Any) -> Tensor:
    """A language model's logits at `places` (B, t): (M, V). The layer that has an output for each word of the vocabulary sees these
    places alone, since it is most of the work, where the model calls it as a layer."""
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
    """The library draws from torch's own generators: these follow from `rng` meanwhile, and are as before afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=rng)))
        yield


def scratch_bart(tokens: Tokens, layers: int, width: int, heads: int) -> Any:
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


def scratch_bert(tokens: Tokens, layers: int, width: int, heads: int) -> Any:
    from transformers import BertForMaskedLM

    return BertForMaskedLM(bert_config(tokens, layers, width, heads, dropout=0.0))
