"""Synthetic rows as the student reads them."""

import dataclasses
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


def numbered_blocks(rows: int, version: int = -1, first: int = 0):
    for request in itertools.count(first):
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


@given(st.integers(2, 9), st.integers(1, 30), st.integers(1, 30), st.booleans())
def test_a_reader_goes_on_where_it_was_left(rows, before, after, on_policy):
    """Rows that were made with a look at the student come again from the state, others from their generator."""

    def blocks(first):
        return numbered_blocks(rows, 0 if on_policy else -1, first)

    reader = SyntheticReader(blocks(0))
    reader.take(before, 3)
    state = {**reader.state(), "rest": reader.unused()}
    assert (state["rest"] is not None) == (on_policy and before % rows > 0)
    reader.start_wait_s = reader.wait_s = 0.0
    again = SyntheticReader.going_on(blocks, divmod(before, rows), state)
    for step in (4, 5):
        (inputs, columns), (expected, others) = again.take(after, step), reader.take(after, step)
        assert torch.equal(inputs, expected) and torch.equal(columns["logits"], others["logits"])
        assert torch.equal(columns["lists"].values, others["lists"].values)
        assert torch.equal(columns["lists"].lengths, others["lists"].lengths)
    assert again.lag() == reader.lag()


@pytest.mark.parametrize("version", [0, -1])
def test_the_gallery_sees_each_request_once_also_where_a_stop_divides_it(version):
    def blocks(first):
        for block in numbered_blocks(4, 0, first):
            shown = {"reconstructed": block.inputs, "top_class": block.anchor % 3, "top_share": block.inputs[:, 0]}
            yield dataclasses.replace(block, shown=shown, version=version)

    whole, cut = SyntheticReader(blocks(0)), SyntheticReader(blocks(0))
    whole.take(6, 1)
    cut.take(6, 1)
    cut = SyntheticReader.going_on(blocks, (1, 2), {**cut.state(), "rest": cut.unused()})
    whole.take(5, 2)
    cut.take(5, 2)
    assert [(s.anchor, s.step) for s in cut.gallery.samples] == [(s.anchor, s.step) for s in whole.gallery.samples]
    assert {s.step for s in cut.gallery.samples} == {1, 2}


def test_waiting_is_that_of_all_sessions(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("tgt_ray.training.reader.time.perf_counter", lambda: float(next(clock)))
    first = SyntheticReader(numbered_blocks(2))
    first.take(6, 0)
    reader = SyntheticReader.going_on(lambda first: numbered_blocks(2, first=first), (3, 0), first.state())
    reader.take(4, 1)
    assert (reader.start_wait_s, reader.wait_s) == (1.0, 3.0)
    assert reader.wait_share(train_s=12.0) == 3 / 10


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
