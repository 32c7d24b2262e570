"""Blocks as they travel."""

import numpy as np
import pytest

from tgt_ray.core.batch import Block
from tgt_ray.core.signals.values import Ragged
from tgt_ray.distributed.wire import pack, unpack


@pytest.mark.ray
@pytest.mark.parametrize("layout", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_a_request_survives_packing(layout):
    """Also where the channels lie last in memory, as convolutions leave them."""
    images = np.random.rand(5, 3, 8, 4).astype(np.float32)
    maps = np.ascontiguousarray(images.transpose(layout)).transpose(np.argsort(layout))
    columns = {
        "logits": np.random.rand(5, 10).astype(np.float32),
        "maps": maps,
        "inputs": np.arange(5),  # a signal may have any name
        "lists": Ragged(np.random.rand(9, 2).astype(np.float32), np.array([0, 4, 2, 0, 3])),
    }
    shown = {"reconstructed": np.random.rand(2, 3, 8, 4).astype(np.float32), "top_class": np.array([3, 1])}
    block = Block(maps, np.arange(5), columns, shown, 7, -1, "random")
    row = pack(2, block, 0.25, "the disk is full")
    assert row.num_rows == 1 and (row["seconds"].to_pylist(), row["unkept"].to_pylist()) == (
        [0.25],
        ["the disk is full"],
    )
    assert row["job"].to_pylist() == [2]
    again = unpack(row)
    assert (again.request, again.version, again.explorer) == (7, -1, "random")
    for part in ("columns", "shown"):
        before, after = getattr(block, part), getattr(again, part)
        assert before.keys() == after.keys()
        for name in before.keys() - {"lists"}:
            np.testing.assert_array_equal(after[name], before[name])
    for before, after in zip(columns["lists"].lists(), again.columns["lists"].lists(), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(again.inputs, maps)
    np.testing.assert_array_equal(again.anchor, np.arange(5))
