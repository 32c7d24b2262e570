"""Reads texts from Parquet, CSV and JSON lines."""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from pydantic import Field, field_validator

from tgt_ray.core.config import FilePath
from tgt_ray.core.errors import ConfigError, cut
from tgt_ray.core.progress import progress
from tgt_ray.data.account import left_out
from tgt_ray.data.columns import BLOCK_BYTES, is_text, json_columns, json_schema, open_json, plain, readable
from tgt_ray.data.encoding import Utf8, as_utf8
from tgt_ray.data.labels import names_beside
from tgt_ray.data.parts import UNLABELLED, Layout, Parts, files_named, find_parts, kind_of, no_split, split_parts
from tgt_ray.data.texts.base import BEGINNING, RawTexts, TextSource
from tgt_ray.data.texts.delimited import (
    DELIMITERS,
    broken_quote,
    excel_line,
    first_rows,
    looks_like_row,
    with_doubled_quotes,
)

log = logging.getLogger(__name__)

#: Ends the names of files that have a text on each line, and so no labels.
LINES = (".txt", ".txt.gz")

#: Cells of a first line that a message shows.
SHOWN = 4


class TextFiles(TextSource):
    """Texts in a folder with one file for each split, or with several of them, `train-00000-of-00002` and so on."""

    suffixes: ClassVar[tuple[str, ...]]
    path: FilePath = Field(
        description="folder with a file for train, for test and perhaps for validation (or valid, val or dev);"
        " labels.json, or classes.txt, may name classes; a file called unlabelled (or .txt, with a text on each line)"
        " may have further texts for train, which task.unlabelled: anchors takes"
    )

    def open_splits(self) -> dict[str, RawTexts]:
        if not self.path.is_dir():
            raise ConfigError(f"task.data.path: no folder at {self.path}")
        layout = split_parts(self.path, self.suffixes, LINES)
        names, beside = names_beside(layout.folders)
        found = self._opened(layout.parts, names)
        left = layout.left_out([*beside, *self._without_labels(layout)], no_split(self.suffixes))
        return {**found, "train": replace(found["train"], left_out=left)}

    def files_without_labels(self) -> list[Path]:
        return self._without_labels(split_parts(self.path, self.suffixes))

    def open_without_labels(self) -> RawTexts:
        layout = split_parts(self.path, self.suffixes)
        parts = find_parts(layout.home, UNLABELLED, (*self.suffixes, *LINES))
        assert parts is not None, "it is called where there are such files"
        return self._opened({"unlabelled": parts}, names_beside(layout.folders)[0])["unlabelled"]

    def _without_labels(self, layout: Layout) -> list[Path]:
        return files_named(layout.home, UNLABELLED, (*self.suffixes, *LINES))

    def _opened(self, every: dict[str, Parts], names: list[str]) -> dict[str, RawTexts]:
        """Open the files of splits.

        - names: of the classes, where a file beside the splits has them
        """
        found = {}
        with progress("opening files of texts", sum(len(parts.files) for parts in every.values()), "files") as phase:
            for split, parts in every.items():
                opened = []
                for file in parts.files:
                    opened.append(self._lines(file) if _is_lines(file) else self._table(file, names))
                    phase.advance()
                whole = RawTexts(parts.where, opened[0].schema, opened[0].read, tuple(names), tuple(opened))
                found[split] = opened[0] if len(opened) == 1 else whole
        return found

    def _table(self, file: Path, names: list[str]) -> RawTexts:
        return RawTexts(str(file), *self.open_file(file, names), tuple(names))

    @abstractmethod
    def open_file(self, file: Path, names: list[str]) -> tuple[pa.Schema, Callable[[list[str]], pa.Table]]:
        """Return a file's columns, and a function that reads some of them. Raises ConfigError where it is damaged.

        - names: of the classes, where a file beside the splits has them
        """

    def _lines(self, file: Path) -> RawTexts:
        """Read a file with a text on each line. Blank lines are counted."""
        if self.pair_column is not None:
            raise ConfigError(
                f"{file}: has single texts, and task.data.pair_column says that rows are pairs; give a file with both"
                " columns"
            )
        with as_utf8(file).lines() as lines:
            texts = [line.strip() for line in lines]
        blank = [f"{file} line {number}" for number, text in enumerate(texts, start=1) if not text]
        table = pa.table({self.text_column: pa.array([text for text in texts if text], pa.large_string())})
        return RawTexts(str(file), table.schema, table.select, left_out=left_out("blank lines", blank))

    @property
    def _as_texts(self) -> dict[str, pa.DataType]:
        """The types of the columns whose values must not be taken for numbers or dates."""
        columns = (self.text_column, self.pair_column, self.label_column)
        return {name: pa.string() for name in columns if name is not None}


