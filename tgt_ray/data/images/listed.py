"""Reads tables that name image files and their labels, such as the metadata.csv of Hugging Face's image folders."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.data.columns import BLOCK_BYTES, is_text, json_columns, json_schema, open_json, plain, readable, valid
from tgt_ray.data.encoding import Utf8, as_utf8
from tgt_ray.data.parts import kind_of
from tgt_ray.data.texts.delimited import DELIMITERS, broken_quote, excel_line, first_rows, with_doubled_quotes

log = logging.getLogger(__name__)

#: Why a table can't be read where quotes are not as they should be.
QUOTES = "line {}: a value goes on after its closing double quote; write quotes inside of values twice"
#: Suffixes of tables; other files are tables where their first line has the name of the column of files.
JSON, PARQUET = (".jsonl", ".json", ".jsonl.gz", ".json.gz"), (".parquet",)


def read_table(file: Path, file_column: str, label_column: str, labelled: bool = True) -> pa.Table | None:
    """Read the columns `file` and `label` of a table as texts; None where the file is no table.

    - labelled: false: of `file` alone, and nobody looks at labels
    - raises ConfigError: where a column is missing or of another type, or a value of it is
    """
    suffix = kind_of(file)[1]
    if suffix in PARQUET:
        with readable(file, "Parquet"):
            schema = pq.read_schema(file)
            wanted = [name for name in (file_column, label_column) if name in schema.names]
            table = pq.read_table(file, columns=wanted)
    elif suffix in JSON:
        source = open_json(file)
        table = json_columns(source, (file_column,), label_column, mixed=True)
        schema = table.schema if len(table.column_names) == 2 else json_schema(source)
    else:
        source = as_utf8(file)
        if mark := excel_line(source):
            raise ConfigError(f"{file}: begins with the line {mark[0]!r}, which is for Excel alone; remove it")
        delimiter = _delimiter(source, file_column)
        if delimiter is None:
            return None
        table = _parsed(source, delimiter, (file_column, label_column))
        schema = table.schema
    columns = {"file": file_column, "label": label_column} if labelled else {"file": file_column}
    for key, name in columns.items():
        if schema.names.count(name) != 1 or name not in table.column_names:
            raise ConfigError(f"{file}: has no column '{name}' (task.data.{key}_column); {nearest(name, schema.names)}")
    if len(table) == 0:
        raise ConfigError(f"{file}: holds no rows")
    return pa.table({key: _texts(file, name, plain(table[name]), key) for key, name in columns.items()})


def _delimiter(source: Utf8, column: str) -> str | None:
    for delimiter in DELIMITERS:
        rows = first_rows(source, delimiter, quoted=True)
        if rows and column in rows[0]:
            return delimiter
    return None


def _parsed(source: Utf8, delimiter: str, columns: tuple[str, str]) -> pa.Table:
    line = broken_quote(source, delimiter)
    doubled = with_doubled_quotes(source, delimiter) if line else None
    if doubled is not None and not broken_quote(doubled, delimiter):
        log.info("%s: double quotes after a backslash are read as part of the value", source.file)
        source, line = doubled, 0
    with readable(source.file, "CSV", lambda: QUOTES.format(line) if line else ""), source.open() as stream:
        return pa.csv.read_csv(
            stream,
            pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string())),
        )


def _texts(file: Path, name: str, column: pa.ChunkedArray, key: str) -> pa.ChunkedArray:
    kind = column.type
    if not (is_text(kind) or (key == "label" and pa.types.is_integer(kind))):
        expected = "integers or names of classes" if key == "label" else "paths"
        raise ConfigError(f"{file}: column '{name}' is {kind}, expected {expected}")
    texts = valid(column, str(file), name) if is_text(kind) else column.cast(pa.large_string())
    texts = pc.utf8_normalize(pc.utf8_trim_whitespace(texts), "NFC") if key == "label" else texts
    empty = np.flatnonzero(pc.fill_null(pc.equal(texts, ""), True).to_numpy())
    if len(empty):
        raise ConfigError(f"{file}: column '{name}' has {len(empty)} empty values, the first in row {empty[0]}")
    return texts
