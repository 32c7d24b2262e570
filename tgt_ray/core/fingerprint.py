"""Computes content addresses."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(*parts: Any) -> str:
    """Return the content address of JSON-able parts: 16 hex digits of a SHA-256.

    Bytes, and views of them, are hashed as they are.
    """
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part if isinstance(part, bytes | memoryview) else json.dumps(part, sort_keys=True).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]
