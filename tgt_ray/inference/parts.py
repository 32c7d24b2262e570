"""Predicts many inputs in numbered parts, so that many processes share the work and a broken run can go on.

A part is a range of rows, and becomes one Parquet file. A file that isn't Parquet, and a folder, is first written as a
table of rows, so that each process finds its range without reading what lies before it.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tgt_ray.core import formats, records
from tgt_ray.core.errors import ConfigError, NotWritten
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.storage import Storage, host, is_left
from tgt_ray.core.stored import checksum
from tgt_ray.inference.sources import STDIN, Inputs, Row, Source, Wanted, open_source, part_of_parquet
from tgt_ray.training.files import DOCUMENTS_FILE, STUDENT_FILE, TOKENIZER_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    from tgt_ray.inference.prediction import Asked, Student

log = logging.getLogger(__name__)

#: What was asked for, and the table of rows. Readers of a folder of Parquet files leave out what begins with "_".
RECORD_FILE, ROWS_FILE, LOGS = "_predictions.json", "_rows.parquet", "_logs"
#: The key of a part's metadata that says what it is.
ABOUT = b"tgt_ray"
#: Files that a student is made of.
STUDENT = (WEIGHTS_FILE, STUDENT_FILE, TOKENIZER_FILE, DOCUMENTS_FILE)


@dataclass(frozen=True)
class Job:
    """Says what all parts have in common; it travels to each process.

    - folder: of the student
    - device: of torch
    - source: the Parquet file with the inputs; None: the rows lie in `out`
    - out: where the parts are written
    - total: how many rows there are
    - size: rows of a part
    - schema: of the parts
    """

    folder: str
    device: str
    source: Path | None
    wanted: Wanted
    asked: Asked
    out: Storage
    total: int
    size: int
    schema: pa.Schema

    @property
    def parts(self) -> int:
        return -(-self.total // self.size)

    def rows_of(self, part: int) -> int:
        return min(self.size, self.total - part * self.size)


@dataclass(frozen=True)
class Done:
    """Says how a part went; it travels as JSON.

    - part: its number
    - rows: of the input
    - bad: inputs that can't be used: what each is called, and why
    - cut: texts that are longer than the student reads
    - error, failed: why nothing was written: bad input, or what else has failed; empty: it was
    """

    part: int
    rows: int
    bad: list[tuple[str, str]] = field(default_factory=list)
    cut: int = 0
    error: str = ""
    failed: str = ""

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str | bytes) -> Done:
        known = json.loads(text)
        return cls(**{**known, "bad": [tuple(each) for each in known["bad"]]})


@dataclass
class Collected(Inputs):
    """Keeps what can't be used, instead of saying it: this process has nobody to say it to.

    - first: the number of the first row among all
    """

    first: int = 0
    named_bad: list[tuple[str, str]] = field(default_factory=list)
    too_long: int = 0

    def refuse(self, place: int, why: str) -> None:
        (row,) = self.taken([place])
        where = row.name or f"row {self.first + place}"
        if self.strict:
            raise ConfigError(f"INPUT {where}: {why}")
        self.bad += 1
        self.named_bad.append((where, why))

    def cut(self, count: int, total: int) -> None:
        self.too_long += count

    def named(self, places: list[int]) -> dict[str, list[Any]]:
        return {**super().named(places), "row": [self.first + place for place in places]}


def name(part: int) -> str:
    """Return the file of a part."""
    return f"part-{part:05d}.parquet"


def prepare(
    student: Student,
    folder: Storage,
    path: str,
    wanted: Wanted,
    asked: Asked,
    out: Storage,
    device: str = "cpu",
    size: int = 4096,
) -> Job:
    """Make a folder of parts ready, or go on with one that is there.

    - folder: where the student lies
    - path: of the inputs
    - out: the folder of parts
    - device: of torch, where the parts are made
    - size: rows of a part
    - raises ConfigError: where the folder has other files, or parts of another student, input or other options
    """
    from tgt_ray.inference.prediction import say_left_out

    if path == STDIN:
        raise ConfigError("INPUT -: --ray reads inputs from several machines, and again after a break; give a file")
    source = open_source(str(Path(path).resolve()), wanted)
    files = source.rows if isinstance(source.rows, list) else []
    say_left_out(path, source)
    schema = schema_of(student, asked, source.has_files)
    known = _identity(folder, Path(path).resolve(), files, wanted, asked, size)
    _check_same(out, known)
    _remove_drafts(out)
    is_parquet = Path(path).suffix.lower() == ".parquet" and not Path(path).is_dir()
    if is_parquet:
        total = source.total or 0
    elif out.exists(RECORD_FILE) and out.holds(ROWS_FILE):
        total = _row_count(out)
    else:
        total = write_rows(source, out, size)
    if not total:
        raise ConfigError(f"INPUT {path}: has no rows")
    records.write_json(out, {**known, "rows": total}, RECORD_FILE)
    table = Path(path).resolve() if is_parquet else None
    return Job(folder.root, device, table, wanted, asked, out, total, size, schema)


def _identity(folder: Storage, path: Path, files: list[Row], wanted: Wanted, asked: Asked, size: int) -> dict[str, Any]:
    """Return what must be the same for parts to belong together."""
    contents = [folder.read(each) for each in STUDENT if folder.exists(each)]
    about: dict[str, Any] = {"path": str(path)}
    if path.is_dir():
        sizes = [[row.name, Path(row.name).stat().st_size] for row in files]
        about |= {"files": len(files), "fingerprint": digest(sizes)}
    else:
        state = path.stat()
        about |= {"bytes": state.st_size, "modified": state.st_mtime_ns}
    options = {
        "top": asked.top,
        "probabilities": asked.probabilities,
        "embedding": asked.embedding,
        "column": wanted.input,
        "pair_column": wanted.pair,
        "rows_per_part": size,
    }
    identity = {"student": {"checksum": checksum(*contents)}, "input": about, "options": options}
    return formats.stamped("predictions", identity)


def _check_same(out: Storage, known: dict[str, Any]) -> None:
    """Raise ConfigError where a folder has something else than parts of the same predictions."""
    if not out.exists(RECORD_FILE):
        others = [Path(each).name for each in out.files() if Path(each).name != ROWS_FILE]
        if any(not each.endswith(".tmp") for each in others):
            raise ConfigError(f"--out {out.shown}: has other files, such as {min(others)}; give a new folder")
        return
    before = records.read_json(out, RECORD_FILE)
    formats.check("predictions", before, out.where(RECORD_FILE), "give a new folder")
    for what in ("student", "input", "options"):
        for key, value in known[what].items():
            if before.get(what, {}).get(key) != value:
                there = json.dumps(before.get(what, {}).get(key))
                raise ConfigError(
                    f"--out {out.shown}: has predictions of another {what.removesuffix('s')} ({key}"
                    f" {there} there, {json.dumps(value)} now); give a new folder"
                )


def _remove_drafts(out: Storage) -> None:
    """Remove what processes that are gone have left half-written."""
    if out.is_local and Path(out.base).is_dir():
        for draft in Path(out.base).glob("*.tmp"):
            if is_left(draft):
                with suppress(OSError):  # another process may have been faster
                    draft.unlink()


def write_rows(source: Source, out: Storage, size: int) -> int:
    """Write inputs as a table whose groups of rows are the parts; return how many rows there are."""
    target = out.path(ROWS_FILE)
    draft, total = f"{target}.{host()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp", 0
    try:
        if out.is_local:
            out.fs.create_dir(out.base, recursive=True)
        with out.fs.open_output_stream(draft) as stream, pq.ParquetWriter(stream, _ROWS) as writer:
            rows = iter(source.rows)
            while part := list(itertools.islice(rows, size)):
                writer.write_table(_as_rows(part), row_group_size=size)
                total += len(part)
        out.fs.move(draft, target)
    except (pa.ArrowException, OSError) as err:
        raise NotWritten(f"{out.where(ROWS_FILE)}: cannot be written ({' '.join(str(err).split())})") from err
    return total


#: The table of rows: a name, where the input is a file, and the input as JSON.
_ROWS = pa.schema({"name": pa.string(), "item": pa.string()})


def _as_rows(rows: list[Row]) -> pa.Table:
    items = [json.dumps({"path": str(row.item)} if isinstance(row.item, Path) else row.item) for row in rows]
    return pa.table({"name": [row.name for row in rows], "item": items}, _ROWS)


def _row_count(out: Storage) -> int:
    with out.fs.open_input_file(out.path(ROWS_FILE)) as file:
        return int(pq.read_metadata(file).num_rows)


def _items(job: Job, part: int) -> Iterator[Row]:
    """Yield the rows of a part from the table of rows, counted from 0 again."""
    with job.out.fs.open_input_file(job.out.path(ROWS_FILE)) as file:
        table = pq.ParquetFile(file).read_row_group(part)
    for number, row in enumerate(table.to_pylist()):
        item = json.loads(row["item"])
        if job.wanted.modality == "image" and isinstance(item, dict):
            item = Path(item["path"])
        elif job.wanted.pair is not None and isinstance(item, list):
            item = tuple(item)
        yield Row(number, row["name"], item)


def schema_of(student: Student, asked: Asked, has_files: bool) -> pa.Schema:
    """Return the columns of predictions and their types, the same for a part whose inputs can't be used.

    - raises ConfigError: where more is asked for than the student has
    """
    import numpy as np

    from tgt_ray.inference.students import LoadedStudent

    columns: dict[str, Any] = {"row": pa.int64()} | ({"file": pa.string()} if has_files else {})
    number = pa.float32()
    if isinstance(student, LoadedStudent):
        none = np.zeros((0, len(student.classes)), np.float32)
        found = student.table(none, np.zeros((0, 1), np.float32) if asked.embedding else None, asked.top)
        columns |= {key: pa.string() if key.startswith("label") else number for key in found.columns}
        if asked.probabilities:
            columns |= {f"probability of {each}": number for each in student.classes}
    else:
        if asked.probabilities:
            raise ConfigError("--probabilities: a student of retrieval has none; --top says how many documents to name")
        student.nearest(np.zeros((0, student.document_embeddings.shape[1]), np.float32), asked.top)
        kinds = pa.Schema.from_pandas(student.documents[["id", "text"]], preserve_index=False)
        columns |= {"rank": pa.int64(), "id": kinds.field("id").type, "text": kinds.field("text").type}
        columns["score"] = number
    columns.pop("embedding", None)
    return pa.schema(columns | ({"embedding": pa.list_(number)} if asked.embedding else {}))


def predict_part(student: Student, job: Job, part: int) -> Done:
    """Predict a part and write its file, which is there as a whole or not at all."""
    import pandas as pd

    from tgt_ray.inference.prediction import tables

    rows = job.rows_of(part)
    if job.source is None:
        source = Source(_items(job, part), rows, has_files=job.wanted.modality == "image")
    else:
        source = part_of_parquet(job.source, job.wanted, part * job.size, rows)
    inputs = Collected(source, job.asked.strict, first=part * job.size)
    frames = list(tables(student, inputs, job.asked))
    done = Done(part, rows, inputs.named_bad, inputs.too_long)
    table = (
        pa.Table.from_pandas(pd.concat(frames, ignore_index=True), job.schema, preserve_index=False)
        if frames
        else job.schema.empty_table()
    )
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({ABOUT: str(done).encode()}), sink)
    job.out.write(sink.getvalue(), name(part))
    return done


def finished(job: Job) -> Iterator[Done]:
    """Yield what is known of the parts that are there; a damaged one is made again."""
    there = {Path(each).name for each in job.out.files()}
    for part in range(job.parts):
        if name(part) in there and job.out.holds(name(part)):
            with job.out.fs.open_input_file(job.out.path(name(part))) as file:
                about = (pq.read_schema(file).metadata or {}).get(ABOUT)
            if about is None:
                raise ConfigError(f"{job.out.where(name(part))}: was written by another program; give a new folder")
            yield Done.of(about)


def left(job: Job, done: list[Done]) -> list[int]:
    """Return the numbers of the parts that are still to be made."""
    return sorted(set(range(job.parts)) - {each.part for each in done})


def tidy(job: Job) -> None:
    """Remove the table of rows, which nobody needs once all parts are there."""
    if job.out.exists(ROWS_FILE):
        job.out.fs.delete_file(job.out.path(ROWS_FILE))
