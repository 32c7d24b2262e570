"""Reads columns of Parquet, CSV and JSON files, and explains why a file can't be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json

from tgt_ray.core.errors import ConfigError, cut
from tgt_ray.data.encoding import Utf8, as_utf8, foreign

#: Bytes that are read at once: no row of a CSV or JSON file may be longer.
BLOCK_BYTES = 2**25
#: Lines of a JSON file that are looked at for the names of its columns, where one is not found.
NAMED_LINES = 1000
#: Kinds of values in JSON: what messages call them, and their type in Arrow where a column may have it.
KINDS: dict[type, tuple[str, pa.DataType | None]] = {
    str: ("a text", pa.string()),
    bool: ("true or false", pa.bool_()),
    int: ("a number", pa.int64()),
    float: ("a number with a point", pa.float64()),
    list: ("a list", None),
    dict: ("an object", None),
}


def foreign_table(file: Path) -> str:
    """Say what a file is that is none of the kind it is read as; empty where that isn't known."""
    what = foreign(file)
    return what and f"it is {what}"


@contextmanager
def readable(file: Path, kind: str, explain: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Turn the errors of pyarrow for an unreadable file into a ConfigError.

    - kind: of file, for the message
    - explain: says what is wrong with the file; where it returns nothing, pyarrow's own words are used
    """
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError) as err:  # a column's name is no UTF-8
        own = " ".join(str(err).split())[:300]
        if "straddling object" in own:
            own = f"a row has more than {BLOCK_BYTES // 2**20} MB, or a quote is never closed"
        raise ConfigError(f"{file}: not a readable {kind} file ({explain() or foreign_table(file) or own})") from err


def open_json(file: Path) -> Utf8:
    """Look at a file of JSON lines, or in a .json file perhaps of one list; ConfigError where it is not UTF-8."""
    source = as_utf8(file, _bad_key)
    if not file.name.lower().removesuffix(".gz").endswith(".json"):
        return source
    with source.lines() as lines:
        head = next((line.strip() for line in lines if line.strip()), "")
    if head.startswith("{") and (head == "{" or not _is_object(head)):
        raise ConfigError(f"{file}: is one JSON object over several lines; write a list of objects, or one a line")
    if not head.startswith("["):
        return source
    try:
        whole = json.loads(source.text(), object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as err:
        raise ConfigError(f"{file}: not a readable JSON file ({err})") from err
    for number, row in enumerate(whole, start=1):
        if not isinstance(row, dict):
            raise ConfigError(f"{file}: entry {number} is not a JSON object: {cut(json.dumps(row), 80)!r}")
    content = "".join(f"{_written(row)}\n" for row in whole)
    return replace(source, skip=0, content=content.encode(), unit="entry")


def json_columns(source: Utf8, texts: tuple[str, ...], free: str, mixed: bool = False) -> pa.Table:
    """Read columns of JSON lines; what the others hold doesn't matter.

    - texts: columns of texts
    - free: a column of texts, whole numbers, booleans or floats
    - mixed: whether that column may have texts and whole numbers, which are texts then
    - returns: these columns, without those that no line has; strings are large ones
    - raises ConfigError: with the line where the file is damaged or a value of another kind
    """
    for kind in (pa.string(), pa.int64(), pa.bool_()):
        wanted = pa.schema({free: kind, **dict.fromkeys(texts, pa.string())})
        how = pa.json.ParseOptions(explicit_schema=wanted, unexpected_field_behavior="ignore")
        try:
            with source.open() as stream:
                table = pa.json.read_json(stream, pa.json.ReadOptions(use_threads=False, block_size=BLOCK_BYTES), how)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
        if all(table[name].null_count < len(table) for name in wanted.names):
            return table.select(wanted.names)
        break
    # Slower, but it knows lines and what is absent; pyarrow names no line, and no other column than the wanted ones.
    return _by_line(source, texts, free, mixed)


def json_values(source: Utf8, names: list[str]) -> pa.Table:
    """Read columns of JSON lines that may have lists of numbers; a column that no line has is left out.

    - raises ConfigError: where a column's values are of different kinds
    """
    rows = [row for _, row in _objects(source, tuple(names))]
    out = {}
    for name in names:
        if not any(name in row for row in rows):
            continue
        try:
            out[name] = pa.array([row.get(name) for row in rows], from_pandas=False)
        except (pa.ArrowException, OverflowError) as err:
            raise ConfigError(
                f"{source.file}: {name!r} has values of different kinds ({' '.join(str(err).split())[:200]})"
            ) from err
    return pa.table(out)


def json_schema(source: Utf8) -> pa.Schema:
    """Return the columns that the first lines have, by the first value of each."""
    found: dict[str, pa.DataType] = {}
    for number, row in _objects(source):
        for name, value in row.items():
            kind = KINDS.get(type(value), ("", None))[1]
            if found.get(name, pa.null()) == pa.null():
                found[name] = pa.null() if value is None or kind is None else kind
        if number > NAMED_LINES:
            break
    return pa.schema(found)


def _by_line(source: Utf8, texts: tuple[str, ...], free: str, mixed: bool) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [] for name in (free, *texts)}
    there: dict[str, tuple[int, type]] = {}
    lines: list[int] = []
    for number, row in _objects(source, tuple(columns)):
        lines.append(number)
        for name, values in columns.items():
            value = row.get(name)
            values.append(value)
            if value is None:
                if name in row:
                    there.setdefault(name, (0, str))
                continue
            first, kind = there[name] if there.get(name, (0,))[0] else (number, str if name in texts else type(value))
            if kind is int and type(value) is float:
                kind = float
            alike = type(value) is kind or (kind is float and type(value) is int)
            if not (alike or (mixed and name == free and {kind, type(value)} == {str, int})) or KINDS[kind][1] is None:
                what, fits = KINDS[type(value)]
                got = f"{what} ({cut(repr(value), 40)})"
                if name in texts:
                    raise ConfigError(f"{source.file}: {source.unit} {number}: {name!r} is {got}, expected a text")
                if fits is None:
                    raise ConfigError(
                        f"{source.file}: {source.unit} {number}: {name!r} is {got}, expected a text or a whole number"
                    )
                raise ConfigError(
                    f"{source.file}: {source.unit} {number}: {name!r} is {got}, in {source.unit} {first} it is"
                    f" {KINDS[kind][0]}"
                )
            there[name] = (first, kind)
    if not lines:  # a shard that has no rows has no columns either
        return pa.table({name: pa.array([], pa.large_string()) for name in columns})
    out = {}
    for name, (_, kind) in there.items():
        values = columns[name]
        if mixed and name == free and kind in (int, str):
            kind, values = str, [None if value is None else str(value) for value in values]
        try:
            arrow = pa.large_string() if kind is str else KINDS[kind][1]
            out[name] = pa.chunked_array([pa.array(values, arrow)])
        except (OverflowError, UnicodeEncodeError, pa.ArrowException) as err:
            place = next(row for row, value in enumerate(values) if not _fits(value, arrow))
            raise ConfigError(
                f"{source.file}: {source.unit} {lines[place]}: {name!r} has values that are no texts or numbers,"
                f" the first is {cut(repr(values[place]), 40)} ({str(err)[:200]})"
            ) from err
    return pa.table(out)


class _Pairs(dict[str, Any]):
    """An object of JSON; `given` are its keys and values where a key was given twice."""

    given: tuple[tuple[str, Any], ...] = ()


def _pairs(pairs: list[tuple[str, Any]]) -> _Pairs:
    out = _Pairs(pairs)
    if len(out) < len(pairs):
        out.given = tuple(pairs)
    return out


def _written(row: _Pairs) -> str:
    """Return an object on one line, with the keys that it has twice."""
    return "{" + ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in row.given or row.items()) + "}"


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([value], kind)
    except (OverflowError, UnicodeEncodeError, pa.ArrowException):
        return False
    return True


def _objects(source: Utf8, once: tuple[str, ...] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give each line's number and object; ConfigError for a line that is none.

    - once: keys that no line may give twice
    """
    with source.lines() as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=_pairs)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                whole = ": the file is one list; write its objects one a line" if line.strip()[0] == "[" else ""
                raise ConfigError(
                    f"{source.file}: not a readable JSON lines file (line {number} is not a JSON object:"
                    f" {cut(line.strip(), 80)!r}{whole if number == 1 else ''})"
                )
            names = [name for name, _ in row.given] if isinstance(row, _Pairs) else []
            again = [name for name in once if names.count(name) > 1]
            if again:
                raise ConfigError(f"{source.file}: {source.unit} {number}: the key {again[0]!r} is given twice")
            yield number, row


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _bad_key(number: int, line: bytes) -> str:
    """Name the key of a JSON object that is not UTF-8."""
    try:
        row = json.loads(line.decode("latin-1"))
    except (ValueError, RecursionError):
        return ""
    for key in row if isinstance(row, dict) else ():
        try:
            key.encode("latin-1", errors="replace").decode()
        except UnicodeDecodeError:
            return f"the key {key!r}"
    return "a value"


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
