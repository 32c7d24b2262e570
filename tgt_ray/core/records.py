"""Writes and reads run records: what was run, on what, with which result. Imports pandas only for tables.

The storage adds a checksum to what is written, and checks it.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tgt_ray.core import formats
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import Damaged

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def write_json(storage: Storage, data: Mapping[str, Any], *parts: str) -> None:
    storage.write((json.dumps(data, indent=2, default=str) + "\n").encode(), *parts)


def read_json(storage: Storage, *parts: str) -> dict[str, Any]:
    """Read a record. ConfigError where it is damaged."""
    return _mapping(storage.read(*parts), storage.where(*parts))


def find(storage: Storage, kind: str, *parts: str) -> dict[str, Any] | None:
    """Read a record of what can be made again.

    - returns: None where it must be: where there is none, or, with a line in the log, where it is damaged or has a
      format that this version can't use
    """
    content = storage.find(*parts)
    if content is None:
        return None
    where = storage.where(*parts)
    try:
        record = _mapping(content, where)
    except Damaged as err:
        log.warning("%s; made again", err.fact)
        return None
    if formats.readable(kind, record):
        return record
    log.info("%s: is stored with format %d, which this version can't use; made again", where, formats.number(record))
    return None


def _mapping(content: bytes, where: str) -> dict[str, Any]:
    record = json.loads(content)  # the storage has checked that it is JSON
    if not isinstance(record, dict):
        raise Damaged.of(where, "it is no record")
    return record


def write_jsonl(storage: Storage, rows: Iterable[Mapping[str, Any]], *parts: str) -> None:
    storage.write("".join(json.dumps(row, default=str) + "\n" for row in rows).encode(), *parts)


def read_jsonl(storage: Storage, *parts: str) -> list[dict[str, Any]]:
    """Read rows of JSON, one a line. ConfigError where a line is damaged."""
    where = storage.where(*parts)
    try:
        return [_mapping(line, where) for line in storage.read(*parts).splitlines() if line.strip()]
    except (json.JSONDecodeError, UnicodeError) as err:
        raise Damaged.of(where, "a line of it is not JSON") from err


def write_table(storage: Storage, table: pd.DataFrame, stem: str) -> None:
    """Write `stem`.csv and `stem`.parquet. A column of lists, or of values of several kinds, becomes JSON text."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = table.copy()
    for name in table.columns:
        kinds = {type(value) for value in table[name].dropna()}
        if not pd.api.types.is_numeric_dtype(table[name]) and kinds - {str}:
            table[name] = [None if _is_missing(value) else json.dumps(value) for value in table[name]]
    storage.write(table.to_csv(index=False).encode(), f"{stem}.csv")
    buffer = io.BytesIO()
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    pq.write_table(arrow.replace_schema_metadata({**arrow.schema.metadata, **formats.metadata("table")}), buffer)
    storage.write(buffer.getvalue(), f"{stem}.parquet")


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def read_table(storage: Storage, stem: str) -> pd.DataFrame:
    """Read what `write_table` has written. ConfigError for a table of a format that this version doesn't know."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # A buffer, not io.BytesIO: pyarrow reads that in a thread, and aborts where the process ends first.
    where = storage.where(f"{stem}.parquet")
    try:
        table = pq.read_table(pa.BufferReader(storage.read(f"{stem}.parquet")))
    except (pa.ArrowException, OSError, UnicodeError) as err:  # of a file without a checksum
        if isinstance(err, FileNotFoundError):
            raise
        raise Damaged.of(where, " ".join(str(err).split())) from err
    said = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    formats.check("table", said, where, "use the version that has written it")
    return plain_text(table.to_pandas())


def plain_text(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with None, not NaN, where a text is missing."""
    import pandas as pd

    out = table.copy()
    for name in out.columns:
        if not pd.api.types.is_numeric_dtype(out[name]):
            out[name] = out[name].astype(object).where(out[name].notna(), None)
    return out