def _is_lines(file: Path) -> bool:
    return kind_of(file)[1] in LINES


class ParquetTexts(TextFiles):
    """Texts in train.parquet, test.parquet and perhaps validation.parquet."""

    type: Literal["parquet"] = "parquet"
    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)

    def open_file(self, file: Path, names: list[str]) -> tuple[pa.Schema, Callable[[list[str]], pa.Table]]:
        def read(columns: list[str]) -> pa.Table:
            with readable(file, "Parquet"), pq.ParquetFile(file) as parquet:
                table = parquet.read(columns=columns)
                # A damaged page is found here, and not where a value is used. Bytes of texts are looked at later.
                table.validate(full=not any(is_text(each.type) for each in table.schema))
                return pa.table({name: plain(table[name]) for name in columns})

        with readable(file, "Parquet"):
            return pq.read_schema(file), read


class CsvTexts(TextFiles):
    """Texts in train.csv, test.csv and perhaps validation.csv, with the columns' names in the first line.

    The files may also be .tsv, and either may be packed (.csv.gz).
    """

    type: Literal["csv"] = "csv"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="character between columns, of ASCII; absent: a comma, in .tsv files a tab; \\t is a tab as well",
    )
    quoted: bool | None = Field(
        None,
        description="whether values may stand in double quotes; false: a quote is a character like any other, as in"
        " GLUE's .tsv files; absent: they may, but .tsv files that can be read either way are refused, and the log"
        " counts values that span several lines, since a quote that is never closed makes such values as well",
    )

    columns: tuple[str, ...] | None = Field(
        None,
        min_length=2,
        description="names of the columns in their order, for files whose first line is a row; absent: the first line"
        " has the names",
    )

    @field_validator("delimiter", mode="before")
    @classmethod
    def _tab(cls, value: object) -> object:
        """Take a backslash and a t for a tab: single quotes in YAML, and shells, leave them as they are."""
        return "\t" if value == r"\t" else value

    @field_validator("delimiter")
    @classmethod
    def _one_byte(cls, value: str | None) -> str | None:
        if value is not None and (not value.isascii() or value in '"\r\n\0'):
            raise ValueError(f"{value!r} can't be between columns; give a character of ASCII, such as ';' or '|'")
        return value

    def open_file(self, file: Path, names: list[str]) -> tuple[pa.Schema, Callable[[list[str]], pa.Table]]:
        delimiter = self.delimiter or ("\t" if kind_of(file)[1].startswith(".tsv") else ",")
        head = self.columns is None
        source = as_utf8(file, lambda number, line: "the names of the columns" if number == 1 else "", page=head)
        self._check_head(source, delimiter, names)
        with readable(file, "CSV"):
            if self.quoted is not False:
                source = self._with_quotes(source, delimiter)
            if self.quoted is None and delimiter == "\t":
                table = self._unambiguous(source)
            else:
                table = self._parsed(source, delimiter, self.quoted is not False)
        if self.quoted is None:
            _report_lines(file, table)
        return table.schema, table.select

    def _check_head(self, source: Utf8, delimiter: str, classes: list[str]) -> None:
        """Raise ConfigError where the first line has no names of columns, or has them under another delimiter.

        - classes: names of the classes, where a file beside the splits has them
        """
        file, wanted = source.file, list(self._as_texts)
        rows = first_rows(source, delimiter, self.quoted is not False)
        head = rows[0] if rows else []
        if mark := excel_line(source):
            raise ConfigError(
                f"{file}: begins with the line {mark[0]!r}, which is for Excel alone; remove it, and set"
                f" task.data.delimiter to {json.dumps(mark[1])} where that is not what the file's kind has"
            )
        if self.columns is not None:
            if set(head) >= set(wanted):
                raise ConfigError(f"task.data.columns: {file} has these names in its first line; leave columns out")
            return
        if not head or set(wanted) <= set(head):
            return
        for other in DELIMITERS.replace(delimiter, ""):
            names = first_rows(source, other, self.quoted is not False)[0]
            if set(wanted) <= set(names) or (len(head) == 1 < len(names) and not looks_like_row([names], ())):
                raise ConfigError(
                    f"task.data.delimiter: the first line of {file} has the columns {', '.join(names)} where"
                    f" {json.dumps(other)} is between them; set task.data.delimiter to {json.dumps(other)}"
                )
        if looks_like_row(rows, self.label_names or classes):
            lacking = next(name for name in wanted if name not in head)
            raise ConfigError(
                f"task.data.columns: {file} has no column {lacking!r}, and its first line looks like a row and not like"
                f" names of columns ({', '.join(repr(cut(cell, 40)) for cell in head[:SHOWN])}); set task.data.columns"
                f" to the names of its {len(head)} columns in their order, with {' and '.join(wanted)} among them"
            )

    def _with_quotes(self, source: Utf8, delimiter: str) -> Utf8:
        """Return the file with the double quotes inside of values written twice, where it has them after a backslash.

        - raises ConfigError: where a value goes on after its closing quote, unless `quoted` says that all is well
        """
        line = broken_quote(source, delimiter)
        if not line or (self.quoted is None and delimiter == "\t" and self._more_rows_without_quotes(source)):
            return source
        doubled = with_doubled_quotes(source, delimiter)
        if doubled is not None and not broken_quote(doubled, delimiter):
            log.info("%s: double quotes after a backslash are read as part of the value", source.file)
            return doubled
        if self.quoted:  # as the user says
            return source
        raise ConfigError(
            f"{source.file}: line {line}: a value goes on after its closing double quote; write quotes inside of values"
            " twice, or set task.data.quoted: false where a quote is a character like any other"
        )

    def _parsed(self, source: Utf8, delimiter: str, quoted: bool) -> pa.Table:
        with source.open() as stream:
            return pa.csv.read_csv(
                stream,
                # In one thread, so that an error names its row.
                pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, column_names=self.columns),
                pa.csv.ParseOptions(
                    delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted
                ),
                pa.csv.ConvertOptions(column_types=self._as_texts),
            )

    def _rows_either_way(self, source: Utf8) -> dict[bool, pa.Table]:
        tables: dict[bool, pa.Table] = {}
        for quoted in (True, False):
            with suppress(pa.ArrowException):
                tables[quoted] = self._parsed(source, "\t", quoted)
        return tables

    def _more_rows_without_quotes(self, source: Utf8) -> bool:
        rows = {quoted: table.num_rows for quoted, table in self._rows_either_way(source).items()}
        return rows.get(False, 0) > rows.get(True, 0)

    def _unambiguous(self, source: Utf8) -> pa.Table:
        """Read a .tsv file whose values may stand in quotes.

        - raises ConfigError: where quotes would join lines that are whole rows without them
        """
        tables = self._rows_either_way(source)
        rows = {quoted: table.num_rows for quoted, table in tables.items()}
        if rows.get(False, 0) > rows.get(True, 0):
            held = f"{rows[True]} where" if True in rows else "can't be read where"
            raise ConfigError(
                f"{source.file}: has {rows[False]} rows, or {held} double quotes hold a value together over lines;"
                " give task.data.quoted: false or true"
            )
        # Where neither way works, reading again raises the error that says what is wrong.
        return tables[True] if True in tables else self._parsed(source, "\t", quoted=True)


