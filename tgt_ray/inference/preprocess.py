"""Turns what users have (files, pictures, arrays, texts) into the inputs of a student."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.texts import SEPARATOR, clean, to_bytes
from tgt_ray.data.images.encoded import MISSING, UnreadableImage, decode, pixels_of
from tgt_ray.models.text.tokens import Tokens

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

#: Is told the place of an input that can't be used, and why.
Bad = Callable[[int, str], None]


class Unusable(ValueError):
    """Raised for an input that a student can't take; the message says why."""


@dataclass(frozen=True)
class Rows:
    """Holds some of the inputs as a student takes them.

    - places: of these rows among the inputs
    - inputs: (B, ...)
    - cut: texts of which the student doesn't read the end
    """

    places: list[int]
    inputs: Tensor
    cut: int = 0


class Preprocess(ABC):
    """Turns inputs of one kind into a student's inputs, as its training had them."""

    def __call__(self, inputs: Any) -> Tensor:
        """Turn all inputs into one tensor (N, ...).

        - raises ConfigError: for the first that can't be used
        """
        parts = [rows.inputs for rows in self.batches(inputs, 256)]
        return torch.cat(parts) if parts else self.empty()

    def batches(self, inputs: Any, size: int, bad: Bad | None = None) -> Iterator[Rows]:
        """Turn inputs into batches of `size` rows at the most.

        - inputs: anything that can be iterated over once
        - bad: is told what can't be used; None: the first such input is an error
        - raises ConfigError: for inputs that are no list, or, without `bad`, one that can't be used
        """
        self.check(inputs)
        places, rows = [], []
        for place, item in enumerate(inputs):
            try:
                rows.append(self.one(item))
                places.append(place)
            except Unusable as err:
                if bad is None:
                    raise ConfigError(f"inputs: {self.name_of(place, item)}: {err}") from err
                bad(place, str(err))
            if len(rows) == size:
                yield Rows(places, self.stacked(rows), self.too_long(rows))
                places, rows = [], []
        if rows:
            yield Rows(places, self.stacked(rows), self.too_long(rows))

    @abstractmethod
    def check(self, inputs: Any) -> None:
        """Raise ConfigError for what is no list of inputs."""

    @abstractmethod
    def one(self, item: Any) -> Any:
        """Turn one input into what `stacked` takes. Raises Unusable."""

    @abstractmethod
    def stacked(self, rows: list[Any]) -> Tensor:
        """Join rows that `one` gave into a tensor (N, ...)."""

    def too_long(self, rows: list[Any]) -> int:
        """Count the texts of which the student doesn't read the end."""
        return 0

    @abstractmethod
    def empty(self) -> Tensor:
        """The tensor of no rows."""

    def name_of(self, place: int, item: Any) -> str:
        return str(item) if isinstance(item, Path) else f"row {place}"


class Images(Preprocess):
    """Brings images to the channels and the size of a student: the shorter side is resized, the centre kept.

    An image is a file's path, its bytes, a picture of Pillow, or an array: (C, H, W) as the student has it, or (H, W),
    (H, W, 1), (H, W, 3) or (H, W, 4) of any size. Arrays are uint8, or floating-point numbers from 0 to 1. Many images
    of the student's shape are also taken as one array (N, C, H, W), or (N, H, W) where they are grey.

    - shape: (C, H, W)
    """

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def batches(self, inputs: Any, size: int, bad: Bad | None = None) -> Iterator[Rows]:
        if not isinstance(inputs, np.ndarray | Tensor):
            yield from super().batches(inputs, size, bad)
            return
        rows = torch.as_tensor(inputs)
        if rows.ndim == 3 and self.shape[0] == 1:
            rows = rows[:, None]
        if tuple(rows.shape[1:]) != self.shape:
            raise ConfigError(f"inputs: shape {tuple(rows.shape)}; expected (N, {', '.join(map(str, self.shape))})")
        if len(rows):
            try:
                rows = torch.from_numpy(_in_range(rows.numpy(force=True)))
            except Unusable as err:
                raise ConfigError(f"inputs: {err}") from err
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            yield Rows(list(range(first, first + len(part))), _scaled(part))

    def check(self, inputs: Any) -> None:
        if isinstance(inputs, str | bytes | Path) or not isinstance(inputs, Iterable):
            raise ConfigError(f"inputs: one {type(inputs).__name__}; expected a list of images, or an array of them")

    def one(self, item: Any) -> np.ndarray:
        if isinstance(item, str | Path):
            try:
                item = Path(item).read_bytes()
            except OSError as err:
                raise Unusable(f"cannot be read ({err.strerror or MISSING})") from err
        try:
            if isinstance(item, bytes):
                return decode(item, (self.shape[1], self.shape[2]), self.shape[0])
            if isinstance(item, Tensor):
                item = item.numpy(force=True)
            if isinstance(item, np.ndarray):
                return self._of_array(item)
            return self._fitted(item)
        except UnreadableImage as err:
            raise Unusable(f"not a readable image ({err})") from err

    def _fitted(self, picture: Picture) -> np.ndarray:
        from PIL.Image import Image

        if not isinstance(picture, Image):
            raise Unusable(f"{type(picture).__name__}; expected a path, bytes, an array or an image of Pillow")
        return pixels_of(picture, (self.shape[1], self.shape[2]), self.shape[0])

    def _of_array(self, array: np.ndarray) -> np.ndarray:
        from PIL import Image

        own = array[None] if array.shape == self.shape[1:] and self.shape[0] == 1 else array
        own = _in_range(own) if own.size else own
        if own.shape == self.shape:
            return own
        flat = own[:, :, 0] if own.ndim == 3 and own.shape[2] == 1 else own
        if not flat.size or not (flat.ndim == 2 or (flat.ndim == 3 and flat.shape[2] in (3, 4))):
            raise Unusable(f"shape {array.shape}; expected {self.shape}, (H, W), (H, W, 3) or (H, W, 4)")
        pixels = flat if flat.dtype == np.uint8 else np.rint(flat * 255).astype(np.uint8)
        return self._fitted(Image.fromarray(pixels))

    def stacked(self, rows: list[np.ndarray]) -> Tensor:
        return torch.stack([_scaled(torch.tensor(row)) for row in rows])

    def empty(self) -> Tensor:
        return torch.zeros(0, *self.shape)


