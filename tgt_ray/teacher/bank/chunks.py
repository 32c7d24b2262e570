"""Writes synthetic rows as Arrow files and reads them from there, mapped into memory, without copying them.

A file has one line a row: its request, anchor, version and explorer, its inputs and its signals. So a file may hold
one request or many.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from tgt_ray.core import formats
from tgt_ray.core.batch import Block
from tgt_ray.core.signals.values import LENGTHS, Columns, Ragged, Values, concat_columns, take

#: Names of a row's own columns; those of signals have a prefix, since a signal may have any name.
REQUEST, VERSION, ANCHOR, INPUTS = "request", "version", "anchor", "inputs"
SIGNAL = "signal/"
#: Keys of the metadata: the explorer of a file, the origin and steps of requests, and the seconds that the teacher took
#: for all its rows; type and shape of a column's values.
EXPLORER, ORIGINS, SECONDS, DTYPE, SHAPE = "explorer", "origins", "seconds", "dtype", "shape"
#: The key that says by what the 8-bit numbers of a column are divided, and that number.
DIVIDED, PIXELS = "divided by", 255


def to_bytes(blocks: Sequence[Block]) -> bytes:
    """Return the content of a file with the rows of some requests, which have the same columns."""
    arrays, divided = _arrays(blocks)
    took = sum(each.seconds or 0.0 for each in blocks)
    origins = {str(each.request): (each.origin, each.steps) for each in blocks if each.origin}
    return _content(arrays, divided, blocks[0].explorer, origins, took)


def joined(files: Sequence[Chunk]) -> bytes:
    """Return the content of a file with all rows of some files, which have the same columns, as they are stored."""
    arrays = concat_columns([each.arrays for each in files])
    origins = {request: origin for each in files for request, origin in each.origins.items()}
    took = sum(each.row_s * len(each) for each in files)
    return _content(arrays, files[0].divided, files[0].explorer, origins, took)


def _arrays(blocks: Sequence[Block]) -> tuple[Columns, bool]:
    """Return the columns of rows, and whether their inputs are 8-bit numbers of images."""
    inputs = np.concatenate([each.inputs for each in blocks])
    pixels = _pixels(inputs)
    arrays: Columns = {
        REQUEST: np.concatenate([np.full(len(each), each.request, np.int64) for each in blocks]),
        VERSION: np.concatenate([np.full(len(each), each.version, np.int64) for each in blocks]),
        ANCHOR: np.concatenate([each.anchor for each in blocks]),
        INPUTS: inputs if pixels is None else pixels,
    }
    arrays |= {f"{SIGNAL}{name}": values for name, values in concat_columns([each.columns for each in blocks]).items()}
    return arrays, pixels is not None


def _content(
    arrays: Columns, divided: bool, explorer: str, origins: Mapping[str, tuple[str, int]], seconds: float
) -> bytes:
    columns = {name: _column(values) for name, values in arrays.items()}
    layouts = {name: _layout(values) for name, values in arrays.items()}
    if divided:
        layouts[INPUTS][DIVIDED] = str(PIXELS)
    fields = [pa.field(name, column.type, metadata=layouts[name]) for name, column in columns.items()]
    own = {EXPLORER: explorer, ORIGINS: json.dumps(origins), SECONDS: f"{seconds:.6g}"}
    about = {**formats.metadata("bank"), **own}
    schema = pa.schema(fields, metadata=about)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(list(columns.values()), schema=schema))
    return sink.getvalue().to_pybytes()


class OtherFormat(ValueError):
    """A file has another format than this version reads; the message is its number."""


class Chunk:
    """The rows of one file.

    - requests: the requests that it holds, each with the slice of its rows
    - row_s: seconds that the teacher took for a row, mean of the file
    - raises OtherFormat: where another version has written it, in a format that this one doesn't know
    """

    def __init__(self, content: pa.Buffer | pa.MemoryMappedFile):
        batch = pa.ipc.open_file(content).get_batch(0)
        about = _metadata(batch.schema)
        if not formats.readable("bank", about):
            raise OtherFormat(str(formats.number(about)))
        self.explorer, self.origins = about[EXPLORER], json.loads(about[ORIGINS])
        self.row_s = float(about.get(SECONDS, 0.0)) / max(1, batch.num_rows)
        self.divided = DIVIDED in _metadata(batch.schema.field(INPUTS))
        self.arrays = {field.name: _values(batch.column(field.name), field) for field in batch.schema}
        numbers, firsts, counts = np.unique(_array(self.arrays, REQUEST), return_index=True, return_counts=True)
        self.requests = {
            number: slice(first, first + count)
            for number, first, count in zip(numbers.tolist(), firsts.tolist(), counts.tolist(), strict=True)
        }

    def __len__(self) -> int:
        return len(self.arrays[REQUEST])

    @property
    def nbytes(self) -> int:
        """The bytes of its rows as they are stored."""
        return sum(_nbytes(values) for values in self.arrays.values())

    def block(self, request: int) -> Block:
        """Return the rows of a request, as they were made, without what is shown of it."""
        found = take(self.arrays, self.requests[request])
        origin, steps = self.origins.get(str(request), ("", 0))
        return Block(
            inputs=self.inputs(self.requests[request]),
            anchor=_array(found, ANCHOR),
            columns=signals(found),
            shown={},
            request=request,
            version=int(_array(found, VERSION)[0]),
            explorer=self.explorer,
            origin=origin,
            steps=steps,
            seconds=self.row_s * len(_array(found, ANCHOR)),
        )

    def rows(self, places: np.ndarray) -> Columns:
        """Return some rows: their inputs, anchors and signals, these under prefixed names."""
        arrays = {name: values for name, values in self.arrays.items() if name not in (REQUEST, VERSION, INPUTS)}
        return {**take(arrays, places), INPUTS: self.inputs(places)}

    def inputs(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return the inputs of some rows; images become float again, with exactly the values that they had."""
        found = _array(self.arrays, INPUTS)[rows]
        return found.astype(np.float32) / np.float32(PIXELS) if self.divided else found


