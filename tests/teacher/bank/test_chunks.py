"""Rows of requests come back from a file as they were, whatever their signals."""

import numpy as np
import pyarrow as pa
import pytest

from tgt_ray.core.batch import Block
from tgt_ray.core.signals.values import Ragged
from tgt_ray.teacher.bank.chunks import Chunk, to_bytes


def block(request: int, rows: int = 3, inputs: np.dtype = np.uint8) -> Block:
    rng = np.random.default_rng(request)
    lengths = rng.integers(0, 4, rows)
    return Block(
        inputs=rng.integers(0, 255, (rows, 2, 4, 4)).astype(inputs),
        anchor=rng.integers(0, 99, rows),
        columns={
            "logits": rng.normal(size=(rows, 5)).astype(np.float32),
            "top": rng.integers(0, 5, rows),
            "of two ranks": rng.normal(size=(rows, 2, 2)).astype(np.float16),
            "ragged": Ragged(rng.normal(size=(lengths.sum(), 2)).astype(np.float32), lengths.astype(np.int32)),
        },
        shown={},
        request=request,
        version=7 * request,
        explorer="gradient",
    )


def same(one, other) -> bool:
    if isinstance(one, Ragged):
        return same(one.values, other.values) and same(one.lengths, other.lengths)
    return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())


def check(found: Block, made: Block) -> None:
    assert (found.request, found.version, found.explorer) == (made.request, made.version, made.explorer)
    assert same(found.inputs, made.inputs) and same(found.anchor, made.anchor)
    assert list(found.columns) == list(made.columns)
    assert all(same(found.columns[name], made.columns[name]) for name in made.columns)


@pytest.mark.parametrize("inputs", [np.uint8, np.float32])
def test_requests_come_back_as_they_were(inputs):
    blocks = [block(number, rows, inputs) for number, rows in ((4, 3), (0, 1), (17, 5))]
    chunk = Chunk(pa.py_buffer(to_bytes(blocks)))
    assert sorted(chunk.requests) == [0, 4, 17] and len(chunk) == 9
    for each in blocks:
        check(chunk.block(each.request), each)


def test_a_chunk_shares_the_memory_of_its_file(tmp_path):
    (tmp_path / "c.arrow").write_bytes(to_bytes([block(1, 300)]))
    before = pa.total_allocated_bytes()
    chunk = Chunk(pa.memory_map(str(tmp_path / "c.arrow")))
    assert not chunk.block(1).inputs.flags.owndata and not chunk.block(1).inputs.flags.writeable
    assert pa.total_allocated_bytes() - before < 10_000


def test_rows_without_numbers_come_back(tmp_path):
    empty = block(1)
    empty.columns["nothing"] = np.empty((3, 0), np.float32)
    empty.columns["ragged"] = Ragged(np.empty((0, 2), np.float32), np.zeros(3, np.int64))
    check(Chunk(pa.py_buffer(to_bytes([empty]))).block(1), empty)
