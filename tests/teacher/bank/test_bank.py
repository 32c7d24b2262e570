"""What one run has made is there for others: whole, checked, and only once."""

import logging
import os
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tgt_ray.core.storage import Storage
from tgt_ray.teacher.bank import bank as subject
from tgt_ray.teacher.bank.bank import Bank
from tgt_ray.teacher.bank.epochs import places

from .test_chunks import block, check, same


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path)


def names(storage: Storage, start: str) -> list[str]:
    return sorted(each.name for each in Path(storage.path("bank", "k")).iterdir() if each.name.startswith(start))


def test_a_request_is_there_for_others_at_once(storage):
    mine, other = Bank(storage, "k"), Bank(storage, "k")
    assert 3 not in other and other.read(3) is None
    mine.put(block(3))
    assert 3 not in other
    other.look()
    assert other.requests == {3}
    check(other.read(3), block(3))
    assert Bank(storage, "another key").requests == set()


def test_what_is_shown_of_a_request_comes_back_with_it(storage):
    made = block(0)
    made.shown["reconstructed"] = np.ones((2, 2, 4, 4), np.float32)
    bank = Bank(storage, "k")
    bank.put(made)
    bank.put(block(1))
    bank.join()
    assert same(bank.read(0).shown["reconstructed"], made.shown["reconstructed"]) and bank.read(1).shown == {}


def test_joined_files_hold_what_single_ones_held(storage, monkeypatch):
    writer, reader = Bank(storage, "k"), Bank(storage, "k")
    for number in range(7):
        writer.put(block(number))
    reader.look()
    check(reader.read(2), block(2))
    writer.join()
    assert names(storage, "request-") == [] and len(names(storage, "chunk-")) == 1 and names(storage, "joining") == []
    for number in range(7):
        check(writer.read(number), block(number))
        check(reader.read(number), block(number))  # which knew the single files
    monkeypatch.setattr(subject, "CHUNK_BYTES", 2 * block(0).inputs.nbytes)
    for number in range(7, 12):
        writer.put(block(number))
    writer.join()
    reader.look()
    assert reader.requests == set(range(12)) and names(storage, "request-") == []
    check(reader.read(11), block(11))


def test_a_writer_joins_its_files_once_they_are_a_chunk(storage, monkeypatch):
    monkeypatch.setattr(subject, "CHUNK_BYTES", 3000)
    bank = Bank(storage, "k")
    for number in range(9):
        bank.put(block(number))
    assert names(storage, "chunk-") and len(names(storage, "request-")) < 3
    assert bank.requests == set(range(9))


def test_chunks_of_images_are_as_large_as_they_are_to_be(storage, monkeypatch):
    """Images are floats when they are read, and four times smaller in a file."""
    monkeypatch.setattr(subject, "CHUNK_BYTES", 10**9)
    bank = Bank(storage, "k")
    for number in range(30):
        made = block(number, 200)
        bank.put(replace(made, inputs=made.inputs.astype(np.float32) / np.float32(255)))
    monkeypatch.setattr(subject, "CHUNK_BYTES", 300_000)
    bank.join()
    *full, last = (Path(storage.path("bank", "k", each)).stat().st_size for each in names(storage, "chunk-"))
    assert full and all(300_000 <= size < 350_000 for size in full) and last < 350_000
    later = Bank(storage, "k")
    later.look()
    assert same(later.read(29).inputs, block(29, 200).inputs.astype(np.float32) / np.float32(255))


def test_images_of_8_bits_and_others_are_not_joined(storage):
    bank = Bank(storage, "k")
    for number, scale in enumerate((255, 255, 254)):
        made = block(number)
        bank.put(replace(made, inputs=made.inputs.astype(np.float32) / np.float32(scale)))
    bank.join()
    assert len(names(storage, "chunk-")) == 2
    for number, scale in enumerate((255, 255, 254)):
        assert same(bank.read(number).inputs, block(number).inputs.astype(np.float32) / np.float32(scale))


