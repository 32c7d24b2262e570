"""Changes texts at random, as words: some are left out, and a span of another text takes the place of some.

Words and not a model's tokens are changed, so that each model puts its own special tokens and padding around the
result, and cuts it, as it does with any text. Random numbers come from a generator on the CPU.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from tgt_ray.core.texts import SEPARATOR, sentences
from tgt_ray.models.text.spans import UNSPACED

#: Matches a word with the white space before it; where the script has no white space between words, a character.
WORD = re.compile(rf"\s*(?:{UNSPACED.pattern}|(?:(?!{UNSPACED.pattern})\S)+)")


def without_words(texts: Sequence[str], largest: float, rng: torch.Generator) -> list[str]:
    """Leave words out of each text; of a pair, out of both sentences.

    - largest: each text draws its share of words that are left out from [0, largest]; one word stays in any case
    """
    shares = (torch.rand(len(texts), generator=rng) * largest).tolist()
    return [
        SEPARATOR.join(_thinned(each, share, rng) for each in sentences(text))
        for text, share in zip(texts, shares, strict=True)
    ]


def with_spans(texts: Sequence[str], others: Sequence[str], largest: float, rng: torch.Generator) -> list[str]:
    """Put a span of another text in the place of as many words of each text; of a pair, in both sentences.

    - largest: each text draws the share of its words that are replaced from [0, largest]
    """
    shares = (torch.rand(len(texts), generator=rng) * largest).tolist()
    return [
        SEPARATOR.join(
            _spliced(own, other, share, rng)
            for own, other in zip(sentences(text), _as_many(sentences(text), other), strict=True)
        )
        for text, other, share in zip(texts, others, shares, strict=True)
    ]


def _as_many(own: tuple[str, ...], other: str) -> tuple[str, ...]:
    """Return as many sentences of another text: it may lack the second one of a pair, or have one too many."""
    theirs = sentences(other)
    return theirs if len(theirs) == len(own) else (theirs[0],) * len(own)


def _words(sentence: str) -> list[str]:
    """Split a sentence into words, each with the white space before it, also the first one."""
    words = WORD.findall(sentence)
    if words and not words[0][:1].isspace() and not UNSPACED.match(words[0]):
        words[0] = f" {words[0]}"
    return words


def _thinned(sentence: str, share: float, rng: torch.Generator) -> str:
    words = _words(sentence)
    if not words:
        return sentence
    drawn = torch.rand(len(words), generator=rng)
    stays = drawn >= share
    stays[drawn.argmax()] = True
    if stays.all():
        return sentence
    return "".join(word for word, each in zip(words, stays.tolist(), strict=True) if each).strip()


def _spliced(sentence: str, other: str, share: float, rng: torch.Generator) -> str:
    """Replace the share of words, rounded at random so that short sentences are changed as much on average."""
    own, theirs = _words(sentence), _words(other)
    rounding, where, whence = torch.rand(3, generator=rng).tolist()
    count = min(int(share * len(own) + rounding), len(own), len(theirs))
    if not count:
        return sentence
    first, start = int(where * (len(own) - count + 1)), int(whence * (len(theirs) - count + 1))
    return "".join([*own[:first], *theirs[start : start + count], *own[first + count :]]).strip()
