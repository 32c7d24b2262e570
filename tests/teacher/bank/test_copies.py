"""Chunks of a storage at a URI are fetched once a machine, and mapped."""

import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest

from tests.helpers.storages import remote
from tgt_ray.core.storage import Storage
from tgt_ray.teacher.bank import copies
from tgt_ray.teacher.bank.bank import Bank

from .test_chunks import block, check


@pytest.fixture
def storage(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return remote(monkeypatch, tmp_path / "storage")


def chunk(storage: Storage, key: str, number: int = 0, rows: int = 300) -> Bank:
    bank = Bank(storage, key)
    bank.put(block(number, rows))
    bank.join()
    return bank


def kept() -> list[Path]:
    return sorted(copies.home().rglob("*.arrow"))


@pytest.fixture
def fetched(monkeypatch):
    """The names of the files that were read from the storage."""
    names, read = [], Storage.read

    def noted(self, *parts):
        names.append(parts[-1])
        return read(self, *parts)

    monkeypatch.setattr(Storage, "read", noted)
    return names


def test_a_chunk_is_fetched_once_and_mapped(storage, fetched):
    chunk(storage, "0123456789abcdef")
    before = pa.total_allocated_bytes()
    for _ in range(2):  # as two processes
        bank = Bank(storage, "0123456789abcdef")
        bank.look()
        found = bank.read(0)
        check(found, block(0, 300))
        assert not found.inputs.flags.owndata
    assert len([name for name in fetched if name.startswith("chunk-")]) == 1 and len(kept()) == 1
    assert pa.total_allocated_bytes() - before < 10_000


def test_a_damaged_copy_is_fetched_again_and_a_damaged_chunk_is_none(storage, fetched):
    bank = chunk(storage, "0123456789abcdef")
    bank.look()
    (copy,) = kept()
    copy.write_bytes(copy.read_bytes()[:-70])
    again = Bank(storage, "0123456789abcdef")
    again.look()
    check(again.read(0), block(0, 300))
    assert again.damaged == 0 and len([name for name in fetched if name.startswith("chunk-")]) == 2
    copy.unlink()
    (stored,) = Path(bank.folder.base).glob("chunk-*")
    stored.write_bytes(stored.read_bytes()[:-70])
    again = Bank(storage, "0123456789abcdef")
    again.look()
    assert again.read(0) is None and again.damaged == 1 and not kept() and not stored.exists()


def test_copies_that_were_used_longest_ago_make_room(storage, monkeypatch):
    for number, key in enumerate(("a", "b", "c")):
        chunk(storage, key).look()
        (new,) = [each for each in kept() if each.parent.name == key]
        os.utime(new, (time.time() - 100 + number,) * 2)
    size = kept()[0].stat().st_size
    os.utime(next(each for each in kept() if each.parent.name == "a"))
    monkeypatch.setattr(copies, "MOST_BYTES", 3 * size + 10)
    bank = chunk(storage, "d")
    bank.look()
    assert sorted(each.parent.name for each in kept()) == ["a", "c", "d"]


def test_without_room_chunks_are_read_into_memory(storage, monkeypatch, caplog):
    chunk(storage, "a")
    chunk(storage, "b")
    monkeypatch.setattr(copies.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 990, 10))
    for key in ("a", "b"):
        bank = Bank(storage, key)
        bank.look()
        check(bank.read(0), block(0, 300))
    assert kept() == [] and len(caplog.messages) == 1
    assert "chunks of synthetic rows are read into memory" in caplog.text