def test_only_one_joins_at_a_time_and_a_claim_of_the_dead_is_void(storage):
    bank = Bank(storage, "k")
    bank.put(block(1))
    claim = Path(storage.path("bank", "k", "joining"))
    claim.touch()
    bank.join()
    assert names(storage, "request-")  # someone else does it
    os.utime(claim, (time.time() - 601,) * 2)
    bank.join()
    assert not names(storage, "request-") and not names(storage, "joining")


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_a_damaged_file_is_as_if_it_were_not_there_and_counted(storage, harm, joined, caplog):
    caplog.set_level(logging.WARNING)
    writer = Bank(storage, "k")
    for number in (0, 1):
        writer.put(block(number))
    if joined:
        writer.join()
    name = names(storage, "chunk-" if joined else "request-")[0]
    path = Path(storage.path("bank", "k", name))
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes(content if harm == "flip" else content[: len(content) // 2] if harm == "cut" else b"")
    reader = Bank(storage, "k")
    reader.look()
    assert reader.read(0) is None and reader.damaged == 1 and not path.exists()
    assert (reader.read(1) is None) == joined
    assert len(caplog.messages) == 1 and f"{name}: is damaged" in caplog.text
    reader.put(block(0))  # made again
    check(reader.read(0), block(0))


def test_two_who_make_the_same_request_leave_it_there_once(storage):
    one, two = Bank(storage, "k"), Bank(storage, "k")
    one.put(block(5))
    two.put(block(5))
    assert len(names(storage, "request-")) == 1
    one.join()
    check(two.read(5), block(5))


def test_single_rows_of_many_requests_make_a_block(storage):
    bank = Bank(storage, "k")
    for number in range(4):
        bank.put(block(number, 5))
    bank.join()
    asked = np.array([19, 3, 3, 7, 0, 12])
    found = bank.gather(asked, 5)
    everything = np.concatenate([block(number, 5).inputs for number in range(4)])
    anchors = np.concatenate([block(number, 5).anchor for number in range(4)])
    assert same(found.inputs, everything[asked]) and same(found.anchor, anchors[asked])
    lists = [each for number in range(4) for each in block(number, 5).columns["ragged"].lists()]
    assert all(same(got, lists[place]) for got, place in zip(found.columns["ragged"].lists(), asked, strict=True))
    assert bank.gather(np.array([0, 25]), 5) is None


def test_each_epoch_takes_every_row_once_and_the_first_in_order():
    taken = np.concatenate([places(index, 4, 10, 7) for index in range(10)])
    epochs = taken.reshape(4, 10)
    assert (epochs[0] == np.arange(10)).all()
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()
    assert (epochs[1] != epochs[2]).any() and (epochs[1] != np.arange(10)).any()
    assert (places(5, 4, 10, 7) == taken[20:24]).all() and (places(5, 4, 10, 8) != taken[20:24]).any()


def test_two_that_join_at_once_lose_nothing(tmp_path, monkeypatch):
    """The second one has looked before the first one joins, as on a storage where nobody can be kept out."""
    storage = Storage(tmp_path)
    one, other = Bank(storage, "k"), Bank(storage, "k")
    for number in range(6):
        one.put(block(number))
    look, joined = other.look, []

    def late():
        look()
        if not joined:
            joined.append(True)
            monkeypatch.setattr(one, "_claimed", lambda: nullcontext(True))
            one.join()

    monkeypatch.setattr(other, "look", late)
    other.join()
    fresh = Bank(storage, "k")
    fresh.look()
    assert fresh.requests == set(range(6))
    for number in range(6):
        check(fresh.read(number), block(number))


def test_single_requests_that_a_chunk_has_as_well_are_removed(tmp_path):
    storage = Storage(tmp_path)
    one, other = Bank(storage, "k"), Bank(storage, "k")
    for bank in (one, other):
        bank.put(block(3))
    one.join()
    other.put(block(3))
    other.join()
    assert not list((tmp_path / "bank" / "k").glob("request-*")) and other.read(3) is not None
