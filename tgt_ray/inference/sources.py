"""Reads what users want predictions for: a folder of images, a list, a table, or standard input."""

from __future__ import annotations

import itertools
import json
import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tgt_ray.core.errors import ConfigError
from tgt_ray.data.columns import readable

log = logging.getLogger(__name__)

#: What stands for standard input.
STDIN = "-"
#: Endings of tables, and the name of their kind in messages.
TABLES = {".parquet": "Parquet", ".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSON lines", ".ndjson": "JSON lines"}
#: Rows of a table that are in memory at once.
ROWS_AT_ONCE = 1024
#: Bytes that lines are counted in at once.
BLOCK_BYTES = 2**20
#: How many inputs that can't be used get a line of their own.
NAMED = 20
#: Columns that images are looked for in, where none is named.
IMAGE_COLUMNS = ("image", "file_name", "file", "path")


@dataclass(frozen=True)
class Row:
    """One input.

    - number: its place, from 0
    - name: its file; empty where it has none
    - item: what a student's `preprocess` takes
    - label: the class that it is said to have; None where that isn't asked for
    """

    number: int
    name: str
    item: Any
    label: Any = None

    @property
    def has_no_label(self) -> bool:
        return self.label is None or self.label != self.label or str(self.label) == ""


@dataclass(frozen=True)
class Source:
    """Inputs that can be iterated over once.

    - rows: yields them
    - total: how many there are; None: nobody knows
    - has_files: whether rows have names of files
    - left_out: files that aren't images, counted by their ending
    """

    rows: Iterable[Row]
    total: int | None
    has_files: bool = False
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """Says which columns of a table are read.

    - modality: "image" or "text"
    - input: the column of the inputs; None: the one that the student was trained on, or that images usually have
    - pair: the column of second sentences; None: rows are single texts
    - trained_on: names of the input's column in the student's own data
    - label: the column of the classes; None: they aren't read
    """

    modality: str
    input: str | None
    pair: str | None
    trained_on: tuple[str, ...]
    label: str | None = None

    @property
    def candidates(self) -> tuple[str, ...]:
        if self.input is not None:
            return (self.input,)
        return (*self.trained_on, *(IMAGE_COLUMNS if self.modality == "image" else ("text",)))


@dataclass
class Inputs:
    """Hands rows to a student, and remembers them until they are predicted.

    - labelled: whether rows without a label are left out as well
    - bad: how many can't be used
    """

    source: Source
    strict: bool = False
    labelled: bool = False
    bad: int = 0
    _pending: dict[int, Row] = field(default_factory=dict)

    def items(self) -> Iterator[Any]:
        """Yield what a student takes; its places count what is yielded."""
        place = 0
        for row in self.source.rows:
            if self.labelled and row.has_no_label:
                self._leave_out(row, "has no label")
                continue
            self._pending[place] = row
            place += 1
            yield row.item

    def refuse(self, place: int, why: str) -> None:
        """Take note of an input that can't be used."""
        self._leave_out(self._pending.pop(place), why)

    def _leave_out(self, row: Row, why: str) -> None:
        where = self._where(row)
        if self.strict:
            raise ConfigError(f"INPUT {where}: {why}")
        self.bad += 1
        if self.bad <= NAMED:
            log.warning("%s: %s; it is left out", where, why)
        elif self.bad == NAMED + 1:
            log.warning("further inputs that can't be used are only counted")

    def cut(self, count: int, total: int) -> None:
        """Take note of texts that are longer than the student reads."""
        log.warning("%d of %d texts are longer than the student reads, and are cut", count, total)

    @staticmethod
    def _where(row: Row) -> str:
        return row.name or f"row {row.number}"

    def named(self, places: list[int]) -> dict[str, list[Any]]:
        """Return the columns that say which inputs some predictions are of."""
        rows = self.taken(places)
        out: dict[str, list[Any]] = {"row": [row.number for row in rows]}
        return out | ({"file": [row.name for row in rows]} if self.source.has_files else {})

    def taken(self, places: list[int]) -> list[Row]:
        """Return rows that the student has taken, and forget them."""
        return [self._pending.pop(place) for place in places]


