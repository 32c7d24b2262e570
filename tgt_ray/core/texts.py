"""Represents texts as rows of bytes, so that they travel as images do; each model tokenizes them itself.

A row is UTF-8, padded with zeros. A pair of sentences is one text with SEPARATOR between them. torch is not imported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

#: Characters that pages and pictures can't show: control characters, and halves of characters that Python makes of
#: bytes which aren't UTF-8.
_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")

#: Separates the sentences of a pair (the "unit separator" of ASCII, which texts don't contain).
SEPARATOR = "\x1f"


def clean(text: str) -> str:
    """Replace the two characters that have a meaning here by spaces, and strip white space."""
    return text.replace("\0", " ").replace(SEPARATOR, " ").strip()


def to_bytes(texts: Sequence[str], width: int) -> np.ndarray:
    """Return the texts as rows (N, width) uint8.

    A longer text is cut between two characters; in a pair the longer sentence is cut first.
    """
    rows = np.zeros((len(texts), width), np.uint8)
    for row, text in zip(rows, texts, strict=True):
        content = _cut(text.encode(), width)
        row[: len(content)] = np.frombuffer(content, np.uint8)
    return rows


def as_read(texts: Sequence[str], width: int) -> list[str]:
    """Return what models get to see of texts: they are cut as `to_bytes` does it.

    Whatever works on texts before they are rows takes these, so that one text of megabytes costs nothing.
    """
    return [_cut(text.encode(), width).decode() for text in texts]


def _cut(content: bytes, width: int) -> bytes:
    if len(content) <= width:
        return content
    first, separator, second = content.partition(SEPARATOR.encode())
    room = width - len(separator)
    kept = max(room - len(second), room // 2) if separator else room
    first = first[:kept].decode(errors="ignore").encode()
    second = second[: max(0, room - len(first))].decode(errors="ignore").encode()
    return first + separator + second


def to_texts(rows_NW: np.ndarray) -> list[str]:
    """Return the texts of rows that `to_bytes` has made."""
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in np.ascontiguousarray(rows_NW)]


def sentences(text: str) -> tuple[str, ...]:
    """Return both sentences of a pair, or a single text alone."""
    return tuple(text.split(SEPARATOR, 1))


def shown(text: str) -> str:
    """Return a text for people to read, with a slash in place of the separator."""
    return text.replace(SEPARATOR, " / ")


def visible(text: str) -> str:
    """Return a text that every page and picture can show: what can't be shown becomes the replacement character."""
    return _UNSEEN.sub("\ufffd", text)


def are_texts(inputs: np.ndarray) -> bool:
    """Tell whether a task's inputs (N, ...) are rows of bytes."""
    return inputs.ndim == 2 and inputs.dtype == np.uint8
