"""Keeps what Ray Tune is given out of what Tune stores: it pickles its arguments, and nothing is read back."""

from __future__ import annotations

from typing import Any


def _nothing() -> None:
    return None


class Unstored:
    """Is stored as nothing, so that no secret of a storage comes into Tune's files; a copy of it is itself."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _nothing, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

    def __copy__(self) -> Any:
        return self