def open_source(path: str, wanted: Wanted) -> Source:
    """Open what a user names: a folder of images, a table, a text file with one input a line, or `-` for such lines.

    - raises ConfigError: where there is nothing of that kind
    """
    if path == STDIN:
        return Source(_lines(sys.stdin, wanted, Path()), None, has_files=wanted.modality == "image")
    file = Path(path)
    if file.is_dir():
        return _folder(file, wanted)
    if not file.exists():
        raise ConfigError(f"INPUT {path}: there is no such file or folder")
    if file.suffix.lower() in TABLES:
        return _table(file, wanted)
    if wanted.modality == "image" and file.suffix.lower() in image_endings():
        return Source([Row(0, str(file), file)], 1, has_files=True)
    if wanted.label is not None:
        raise ConfigError(f"DATA {path}: has no labels; expected a folder of classes, or a {_kinds()} file")
    content = _text(file)
    return Source(_lines(content, wanted, file.parent), len(content), has_files=wanted.modality == "image")


def image_endings() -> frozenset[str]:
    """Endings of the files that Pillow can read."""
    from PIL import Image

    Image.init()
    return frozenset(ending for ending, kind in Image.EXTENSION.items() if kind in Image.OPEN)


def _kinds() -> str:
    return ", ".join(ending for ending in TABLES)


def _folder(folder: Path, wanted: Wanted) -> Source:
    """Find a folder's images; with labels, those of its subfolders, whose names are the classes."""
    if wanted.modality != "image":
        raise ConfigError(f"INPUT {folder}: is a folder; the student takes texts, from a {_kinds()} or .txt file")
    endings, files, left_out = image_endings(), [], dict[str, int]()
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        if any(part.startswith(".") for part in file.relative_to(folder).parts):
            continue
        if file.suffix.lower() in endings:
            files.append(file)
        else:
            kind = file.suffix.lower() or "no ending"
            left_out[kind] = left_out.get(kind, 0) + 1
    if not files:
        raise ConfigError(f"INPUT {folder}: has no images")
    if wanted.label is None:
        return Source([Row(number, str(file), file) for number, file in enumerate(files)], len(files), True, left_out)
    flat = [file for file in files if file.parent == folder]
    if flat:
        raise ConfigError(f"DATA {flat[0]}: lies in no folder of a class; expected {folder}/CLASS/{flat[0].name}")
    rows = [Row(number, str(file), file, file.relative_to(folder).parts[0]) for number, file in enumerate(files)]
    return Source(rows, len(rows), True, left_out)


def _text(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as err:
        raise ConfigError(
            f"INPUT {file}: neither a folder, a {_kinds()} file, an image, nor lines of UTF-8 text"
        ) from err
    except OSError as err:
        raise ConfigError(f"INPUT {file}: cannot be read ({err.strerror})") from err


def _lines(lines: Iterable[str], wanted: Wanted, home: Path) -> Iterator[Row]:
    """Yield a row for each line: a text, or the path of an image, from `home` on."""
    for number, line in enumerate(lines):
        text = line.rstrip("\r\n")
        if wanted.modality == "image":
            yield Row(number, text, home / text if text.strip() else None)
        else:
            yield Row(number, "", tuple(text.split("\t", 1)) if wanted.pair is not None else text)


def _table(file: Path, wanted: Wanted) -> Source:
    kind = TABLES[file.suffix.lower()]
    with readable(file, kind):
        names, total, batches = _opened(file, kind)
    column = _column(file, names, wanted)
    return Source(_rows(file, kind, batches, column, wanted), total, wanted.modality == "image")


def part_of_parquet(file: Path, wanted: Wanted, first: int, count: int) -> Source:
    """Open `count` rows of a Parquet file from row `first` on, which are counted from 0 again.

    Only the groups of rows that have them are read.
    """
    with readable(file, "Parquet"):
        opened = pq.ParquetFile(file)
        column = _column(file, list(opened.schema_arrow.names), wanted)
        batches = _some(opened, [column] if wanted.pair is None else [column, wanted.pair], first, count)
    return Source(_rows(file, "Parquet", batches, column, wanted), count, wanted.modality == "image")


def _some(opened: pq.ParquetFile, columns: list[str], first: int, count: int) -> Iterator[list[dict[str, Any]]]:
    begin, last = 0, first + count
    for group in range(opened.num_row_groups):
        end = begin + opened.metadata.row_group(group).num_rows
        if begin < last and end > first:
            place = begin
            for batch in opened.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=columns):
                part = batch.slice(max(0, first - place), max(0, min(last, place + len(batch)) - max(first, place)))
                place += len(batch)
                if len(part):
                    yield part.to_pylist()
                if place >= last:
                    break
        begin = end


