"""Takes spans of documents as queries; `tgt_ray.models.text.generation` explains the methods of its module."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from tgt_ray.core.texts import to_bytes, to_texts

#: Matches where a sentence ends. Full-width marks need no white space behind them.
END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？｡])\s*")
#: Matches a letter of a script without white space between words: Thai, Lao, Burmese, Khmer, Japanese and Chinese.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff]"
)
#: How many such characters stand for a word (our choice).
PER_WORD = 2


class Spans(nn.Module):
    """Draws some words of one sentence of each document.

    - width: bytes of a row, to which texts are cut
    - least, most: words of a span
    """

    def __init__(self, width: int, least: int, most: int):
        super().__init__()
        self.width, self.least, self.most = width, least, most

    def encode(self, inputs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(inputs), 0, device=inputs.device), inputs

    def latent_std(self, inputs: Tensor, rng: torch.Generator) -> Tensor:
        return torch.zeros(0, device=inputs.device)

    def decode(self, latents: Tensor, rng: torch.Generator, context: Tensor) -> Tensor:
        texts = [self._span(text, rng) for text in to_texts(context.cpu().numpy())]
        return torch.from_numpy(to_bytes(texts, self.width)).to(context.device)

    def _span(self, text: str, rng: torch.Generator) -> str:
        """Draw some words of one sentence. A document whose sentences are all shorter than a span gives one of them."""
        found = [each for each in map(self._parts, END.split(text)) if each[0]]
        sentences = [(parts, size) for parts, size in found if len(parts) >= size * self.least] or found
        if not sentences:
            return text
        parts, size = sentences[self._below(len(sentences), rng)]
        count = size * (self.least + self._below(self.most - self.least + 1, rng))
        first = self._below(max(1, len(parts) - count + 1), rng)
        return ("" if size > 1 else " ").join(parts[first : first + count]).strip()

    def _parts(self, sentence: str) -> tuple[list[str], int]:
        """Return a sentence's words, and 1; or its characters, and how many of them stand for a word.

        Characters are taken where the script has no white space between words.
        """
        words = sentence.split()
        if len(words) < self.least and len(UNSPACED.findall(sentence)) >= PER_WORD * self.least:
            return list(sentence.strip()), PER_WORD
        return words, 1

    @staticmethod
    def _below(limit: int, rng: torch.Generator) -> int:
        return int(torch.randint(limit, (1,), generator=rng))
