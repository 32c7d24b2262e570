"""Tables in files of the storage behave as the same table in memory."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgt_ray.core.storage import Storage
from tgt_ray.data.stored import StoredTable, write_file

SIZES = (3, 1, 5)


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> tuple[StoredTable, pa.Table]:
    """The same rows in three files and in memory."""
    folder = Storage(tmp_path_factory.mktemp("stored"))
    rng, whole, start = np.random.default_rng(0), [], 0
    for number, size in enumerate(SIZES):
        image = pa.array([rng.bytes(4) for _ in range(size)], pa.binary(4))
        part = pa.table({"id": np.arange(start, start + size), "image": image, "label": rng.integers(0, 3, size)})
        write_file(part, folder, f"train-{number}.arrow")
        whole.append(part)
        start += size
    return StoredTable(folder, tuple(f"train-{n}.arrow" for n in range(len(SIZES)))), pa.concat_tables(whole)


def test_all_rows_and_columns(tables):
    stored, memory = tables
    assert len(stored) == stored.num_rows == len(memory)
    assert stored.to_arrow().equals(memory)
    assert stored["label"].to_pylist() == memory["label"].to_pylist()


@given(st.lists(st.integers(0, sum(SIZES) - 1), max_size=20), st.integers(0, 12), st.integers(0, 12))
@settings(deadline=None)
def test_any_rows_in_any_order(tables, rows, offset, length):
    stored, memory = tables
    rows = np.array(rows, np.int64)
    taken = stored.take(rows)
    assert len(taken) == len(rows)
    assert taken.to_arrow().equals(memory.take(pa.array(rows)).combine_chunks())
    assert taken["id"].to_pylist() == rows.tolist()
    assert taken.slice(offset, length)["id"].to_pylist() == rows[offset : offset + length].tolist()


def test_columns_in_memory_go_along_with_their_rows(tables):
    stored, _ = tables
    logits = pa.array(np.arange(len(stored), dtype=np.float32))
    more = stored.append_column("logits", pa.chunked_array([logits]))
    rows = np.array([7, 0, 3])
    assert more.take(rows)["logits"].to_pylist() == [7, 0, 3]
    assert more.take(rows).to_arrow()["logits"].to_pylist() == more.take(rows)["id"].to_pylist()
    with pytest.raises(ValueError, match="'logits' has 2 values for 9 rows"):
        stored.append_column("logits", logits[:2])


def test_it_travels_as_its_address(tables):
    stored, memory = tables
    content = pickle.dumps(stored.take(np.array([4, 2])))
    assert len(content) < 1000
    again = pickle.loads(content)  # noqa: S301
    assert again.to_arrow().equals(memory.take([4, 2]).combine_chunks())