def _report_lines(file: Path, table: pa.Table) -> None:
    """Log a warning where quotes hold lines together: only the user knows whether they are meant to."""
    columns = [column for column in table.columns if is_text(column.type)]
    broken = [pc.match_substring_regex(column, r"[\r\n]").fill_null(False) for column in columns]
    rows = np.logical_or.reduce([found.to_numpy() for found in broken], axis=0) if broken else np.zeros(0, bool)
    if rows.any():
        row = int(rows.argmax())
        first = next(column for column, found in zip(columns, broken, strict=True) if found[row].as_py())[row].as_py()
        log.warning(
            "%s: double quotes hold values over several lines together in %d of %d rows, the first %r; where a quote is"
            " a character like any other, these lines are rows of their own: set task.data.quoted: false (or true where"
            " all is well, to silence this warning)",
            *(file, rows.sum(), len(rows), first[:BEGINNING]),
        )


class JsonTexts(TextFiles):
    """Texts in train.jsonl, test.jsonl and perhaps validation.jsonl, with one JSON object on each line.

    The files may also be .json, with such lines or one list of objects, and either may be packed (.jsonl.gz).
    """

    type: Literal["jsonl"] = "jsonl"
    suffixes: ClassVar[tuple[str, ...]] = (".jsonl", ".json", ".jsonl.gz", ".json.gz")

    def open_file(self, file: Path, names: list[str]) -> tuple[pa.Schema, Callable[[list[str]], pa.Table]]:
        source = open_json(file)
        texts = tuple(name for name in self._as_texts if name != self.label_column)
        table = json_columns(source, texts, self.label_column)
        absent = [name for name in self._as_texts if name not in table.column_names]
        # Other columns are looked at only where a message names them.
        schema = table.schema if not absent else json_schema(source)
        return schema, table.select