def _column(file: Path, names: list[str], wanted: Wanted) -> str:
    """Return the column of the inputs. Raises ConfigError where a table lacks a column that is wanted."""
    column = next((name for name in wanted.candidates if name in names), None)
    for missing, name in ((column is None, wanted.candidates[0]), (wanted.pair not in (None, *names), wanted.pair)):
        if missing:
            raise ConfigError(f"{file}: has no column '{name}'; it has {', '.join(names)}")
    if wanted.label is not None and wanted.label not in names:
        raise ConfigError(f"{file}: has no column '{wanted.label}' with the classes; it has {', '.join(names)}")
    assert column is not None
    return column


def _opened(file: Path, kind: str) -> tuple[list[str], int | None, Iterator[list[dict[str, Any]]]]:
    """Return a table's columns, how many rows it has where that is known, and its rows in batches."""
    if kind == "Parquet":
        opened = pq.ParquetFile(file)
        rows = (batch.to_pylist() for batch in opened.iter_batches(ROWS_AT_ONCE))
        return list(opened.schema_arrow.names), int(opened.metadata.num_rows), rows
    if kind == "JSON lines":
        return _json(file)
    options = pa.csv.ParseOptions(delimiter="\t" if kind == "TSV" else ",", newlines_in_values=True)
    # As texts: a number or a date among texts is one of them.
    names = pa.csv.open_csv(file, parse_options=options).schema.names
    texts = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    reader = pa.csv.open_csv(file, parse_options=options, convert_options=texts)
    # Lines aren't rows, since a text in quotes may have several.
    one = pa.csv.ConvertOptions(include_columns=names[:1], column_types={names[0]: pa.string()})
    total = sum(len(batch) for batch in pa.csv.open_csv(file, parse_options=options, convert_options=one))
    return list(names), total, (batch.to_pylist() for batch in reader)


def _count_lines(file: Path) -> int:
    count, last = 0, b"\n"
    with file.open("rb") as opened:
        while block := opened.read(BLOCK_BYTES):
            count, last = count + block.count(b"\n"), block[-1:]
    return count + (last != b"\n")


def _json(file: Path) -> tuple[list[str], int | None, Iterator[list[dict[str, Any]]]]:
    def rows() -> Iterator[dict[str, Any]]:
        with file.open(encoding="utf-8-sig") as opened:
            for number, line in enumerate(opened):
                try:
                    row = json.loads(line)
                except ValueError as err:
                    raise ConfigError(f"{file}: line {number + 1} is not JSON ({err})") from err
                if not isinstance(row, dict):
                    raise ConfigError(f"{file}: line {number + 1} is not a JSON object")
                yield row

    there = rows()
    first = list(itertools.islice(there, ROWS_AT_ONCE))
    names = list(dict.fromkeys(name for row in first for name in row))

    def batches() -> Iterator[list[dict[str, Any]]]:
        part = first
        while part:
            yield part
            part = list(itertools.islice(there, ROWS_AT_ONCE))

    # What comes through a pipe can be read once.
    return names, _count_lines(file) if file.is_file() else None, batches()


def _rows(file: Path, kind: str, batches: Iterator[list[dict[str, Any]]], column: str, wanted: Wanted) -> Iterator[Row]:
    number = 0
    while True:
        with readable(file, kind):
            batch = next(batches, None)
        if batch is None:
            return
        for row in batch:
            item, name = row.get(column), ""
            if wanted.modality == "image":
                item, name = _image(item, file.parent)
            elif wanted.pair is not None:
                item = (item, row.get(wanted.pair))
            yield Row(number, name, item, row.get(wanted.label) if wanted.label is not None else None)
            number += 1


def _image(value: Any, home: Path) -> tuple[Any, str]:
    """Return an image of a table as `preprocess` takes it, and the name of its file, where it has one."""
    if isinstance(value, dict):  # as the library datasets stores images
        name = str(value.get("path") or "")
        return value.get("bytes") or (home / name if name else None), name
    return (home / value if value else None, value) if isinstance(value, str) else (value, "")
