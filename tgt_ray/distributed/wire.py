"""Packs a request's rows into one Arrow row, which travels from a generator to a worker, and unpacks them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import safetensors.numpy

from tgt_ray.core.batch import Block
from tgt_ray.core.signals.values import Columns, flat, unflat

#: One request, as one row.
#:
#: - error: why it wasn't made; null where it was
#: - request: null where there are no rows
#: - seconds: that the teacher took for them
#: - unkept: why they aren't in the bank that they are to be in; null where they are, or there is none
#: - payload: the arrays of its rows, as safetensors; null where there are no rows. It is a single buffer, since Arrow's
#:   tensor columns cost both sides milliseconds.
ROW = pa.schema(
    [
        ("job", pa.int64()),
        ("error", pa.string()),
        ("request", pa.int64()),
        ("version", pa.int64()),
        ("explorer", pa.string()),
        ("origin", pa.string()),
        ("steps", pa.int64()),
        ("seconds", pa.float64()),
        ("unkept", pa.string()),
        ("payload", pa.large_binary()),
    ]
)
#: What all rows of a request have in common.
SAME = ("request", "version", "explorer", "origin", "steps")
#: Prefixes of the names of arrays; they keep the arrays apart, since a signal may have any name.
ROWS, COLUMNS, SHOWN = "rows/", "columns/", "shown/"


def pack(job: int, block: Block, seconds: float = 0.0, unkept: str | None = None) -> pa.Table:
    """Return the row of a request of job number `job`.

    - seconds: that the teacher took for it
    - unkept: why it isn't in the bank that it is to be in; None: it is, or there is none
    """
    parts: dict[str, Columns] = {
        ROWS: {"inputs": block.inputs, "anchor": block.anchor},
        COLUMNS: block.columns,
        SHOWN: block.shown,
    }
    arrays = flat({f"{prefix}{name}": values for prefix, part in parts.items() for name, values in part.items()})
    same = {name: getattr(block, name) for name in SAME}
    return _row(job=job, **same, seconds=seconds, unkept=unkept, payload=safetensors.numpy.save(arrays))


def stub(job: int, error: str | None = None) -> pa.Table:
    """Return the row of a request that wasn't made: there was nothing to make, or `error` says what failed."""
    return _row(job=job, error=error)


def _row(**values: Any) -> pa.Table:
    return pa.table({name: [values.get(name)] for name in ROW.names}, schema=ROW)


def unpack(row: pa.Table) -> Block:
    """Return a request's rows from its row."""
    found = unflat(safetensors.numpy.load(row["payload"][0].as_py()))
    rows, columns, shown = (
        {name.removeprefix(prefix): values for name, values in found.items() if name.startswith(prefix)}
        for prefix in (ROWS, COLUMNS, SHOWN)
    )
    same = {name: row[name][0].as_py() for name in SAME}
    return Block(**rows, columns=columns, shown=shown, **same)  # type: ignore[arg-type]
