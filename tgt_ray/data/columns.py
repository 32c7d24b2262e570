"""Reads columns of Parquet, CSV and JSON files, and explains why a file can't be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from tgt_ray.core.errors import ConfigError

#: Bytes that are read at once: no row of a CSV or JSON file may be longer.
BLOCK_BYTES = 2**25


@contextmanager
def readable(file: Path, kind: str, explain: Callable[[Path], str] = lambda file: "") -> Iterator[None]:
    """Turn the errors of pyarrow for an unreadable file into a ConfigError.

    - kind: of file, for the message
    - explain: says what is wrong with the file; where it returns nothing, pyarrow's own words are used
    """
    try:
        yield
    except (pa.ArrowException, OSError) as err:
        why = explain(file) or " ".join(str(err).split())[:300]
        raise ConfigError(f"{file}: not a readable {kind} file ({why})") from err


def bad_line(file: Path) -> str:
    """Describe the first line of a file that is not a JSON object; empty where there is none.

    pyarrow's errors don't say which line it is, since they count the rows of each block anew.
    """
    try:
        with open(file, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    good = not line.strip() or isinstance(json.loads(line), dict)
                except ValueError:
                    good = False
                if not good:
                    return f"line {number} is not a JSON object: {line.strip()[:80]!r}"
    except (OSError, UnicodeDecodeError):
        pass
    return ""


def is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without a dictionary, and with strings as large ones, whose sum may exceed 2 GB."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.large_string()) if is_text(column.type) else column


def valid(column: pa.ChunkedArray, where: str, name: str) -> pa.ChunkedArray:
    """Return a column after checking its bytes; ConfigError where they are damaged or not UTF-8."""
    try:
        column.validate(full=True)
    except pa.ArrowException as err:
        raise ConfigError(
            f"{where}: column '{name}' is damaged or not UTF-8 ({' '.join(str(err).split())[:200]})"
        ) from err
    return column
