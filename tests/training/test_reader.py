"""Synthetic rows as the student reads them."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tgt_ray.core.batch import Block
from tgt_ray.core.signals.values import Ragged
from tgt_ray.training.reader import SyntheticReader


def numbered_blocks(rows: int, version: int = -1):
    for request in itertools.count():
        place = np.arange(request * rows, (request + 1) * rows)
        values = place[:, None].astype(np.float32)
        lists = Ragged(np.repeat(place, place % 3), place % 3)
        columns = {"logits": values + 0.5, "lists": lists}
        nothing = {name: np.empty((0, 1)) for name in ("reconstructed", "top_class", "top_share")}
        yield Block(values, place, columns, nothing, request, version, "random")


@given(st.integers(1, 9), st.integers(0, 8), st.lists(st.integers(1, 25), min_size=1, max_size=12))
def test_each_row_is_served_once_and_in_order(rows, skip, counts):
    skip %= rows
    reader = SyntheticReader(numbered_blocks(rows), skip_rows=skip)
    taken = [reader.take(count, step) for step, count in enumerate(counts)]
    assert [len(inputs) for inputs, _ in taken] == counts
    served = torch.cat([inputs for inputs, _ in taken])[:, 0]
    np.testing.assert_array_equal(served, np.arange(skip, skip + sum(counts)))
    np.testing.assert_array_equal(torch.cat([columns["logits"] for _, columns in taken])[:, 0], served + 0.5)
    lists = [row.tolist() for _, columns in taken for row in columns["lists"].lists()]
    assert lists == [[int(number)] * (int(number) % 3) for number in served]
    assert reader.num_blocks == math.ceil((skip + sum(counts)) / rows), "no block is asked for before it is needed"


def test_lag_is_the_steps_since_the_snapshot_and_absent_without_one():
    reader = SyntheticReader(numbered_blocks(4, version=10))
    reader.take(4, 10)
    reader.take(4, 30)
    assert reader.lag() == {"lag_p50": 10.0, "lag_p99": pytest.approx(20.0), "lag_max": 20.0}
    unseeing = SyntheticReader(numbered_blocks(4))
    unseeing.take(4, 3)
    assert unseeing.lag() == {}


def test_waiting_for_the_first_block_is_not_waiting_in_training(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("tgt_ray.training.reader.time.perf_counter", lambda: float(next(clock)))
    reader = SyntheticReader(numbered_blocks(2))
    reader.take(6, 0)
    assert (reader.start_wait_s, reader.wait_s) == (1.0, 2.0)
