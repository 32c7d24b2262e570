"""Looks at how values of a CSV file are written: what is between them, quotes inside of them, the first line."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

from tgt_ray.data.encoding import Utf8

#: What is between values in files of this kind.
DELIMITERS = ",;\t|"
#: Rows that are looked at to tell whether the first line is one as well.
LOOKED_AT = 200
#: Characters that no name of a column has, but many a text.
LONG = 60


@contextmanager
def _long_values() -> Iterator[None]:
    """Let Python's reader take values of any length."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def first_rows(source: Utf8, delimiter: str, quoted: bool) -> list[list[str]]:
    """Return the first rows of a file, empty lines left out; values may be in double quotes where it is `quoted`."""
    with _long_values(), source.lines() as lines:
        rows = csv.reader(
            (line.replace("\0", "") for line in lines),
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        )
        return list(islice((row for row in rows if row), LOOKED_AT))


def excel_line(source: Utf8) -> re.Match[str] | None:
    """Find the line `sep=;` that Excel puts before the names of columns; its first group is what it names."""
    with source.lines() as lines:
        return re.fullmatch(r'"?sep=(.)"?', lines.readline().strip())


def looks_like_row(rows: Sequence[Sequence[str]], classes: Sequence[str]) -> bool:
    """Tell whether the first of these rows holds values, and not the names of columns.

    - classes: names of the classes
    """
    head, *others = rows
    return any(
        cell.strip() in classes
        or re.fullmatch(r"[-+]?[0-9]+([.][0-9]+)?", cell.strip()) is not None
        or len(cell) > LONG
        or any(len(row) > place and cell and row[place] == cell for row in others)
        for place, cell in enumerate(head)
    )


def broken_quote(source: Utf8, delimiter: str) -> int:
    """Return the number of the first line where a value goes on after its closing quote; 0 where none does."""
    with source.open() as stream:
        # Most files have no quotes at all.
        if not any(b'"' in line for line in stream):
            return 0
    with _long_values(), source.lines() as lines:
        rows = csv.reader((line.replace("\0", "") for line in lines), delimiter=delimiter, strict=True)
        try:
            for _ in rows:
                pass
        except csv.Error as err:
            # Other errors are pyarrow's to find.
            return rows.line_num if "expected after" in str(err) else 0
    return 0


def with_doubled_quotes(source: Utf8, delimiter: str) -> Utf8 | None:
    """Return a file with `\\"` inside of quoted values written as `""`, and a double backslash there as one.

    None where it has no quote after a backslash.
    """
    with source.open() as stream:
        content = stream.read()
    if b'\\"' not in content:
        return None
    ends = re.escape(delimiter.encode()) + rb"\r\n"
    # The quotes are at the ends of a value, so that a quote in the middle of an unquoted one is no beginning.
    value = re.compile(rb"(?<![^" + ends + rb'])"((?:[^"\\]|\\.|"")*+)"(?![^' + ends + rb"])", re.DOTALL)
    written = {b'\\"': b'""', rb"\\": b"\\"}

    def mended(found: re.Match[bytes]) -> bytes:
        inner = re.sub(rb'\\\\|\\"', lambda pair: written[pair[0]], found[1])
        return b'"' + inner + b'"'

    return replace(source, content=value.sub(mended, content))
