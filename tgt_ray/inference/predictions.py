"""Writes predictions as they come: Parquet, CSV or JSON lines."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from tgt_ray.core.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

#: Endings of what can be written.
ENDINGS = (".parquet", ".csv", ".jsonl")


class Writer(Protocol):
    """Takes tables with the same columns, one after the other."""

    def write(self, table: pd.DataFrame) -> None: ...


class Csv:
    def __init__(self, opened: IO[str]):
        self.writer, self.begun = csv.writer(opened, lineterminator="\n"), False

    def write(self, table: pd.DataFrame) -> None:
        if not self.begun:
            self.writer.writerow(table.columns)
            self.begun = True
        self.writer.writerows([[_written(value) for value in row] for row in table.itertuples(index=False)])


class JsonLines:
    def __init__(self, opened: IO[str]):
        self.opened = opened

    def write(self, table: pd.DataFrame) -> None:
        for row in table.to_dict("records"):
            self.opened.write(json.dumps(row, default=_written, ensure_ascii=False) + "\n")


class Parquet:
    def __init__(self, path: Path):
        self.path = path
        self.writer: Any = None

    def write(self, table: pd.DataFrame) -> None:
        rows = pa.Table.from_pandas(table, preserve_index=False)
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.path, rows.schema)
        self.writer.write_table(rows)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _written(value: Any) -> Any:
    """Return a value as text files have it: arrays as lists, numbers of NumPy as those of Python."""
    return value.tolist() if hasattr(value, "tolist") else value


def check_target(given: str | None) -> Path | None:
    """Return the file that predictions are written to, None for standard output; ConfigError where they can't be."""
    if given is None:
        return None
    out = Path(given)
    if out.suffix.lower() not in ENDINGS:
        raise ConfigError(f"--out {out}: ends with '{out.suffix}'; expected {', '.join(ENDINGS)}")
    check_file(out)
    return out


def check_file(out: Path) -> None:
    """Raise ConfigError where a file can't be written: its folder must be there, so that a slip of the pen is seen."""
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder; give a file")
    check_parent(out)


def check_parent(out: Path) -> None:
    """Raise ConfigError where the folder that a file or folder is to be made in isn't there."""
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}; make it first")


def check_folder(out: str | None) -> str:
    """Return the folder of numbered files; ConfigError where it can't be one."""
    if out is None:
        raise ConfigError("--ray: writes numbered files; give a folder for them by --out")
    if Path(out).suffix.lower() in ENDINGS:
        raise ConfigError(f"--out {out}: with --ray it is a folder of numbered files; give a name without an ending")
    if Path(out).is_file():
        raise ConfigError(f"--out {out}: is a file; with --ray it is a folder of numbered files")
    if "://" not in out:
        check_parent(Path(out))
    return out


@contextmanager
def written(out: Path | None) -> Iterator[Writer]:
    """Give what writes predictions to a file, which is there when all are written; None: to standard output, as CSV."""
    if out is None:
        yield Csv(sys.stdout)
        return
    draft = out.with_name(f".{out.name}.{os.getpid()}.draft")
    try:
        if out.suffix.lower() == ".parquet":
            table = Parquet(draft)
            yield table
            table.close()
        else:
            with draft.open("w", encoding="utf-8", newline="") as opened:
                yield Csv(opened) if out.suffix.lower() == ".csv" else JsonLines(opened)
        if draft.exists():
            draft.replace(out)
    except OSError as err:
        raise ConfigError(f"--out {out}: cannot be written ({err.strerror})") from err
    finally:
        draft.unlink(missing_ok=True)