def _pixels(inputs: np.ndarray) -> np.ndarray | None:
    """Return images as 8-bit numbers where these hold them exactly; None for other inputs."""
    if inputs.dtype != np.float32 or inputs.ndim < 3:
        return None
    pixels = np.clip(np.rint(inputs * np.float32(PIXELS)), 0, PIXELS).astype(np.uint8)
    return pixels if np.array_equal(pixels.astype(np.float32) / np.float32(PIXELS), inputs) else None


def signals(columns: Columns) -> Columns:
    """Return the signals' columns under their own names."""
    return {name.removeprefix(SIGNAL): values for name, values in columns.items() if name.startswith(SIGNAL)}


def _nbytes(values: Values) -> int:
    parts = (values.values, values.lengths) if isinstance(values, Ragged) else (values,)
    return sum(part.nbytes for part in parts)


def _array(columns: Columns, name: str) -> np.ndarray:
    values = columns[name]
    assert isinstance(values, np.ndarray)
    return values


def _column(values: Values) -> pa.Array:
    """Return values as fixed-size bytes, one item a row; ragged ones as lists of them."""
    if isinstance(values, Ragged):
        ends = np.concatenate([[0], np.cumsum(values.lengths)]).astype(np.int64)
        return pa.LargeListArray.from_arrays(pa.array(ends), _items(values.values))
    return _items(values)


def _items(array: np.ndarray) -> pa.Array:
    flat = np.ascontiguousarray(array)
    width = flat.itemsize * math.prod(flat.shape[1:])
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(flat), [None, pa.py_buffer(flat)])


def _layout(values: Values) -> dict[str, str]:
    """Return what the metadata of a column says of its items."""
    array = values.values if isinstance(values, Ragged) else values
    lengths = {LENGTHS: values.lengths.dtype.str} if isinstance(values, Ragged) else {}
    return {DTYPE: array.dtype.str, SHAPE: json.dumps(array.shape[1:]), **lengths}


def _values(column: pa.Array, field: pa.Field) -> Values:
    about = _metadata(field)
    if pa.types.is_large_list(column.type):
        lengths = column.value_lengths().to_numpy().astype(about[LENGTHS])
        return Ragged(_mapped(column.flatten(), about), lengths)
    return _mapped(column, about)


def _mapped(items: pa.Array, about: dict[str, str]) -> np.ndarray:
    """Return items as an array that shares their memory."""
    dtype, shape = np.dtype(about[DTYPE]), tuple(json.loads(about[SHAPE]))
    width = dtype.itemsize * math.prod(shape)
    buffer = items.buffers()[1]
    if not len(items) or not width:
        return np.empty((len(items), *shape), dtype)
    return np.frombuffer(buffer, np.uint8)[items.offset * width :][: len(items) * width].view(dtype).reshape(-1, *shape)


def _metadata(of: pa.Schema | pa.Field) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (of.metadata or {}).items()}
