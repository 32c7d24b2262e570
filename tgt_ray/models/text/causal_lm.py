"""Turns causal language models into generators of texts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tgt_ray.core.texts import clean, sentences, to_texts
from tgt_ray.models.text.generation import Writer, seeded
from tgt_ray.models.text.tokens import Tokens


class CausalLanguageModel(Writer):
    """Writes a new text after a few others, one on each line (the setting of GAL, arXiv 2106.06168).

    - width: bytes of a row, to which texts are cut
    - shots: texts of each prompt, the anchor last; the others are other anchors of the batch
    - max_new_tokens: tokens that are written at the most
    - temperature, top_p: of the draw from the model's distribution
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
            # Drawn from all places but its own; an anchor alone is its whole prompt.
            shots = self.shots - 1 if len(texts) > 1 else 0
            drawn = torch.randint(max(1, len(texts) - 1), (shots,), generator=rng)
            others = (drawn + (drawn >= own)).tolist()
            prompt = "".join(f"{each}\n" for each in [*(texts[other] for other in others), text])
            prompts.append(self.tokens.end_of(prompt))
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
