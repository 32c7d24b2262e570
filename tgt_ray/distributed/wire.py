"""A request's rows as one Arrow row: what travels from a generator to a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import safetensors.numpy

if TYPE_CHECKING:
    from tgt_ray.core.batch import Block

#: What travels from a generator to a worker: one request, as one row. error: why it wasn't made. payload: the arrays of its rows,
#: as safetensors; null where there are none. A single buffer, since Arrow's tensor columns cost both sides milliseconds.
ROW = pa.schema(
    [
        ("job", pa.int64()),
        ("error", pa.string()),
        ("request", pa.int64()),
        ("version", pa.int64()),
        ("explorer", pa.string()),
        ("payload", pa.large_binary()),
    ]
)


#: A block's arrays that are different from row to row; and those of them that it may have.
PACKED = ("inputs", "teacher_logits", "anchor", "reconstructed")
PACKED_WHERE_THERE = ("teacher_embedding", "anchor_inputs", "teacher_class", "teacher_p", "document")


def pack(job: int, block: Block) -> pa.Table:
    """One request as a row."""
    # Contiguous: safetensors writes memory as it lies, and convolutions leave channels last.
    names = (*PACKED, *(name for name in PACKED_WHERE_THERE if name in block))
    arrays = {name: np.ascontiguousarray(block[name]) for name in names}
    same = {name: block[name][0].item() for name in ("request", "version", "explorer")}
    return _row(job=job, **same, payload=safetensors.numpy.save(arrays))


def stub(job: int, error: str | None = None) -> pa.Table:
    """The row of a request that wasn't made: for an earlier job, or with the reason."""
    return _row(job=job, error=error)


def _row(**values: Any) -> pa.Table:
    return pa.table({name: [values.get(name)] for name in ROW.names}, schema=ROW)


def unpack(row: pa.Table) -> Block:
    """The request's rows, with the columns that are the same for all of them."""
    block: Block = safetensors.numpy.load(row["payload"][0].as_py())
    size = len(block["anchor"])
    return {**block, **{name: np.full(size, row[name][0].as_py()) for name in ("request", "version", "explorer")}}
