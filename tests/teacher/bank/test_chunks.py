"""Rows of requests come back from a file as they were, whatever their signals."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tgt_ray.core.batch import Block
from tgt_ray.core.signals.values import Ragged
from tgt_ray.teacher.bank.chunks import Chunk, joined, to_bytes


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


@pytest.mark.parametrize("divided", [True, False])
def test_joined_files_are_what_would_have_been_written_of_all_at_once(divided):
    blocks = [replace(block(number, rows), origin=f"run {number}", steps=7) for number, rows in ((4, 3), (0, 1))]
    if divided:
        blocks = [replace(each, inputs=each.inputs.astype(np.float32) / np.float32(255)) for each in blocks]
    files = [Chunk(pa.py_buffer(to_bytes([each]))) for each in blocks]
    assert joined(files) == to_bytes(blocks)
    pixels = 32 * (1 if divided or blocks[0].inputs.dtype == np.uint8 else 4)
    fixed = 3 * 8 + pixels + 5 * 4 + 8 + 4 * 2  # request, version and anchor; inputs; logits, top and of two ranks
    lists = sum(4 + 8 * int(length) for each in blocks for length in each.columns["ragged"].lengths)
    assert sum(each.nbytes for each in files) == 4 * fixed + lists


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
