"""Computes content addresses."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def digest(*parts: Any) -> str:
    """Return the content address of JSON-able parts: 16 hex digits of a SHA-256.

    Bytes, and views of them, are hashed as they are.
    """
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part if isinstance(part, bytes | memoryview) else json.dumps(part, sort_keys=True).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]


def digest_of_array(array: np.ndarray) -> str:
    """Return the content address of an array: of its type, its shape and its bytes, or of its objects."""
    if array.dtype == object:
        return digest(array.tolist())
    return digest(array.dtype.str, array.shape, array.reshape(-1).view("u1").data)
