"""Measures generated texts, as pure functions of strings."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from tgt_ray.core.texts import sentences

#: The largest number of special tokens around a text, or around and between the two texts of a pair.
AROUND = 4


def exact_copy_rate(anchors: Sequence[str], explored: Sequence[str], longest: int | None = None) -> float:
    """Compute the percentage of texts that are copies of their anchor; 0 for no texts.

    Texts are compared as far as they can pass through a tokenizer and back (our choice): case, accents, all white space
    and characters that Unicode calls compatible make no difference. A text with characters that the generator's
    tokenizer doesn't know is no copy of itself.

    - longest: the largest number of tokens that the generator gives a text. A text that long is a copy if it is the
      beginning of its anchor, for a pair sentence by sentence, since the generator has cut the rest. A token has at
      least one byte, so shorter texts can't have been cut
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
    """Compute distinct n-grams of words over all n-grams of words, in [0, 1] (Li et al. 2016, arXiv 1510.03055).

    Words are separated by white space. The result is 0 where there are no n-grams. It falls with the number of texts,
    so compare equally many.
    """
    grams = [gram for text in texts for gram in _grams(text.split(), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def empty_rate(texts: Sequence[str]) -> float:
    """Compute the percentage of texts that have only white space; 0 for no texts."""
    return 100 * float(np.mean([not text.strip() for text in texts])) if texts else 0.0


def _normal(text: str) -> str:
    """Reduce a text to what every tokenizer keeps of it.

    BERT's tokenizer decomposes a text and removes accents, others compose it; spaces around punctuation and control
    characters come back changed or not at all.
    """
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text.casefold()).casefold())
    # Cc, Cf: control; Mn: accents; Zs, Zl, Zp: white space.
    return "".join(each for each in plain if unicodedata.category(each) not in ("Cc", "Cf", "Mn", "Zs", "Zl", "Zp"))


def _grams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[first:] for first in range(n)), strict=False))
