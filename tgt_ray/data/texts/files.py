"""Reads texts from Parquet, CSV and JSON lines."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from pydantic import Field

from tgt_ray.core.config import FilePath
from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.data.columns import BLOCK_BYTES, bad_line, is_text, readable
from tgt_ray.data.labels import label_names as names_in_file
from tgt_ray.data.texts.base import BEGINNING, RawTexts, TextSource

log = logging.getLogger(__name__)


class TextFiles(TextSource):
    """Texts in a folder with one file for each split."""

    suffixes: ClassVar[tuple[str, ...]]
    path: FilePath = Field(
        description="folder with a file for train, for test and perhaps for validation; labels.json may name classes"
    )

    def open_splits(self) -> dict[str, RawTexts]:
        if not self.path.is_dir():
            raise ConfigError(f"task.data.path: no folder at {self.path}")
        names = tuple(names_in_file(self.path / "labels.json"))
        found = {}
        for split in ("train", "test", "validation"):
            files = [self.path / f"{split}{each}" for each in self.suffixes if (self.path / f"{split}{each}").exists()]
            if len(files) > 1:
                raise ConfigError(f"task.data.path: {self.path} has both {files[0].name} and {files[1].name}; keep one")
            if not files and split != "validation":
                there = [each.name for each in self.path.iterdir()]
                hint = nearest(split + self.suffixes[0], there) if there else "the folder is empty"
                raise ConfigError(f"task.data.path: no file {split}{self.suffixes[0]} in {self.path}; {hint}")
            if files:
                schema, read = self.open_file(files[0])
                found[split] = RawTexts(str(files[0]), schema, read, names)
        return found

    @abstractmethod
    def open_file(self, file: Path) -> tuple[pa.Schema, Callable[[list[str]], pa.Table]]:
        """Return a file's columns, and a function that reads some of them. Raises ConfigError where it is damaged."""

    @property
    def _as_texts(self) -> dict[str, pa.DataType]:
        """The types of the columns whose values must not be taken for numbers or dates."""
        columns = (self.text_column, self.pair_column, self.label_column)
        return {name: pa.string() for name in columns if name is not None}


class ParquetTexts(TextFiles):
    """Texts in train.parquet, test.parquet and perhaps validation.parquet."""

    type: Literal["parquet"] = "parquet"
    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)

    def open_file(self, file: Path) -> tuple[pa.Schema, Callable[[list[str]], pa.Table]]:
        def read(columns: list[str]) -> pa.Table:
            with readable(file, "Parquet"), pq.ParquetFile(file) as parquet:
                return parquet.read(columns=columns)

        with readable(file, "Parquet"):
            return pq.read_schema(file), read


class CsvTexts(TextFiles):
    """Texts in train.csv, test.csv and perhaps validation.csv (or .tsv), with the columns' names in the first line."""

    type: Literal["csv"] = "csv"
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".tsv")
    delimiter: str | None = Field(
        None, min_length=1, max_length=1, description="character between columns; absent: a comma, in .tsv files a tab"
    )
    quoted: bool | None = Field(
        None,
        description="whether values may stand in double quotes; false: a quote is a character like any other, as in"
        " GLUE's .tsv files; absent: they may, but .tsv files that can be read either way are refused, and the log"
        " counts values that span several lines, since a quote that is never closed makes such values as well",
    )

    def open_file(self, file: Path) -> tuple[pa.Schema, Callable[[list[str]], pa.Table]]:
        delimiter = self.delimiter or ("\t" if file.suffix == ".tsv" else ",")
        with readable(file, "CSV"):
            if self.quoted is None and delimiter == "\t":
                table = self._unambiguous(file)
            else:
                table = self._parsed(file, delimiter, self.quoted is not False)
        if self.quoted is None:
            _report_lines(file, table)
        return table.schema, table.select

    def _parsed(self, file: Path, delimiter: str, quoted: bool) -> pa.Table:
        return pa.csv.read_csv(
            file,
            # In one thread, so that an error names its row.
            pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            pa.csv.ParseOptions(delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted),
            pa.csv.ConvertOptions(column_types=self._as_texts),
        )

    def _unambiguous(self, file: Path) -> pa.Table:
        """Read a .tsv file whose values may stand in quotes.

        - raises ConfigError: where quotes would join lines that are whole rows without them
        """
        tables: dict[bool, pa.Table] = {}
        for quoted in (True, False):
            with suppress(pa.ArrowException):
                tables[quoted] = self._parsed(file, "\t", quoted)
        rows = {quoted: table.num_rows for quoted, table in tables.items()}
        if rows.get(False, 0) > rows.get(True, 0):
            held = f"{rows[True]} where" if True in rows else "can't be read where"
            raise ConfigError(
                f"{file}: has {rows[False]} rows, or {held} double quotes hold a value together over lines;"
                " give task.data.quoted: false or true"
            )
        # Where neither way works, reading again raises the error that says what is wrong.
        return tables[True] if True in tables else self._parsed(file, "\t", quoted=True)


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
    """Texts in train.jsonl, test.jsonl and perhaps validation.jsonl, with one JSON object on each line."""

    type: Literal["jsonl"] = "jsonl"
    suffixes: ClassVar[tuple[str, ...]] = (".jsonl",)

    def open_file(self, file: Path) -> tuple[pa.Schema, Callable[[list[str]], pa.Table]]:
        options = pa.json.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)
        with readable(file, "JSON lines", bad_line):
            table = pa.json.read_json(file, options)
            dates = {name: kind for name, kind in self._as_texts.items() if name in table.column_names}
            dates = {name: kind for name, kind in dates.items() if pa.types.is_temporal(table.schema.field(name).type)}
            if dates:  # pyarrow takes a column for dates where all its texts look like one
                how = pa.json.ParseOptions(explicit_schema=pa.schema(dates), unexpected_field_behavior="infer")
                table = pa.json.read_json(file, options, how)
        return table.schema, table.select
