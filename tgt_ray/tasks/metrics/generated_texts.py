"""Floor 1: what generated texts are like, as pure functions of strings."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from tgt_ray.core.texts import sentences

#: Tokens around a text, or around and between the two of a pair, at the most.
AROUND = 4


def exact_copy_rate(anchors: Sequence[str], explored: Sequence[str], longest: int | None = None) -> float:
    """Percent of texts that are their anchor again, as far as a text can pass through a tokenizer and back (our choice): up to case,
    accents, white space wherever it is, and characters that Unicode calls compatible. A text with characters that the generator's
    tokenizer doesn't know is no copy of itself. 0 of no texts.

    longest: tokens that the generator gives a text at the most. So long a text is a copy where it is its anchor's beginning, of a pair
    each sentence that of the anchor's: the generator has cut the rest. Since a token has at least one byte, shorter ones can't be cut.
    """
    same = [_is_copy(a, b, longest) for a, b in zip(anchors, explored, strict=True)]
    return 100 * float(np.mean(same)) if same else 0.0


def _is_copy(anchor: str, explored: str, longest: int | None) -> bool:
    if _normal(anchor) == _normal(explored):
        return True
    whole, begun = sentences(anchor), sentences(explored)
    if longest is None or len(explored.encode()) < longest - AROUND or len(whole) != len(begun):
        return False
    return all(_normal(a).startswith(_normal(b)) for a, b in zip(whole, begun, strict=True))


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams of words (between white space), in [0, 1] (Li et al. 2016, arXiv 1510.03055). 0 where there
    are none. The more texts, the lower: compare as many."""
    grams = [gram for text in texts for gram in _grams(text.split(), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def empty_rate(texts: Sequence[str]) -> float:
    """Percent of texts without anything but white space. 0 of no texts."""
    return 100 * float(np.mean([not text.strip() for text in texts])) if texts else 0.0


def _normal(text: str) -> str:
    """What tokenizers leave of a text: BERT's decomposes it and takes off accents, others compose it, and spaces around punctuation and
    control characters come back otherwise or not at all."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text.casefold()).casefold())
    # Cc, Cf: control; Mn: accents; Zs, Zl, Zp: white space.
    return "".join(each for each in plain if unicodedata.category(each) not in ("Cc", "Cf", "Mn", "Zs", "Zl", "Zp"))


def _grams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[first:] for first in range(n)), strict=False))
