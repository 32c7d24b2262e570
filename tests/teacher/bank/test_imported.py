"""Rows that a user brings are kept whole or not at all, and come once in an epoch."""

from pathlib import Path

import numpy as np
import pytest

from tgt_ray.core import formats, records
from tgt_ray.core.errors import ConfigError, NotWritten
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import Damaged
from tgt_ray.teacher.bank import imported as subject
from tgt_ray.teacher.bank.imported import FOLDER, ImportedRows, find, keep

ROWS, FACTS = 50, {"input shape": [1, 2, 2], "classes": ["a", "b"]}


def rows(change: float = 0.0):
    """Parts of unequal size; a row's first pixel and first logit say its number."""
    number = np.arange(ROWS)
    inputs = np.zeros((ROWS, 1, 2, 2), np.float32)
    inputs[:, 0, 0, 0] = number.astype(np.float32) / np.float32(255)
    logits = np.stack([number + change, -number], axis=1).astype(np.float32)
    return lambda: iter([(inputs[:7], logits[:7]), (inputs[7:40], logits[7:40]), (inputs[40:], logits[40:])])


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "CHUNK_BYTES", 20 * 16)  # some files
    return Storage(tmp_path)


def test_each_row_comes_once_in_an_epoch_in_another_order(storage):
    record = keep(storage, "gpt", rows(), FACTS)
    assert record["rows"] == ROWS and [each["rows"] for each in record["files"]] == [40, 10]
    given = ImportedRows(storage, "gpt", 8, seed=3)
    blocks = [given.block(number) for number in range(25)]
    numbers = np.concatenate([each.columns["logits"][:, 0] for each in blocks])
    epochs = numbers[: 4 * ROWS].reshape(4, ROWS)
    assert (np.sort(epochs, axis=1) == np.arange(ROWS)).all()
    assert not (epochs[0] == np.arange(ROWS)).all(), "a file may be sorted by class"
    assert len({tuple(epoch) for epoch in epochs}) == 4
    inputs = np.concatenate([each.inputs for each in blocks])
    assert inputs.shape[1:] == (1, 2, 2) and inputs.dtype == np.float32
    np.testing.assert_array_equal(np.rint(inputs[:, 0, 0, 0] * 255), numbers)
    again = ImportedRows(storage, "gpt", 8, seed=3).block(9)
    np.testing.assert_array_equal(again.columns["logits"], blocks[9].columns["logits"])
    assert not np.array_equal(
        ImportedRows(storage, "gpt", 8, seed=4).block(0).columns["logits"], blocks[0].columns["logits"]
    )
    assert (blocks[0].version, blocks[0].explorer, blocks[3].request) == (-1, "imported", 3)
    assert (blocks[0].anchor == -1).all() and not blocks[0].shown


def test_blocks_may_be_larger_than_what_is_there(storage):
    keep(storage, "gpt", rows(), FACTS)
    block = ImportedRows(storage, "gpt", 3 * ROWS, seed=0).block(0)
    assert (np.bincount(block.columns["logits"][:, 0].astype(int)) == 3).all()


def test_the_same_rows_again_are_there_already_and_others_are_refused(storage):
    first = keep(storage, "gpt", rows(), FACTS)
    names = sorted(each.name for each in Path(storage.path(FOLDER, "gpt")).iterdir())
    assert keep(storage, "gpt", rows(), FACTS) == first
    for other, about in ((rows(1.0), FACTS), (rows(), {**FACTS, "classes": ["b", "a"]})):
        with pytest.raises(ConfigError, match=r"--teacher gpt: .*imported/gpt has other rows already"):
            keep(storage, "gpt", other, about)
    assert sorted(each.name for each in Path(storage.path(FOLDER, "gpt")).iterdir()) == names
    assert keep(storage, "other", rows(1.0), FACTS)["content"] != first["content"]


def test_what_fails_on_the_way_leaves_nothing(storage, monkeypatch):
    def broken():
        yield from list(rows()())[:2]
        raise ConfigError("row 41 is none")

    with pytest.raises(ConfigError, match="row 41"):
        keep(storage, "gpt", broken, FACTS)
    assert find(storage, "gpt") is None and not Path(storage.path(FOLDER, "gpt")).exists()
    monkeypatch.setattr(records, "write_json", lambda *args: (_ for _ in ()).throw(NotWritten("full")))
    with pytest.raises(NotWritten):
        keep(storage, "gpt", rows(), FACTS)
    assert not Path(storage.path(FOLDER, "gpt")).exists()


def test_a_damaged_file_is_said_and_stays(storage):
    record = keep(storage, "gpt", rows(), FACTS)
    file = Path(storage.path(FOLDER, "gpt", record["files"][0]["file"]))
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    with pytest.raises(Damaged, match="restore it from a copy"):
        ImportedRows(storage, "gpt", ROWS, 0).block(0)
    assert file.exists()
    file.unlink()
    with pytest.raises(ConfigError, match="is missing; import its rows again"):
        ImportedRows(storage, "gpt", ROWS, 0).block(0)


def test_rows_of_another_version_are_refused(storage, monkeypatch):
    keep(storage, "gpt", rows(), FACTS)
    monkeypatch.setitem(formats.FORMATS, "imported", 7)
    with pytest.raises(ConfigError, match=r"has format 1.*goes on with 7; import the rows under another name"):
        ImportedRows(storage, "gpt", 8, 0)


def test_names_that_are_not_there_are_said(storage):
    with pytest.raises(ConfigError, match=r"explorer\.teacher: no rows were imported under 'gpt' into .*--teacher gpt"):
        ImportedRows(storage, "gpt", 8, 0)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "x" * 101])
def test_a_name_is_one_of_a_folder(name):
    with pytest.raises(ConfigError, match=r"--teacher .*: use up to 100 letters"):
        subject.check_name(name)