def _in_range(array: np.ndarray) -> np.ndarray:
    """Return an image's numbers where they are uint8, or floating-point numbers from 0 to 1. Raises Unusable."""
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.number):
        raise Unusable(f"{array.dtype}; expected uint8, or floating-point values from 0 to 1")
    low, high = float(array.min()), float(array.max())
    if np.issubdtype(array.dtype, np.floating) and low >= 0 and high <= 1:  # also false for NaN
        return array
    raise Unusable(f"{array.dtype} from {low:g} to {high:g}; expected uint8, or floating-point values from 0 to 1")


def _scaled(rows: Tensor) -> Tensor:
    return rows.float() / 255 if rows.dtype == torch.uint8 else rows.float()


class Texts(Preprocess):
    """Turns texts, or pairs of texts, into rows of bytes, which the student tokenizes itself.

    - width: bytes of a text at the most
    - pairs: whether a row is a pair of texts
    - tokens: of the student; None: longer texts are counted by their bytes alone
    - may_be_empty: whether an empty text can be used, as that of a document can
    """

    def __init__(self, width: int, pairs: bool, tokens: Tokens | None, may_be_empty: bool = False):
        self.width, self.pairs, self.tokens, self.may_be_empty = width, pairs, tokens, may_be_empty

    def check(self, inputs: Any) -> None:
        if isinstance(inputs, str) or not isinstance(inputs, Iterable):
            raise ConfigError(
                f"inputs: one {'text' if isinstance(inputs, str) else type(inputs).__name__}; expected a list of"
                f" {'pairs of texts' if self.pairs else 'texts'}"
            )

    def one(self, item: Any) -> str:
        if self.pairs:
            if isinstance(item, str) or not isinstance(item, Sequence) or len(item) != 2:
                raise Unusable("expected a pair of texts, since the student was trained on pairs")
            texts = [self._text(each) for each in item]
            if not any(texts):
                raise Unusable("a pair of empty texts")
            return SEPARATOR.join(texts)
        if isinstance(item, Sequence) and not isinstance(item, str):
            raise Unusable("expected one text, since the student was trained on single texts")
        text = self._text(item)
        if not text and not self.may_be_empty:
            raise Unusable("an empty text")
        return text

    @staticmethod
    def _text(item: Any) -> str:
        if not isinstance(item, str):
            raise Unusable(f"{'no text' if item is None or item != item else type(item).__name__}; expected a text")
        try:
            item.encode()
        except UnicodeEncodeError as err:  # JSON can write half of a character
            raise Unusable(f"has half of a character at {err.start}; expected a text in Unicode") from err
        return clean(item)

    def too_long(self, rows: list[str]) -> int:
        return sum(self._is_cut(row, len(row.encode())) for row in rows)

    def _is_cut(self, row: str, size: int) -> bool:
        # A token has a byte at least, so most texts need not be tokenized for it.
        tokens = self.tokens
        return size > self.width or (tokens is not None and size + 4 > tokens.max_tokens and tokens.is_cut(row))

    def stacked(self, rows: list[str]) -> Tensor:
        return torch.from_numpy(to_bytes(rows, self.width))

    def empty(self) -> Tensor:
        return torch.zeros(0, self.width, dtype=torch.uint8)
