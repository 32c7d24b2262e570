"""Describes errors in a user's input in one line; imports neither torch nor ray."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

#: Characters of a value that a message shows.
SHOWN = 100
#: Types of pydantic's errors whose messages need no value.
OWN = ("unknown_key", "no_number", "unknown_type", "missing_type", "own_type", "value_error", "missing")
#: Legal names that a message lists.
NAMED = 20
#: Characters of a word of a message, such as a path.
LONGEST_WORD = 300


class OneLine(Exception):
    """An error whose message is all that a user needs: notebooks show it without a traceback."""

    def __init__(self, message: str):
        printable = " ".join(message.encode(errors="backslashreplace").decode().splitlines())
        # Whatever comes into a message from a file or a library: one line, and no value that fills the screen.
        super().__init__(re.sub(rf"\S{{{LONGEST_WORD},}}", lambda word: cut(word[0]), printable))

    def _render_traceback_(self) -> list[str]:
        # IPython's protocol for errors that show themselves.
        return [f"{type(self).__name__}: {self}"]


class ConfigError(OneLine, ValueError):
    """Raised for bad input from a user. The message is one line: key or file, value, what would be right."""


class RunFailed(OneLine, RuntimeError):
    """Raised for a run that was started and ended without a result; the message says why."""


class NotWritten(RunFailed):
    """Raised where a result can't be written, as on a full disk; the message names the file and the reason."""


class NotRead(RunFailed):
    """Raised where a storage can't be read at this moment; the message names the place and the reason."""


@contextmanager
def concerning(key: str) -> Iterator[None]:
    """Put the dotted `key` in front of ConfigErrors that are raised inside, unless they name that block themselves."""
    try:
        yield
    except ConfigError as err:
        if str(err).startswith((f"{key}:", f"{key}.")):
            raise
        raise ConfigError(f"{key}: {err}") from err


def cut(text: str, most: int = SHOWN) -> str:
    """Return a text for a message: without its middle where it has more than `most` characters.

    Bytes of a command line or of a file's name that are no UTF-8 are written as escapes.
    """
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= most else f"{text[: most * 2 // 3]}...{text[-(most // 3) + 3 :]}"


def nearest(word: str, legal: Iterable[str], most: int = 1) -> str:
    """Return `did you mean 'x'?` with up to `most` names, or the list of legal names, for an error message."""
    names = sorted(legal)
    close = difflib.get_close_matches(word[:SHOWN], names, n=most, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED + 1 else ""
    return f"legal: {', '.join(names[:NAMED] if more else names)}{more}"


def describe(err: ValidationError, data: Any) -> str:
    """Return one line for the first problem of a pydantic error: `key: what is wrong (got value)`.

    - data: what was validated
    """
    problems = [(*_plain_path(problem["loc"], data), problem) for problem in err.errors(include_url=False)]
    path, value, first = problems[0]
    # A key that takes two kinds of values fails once for each: together they say what would be right.
    same = [problem["msg"].removeprefix("Value error, ") for other, _, problem in problems if other == path]
    message = " or ".join(dict.fromkeys(same)).replace("\n", " ")
    own = first["type"] in OWN
    got = "" if own else f" (got {cut(repr(value))})"
    if first["type"] == "string_type" and isinstance(value, bool | int | float):
        got += "; put quotes around it"
    more = len(problems) - len(same)
    return (f"{path}: " if path else "") + message + got + (f" [and {more} more]" if more else "")


def _plain_path(loc: Sequence[str | int], data: Any) -> tuple[str, Any]:
    """Return the dotted key as the user wrote it (pydantic adds the tags of unions), and the value found there."""
    keys: list[str] = []
    for part in loc:
        if isinstance(data, Mapping):
            if part not in data and data.get("type") == part:
                continue
            data = data.get(part)
        elif isinstance(data, list | tuple) and isinstance(part, int):
            data = data[part] if part < len(data) else None
        else:
            break  # a plain value has no parts: what follows is the tag of a union
        keys.append(str(part))
    return ".".join(keys), data
