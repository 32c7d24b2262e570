"""Takes out of what is shared where things lie on the machine that it comes from."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

#: Folders inside of a run's or a sweep's, whose names say nothing.
_INSIDE = ("best", "checkpoint")


def without_places(value: Any, key: str = "") -> Any:
    """Return plain data in which each absolute path of a machine is its last part: the name of a run, of a file.

    - key: that has the value; texts that are put before others may begin with a slash
    """
    if isinstance(value, dict):
        return {name: without_places(each, str(name)) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(each, key) for each in value]
    return _name(value) if isinstance(value, str) and not key.endswith("prefix") else value


def _name(text: str) -> str:
    plain = text.removeprefix("file://")
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(plain)
        if path.is_absolute() or plain.startswith("~"):
            named = [part for part in path.parts[1:] if part not in _INSIDE]
            return named[-1] if named else text
    return text
