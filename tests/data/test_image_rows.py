"""Rows of images as Arrow tables."""

import numpy as np
import pyarrow as pa
import pytest

from tests.helpers.images import random_rows, same
from tgt_ray.data import ImageRows
from tgt_ray.tasks import ImageClassification


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 5)])
def test_rows_survive_an_arrow_table(shape):
    rows = random_rows(11, shape)
    table = rows.to_table()
    assert same(ImageRows.from_table(table, shape), rows)
    assert same(ImageRows.from_table(table.slice(3, 4), shape), rows.take(np.arange(3, 7)))
    chunked = pa.concat_tables([table.slice(2, 3), table.slice(7, 2)])
    assert same(ImageRows.from_table(chunked, shape), rows.take(np.array([2, 3, 4, 7, 8])))


def test_rows_of_a_strided_view_survive_an_arrow_table():
    rows = random_rows(10)
    every_other = ImageRows(rows.ids[::2], rows.images[::2, :, ::-1], rows.labels[::2])
    assert same(ImageRows.from_table(every_other.to_table(), (1, 8, 8)), every_other)


def test_a_fingerprint_sees_every_part_of_the_rows():
    rows = random_rows(6)
    changed = rows.images.copy()
    changed[3, 0, 2, 2] ^= 1
    others = [
        ImageRows(rows.ids, changed, rows.labels),
        ImageRows(rows.ids + 1, rows.images, rows.labels),
        ImageRows(rows.ids, rows.images, rows.labels[::-1]),
        ImageRows(rows.ids, rows.images.reshape(6, 1, 4, 16), rows.labels),
    ]
    assert len({r.fingerprint() for r in [rows, *others]}) == 5
    assert rows.fingerprint() == rows.take(np.arange(6)).fingerprint()


def test_inputs_are_floats_between_zero_and_one():
    rows = random_rows(5)
    inputs = ImageClassification().inputs(rows.to_table(), (1, 8, 8))
    np.testing.assert_allclose(inputs.numpy(), rows.images / np.float32(255), rtol=1e-6)
    inputs += 1  # writable, and not the table's memory
    assert inputs.min() >= 1
