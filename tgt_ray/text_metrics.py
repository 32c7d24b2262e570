"""Floor 1: what generated texts are like, as pure functions of strings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def exact_copy_rate(anchors: Sequence[str], explored: Sequence[str]) -> float:
    """Percent of texts that are their anchor again, up to case and white space. 0 of no texts."""
    same = [_normal(a) == _normal(b) for a, b in zip(anchors, explored, strict=True)]
    return 100 * float(np.mean(same)) if same else 0.0


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams of words (between white space), in [0, 1] (Li et al. 2016, arXiv 1510.03055). 0 where there
    are none. The more texts, the lower: compare as many."""
    grams = [gram for text in texts for gram in _grams(text.split(), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def empty_rate(texts: Sequence[str]) -> float:
    """Percent of texts without anything but white space. 0 of no texts."""
    return 100 * float(np.mean([not text.strip() for text in texts])) if texts else 0.0


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()


def _grams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[first:] for first in range(n)), strict=False))
