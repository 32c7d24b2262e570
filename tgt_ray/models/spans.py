"""The module of `tgt_ray.generators.spans`: see `tgt_ray.models.text_generators` for its calls."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from tgt_ray.models.identity import Identity
from tgt_ray.texts import to_bytes, to_texts

#: Where a sentence ends.
END = re.compile(r"(?<=[.!?])\s+")


class Spans(Identity):
    def __init__(self, width: int, least: int, most: int):
        super().__init__()
        self.width, self.least, self.most = width, least, most

    def decode(self, latents: Tensor, rng: torch.Generator, context: Tensor) -> Tensor:
        texts = [self._span(text, rng) for text in to_texts(context.cpu().numpy())]
        return torch.from_numpy(to_bytes(texts, self.width)).to(context.device)

    def _span(self, text: str, rng: torch.Generator) -> str:
        """Some words of one sentence. A document whose sentences are all shorter than a span gives one of them."""
        found = [words for words in (sentence.split() for sentence in END.split(text)) if words]
        sentences = [words for words in found if len(words) >= self.least] or found
        if not sentences:
            return text
        words = sentences[self._below(len(sentences), rng)]
        count = self.least + self._below(self.most - self.least + 1, rng)
        first = self._below(max(1, len(words) - count + 1), rng)
        return " ".join(words[first : first + count])

    @staticmethod
    def _below(limit: int, rng: torch.Generator) -> int:
        return int(torch.randint(limit, (1,), generator=rng))
