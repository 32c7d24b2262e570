"""Floor 0: texts as rows of bytes, so that they travel as images do; each model cuts them into tokens of its own.

A row is UTF-8, padded with zeros. A pair of sentences is one text with SEPARATOR between them. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Between the sentences of a pair (the "unit separator" of ASCII, which texts don't have).
SEPARATOR = "\x1f"


def clean(text: str) -> str:
    """Without the two characters that have a meaning here, and without white space around it."""
    return text.replace("\0", " ").replace(SEPARATOR, " ").strip()


def to_bytes(texts: Sequence[str], width: int) -> np.ndarray:
    """(N, width) uint8. A longer text is cut, between two characters; of a pair the longer sentence first."""
    rows = np.zeros((len(texts), width), np.uint8)
    for row, text in zip(rows, texts, strict=True):
        content = text.encode()
        if len(content) > width:
            first, separator, second = content.partition(SEPARATOR.encode())
            room = width - len(separator)
            kept = max(room - len(second), room // 2) if separator else room
            first = first[:kept].decode(errors="ignore").encode()
            second = second[: max(0, room - len(first))].decode(errors="ignore").encode()
            content = first + separator + second
        row[: len(content)] = np.frombuffer(content, np.uint8)
    return rows


def to_texts(rows_NW: np.ndarray) -> list[str]:
    """The texts of rows that `to_bytes` has made."""
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in np.ascontiguousarray(rows_NW)]


def sentences(text: str) -> tuple[str, ...]:
    """Of a pair both, otherwise the text alone."""
    return tuple(text.split(SEPARATOR, 1))


def shown(text: str) -> str:
    """For people: the separator is drawn."""
    return text.replace(SEPARATOR, " / ")


def are_texts(inputs: np.ndarray) -> bool:
    """Whether a task's inputs (N, ...) are rows of bytes."""
    return inputs.ndim == 2 and inputs.dtype == np.uint8
