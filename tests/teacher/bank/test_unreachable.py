"""A storage that can't be listed or read costs one line and time, and no run."""

from typing import Any

import pytest

from tests.helpers.storages import Failing, remote
from tgt_ray.core.storage import Storage
from tgt_ray.teacher.bank import bank as subject
from tgt_ray.teacher.bank.bank import Bank
from tgt_ray.training.banked import BankedRows, Maker, about_bank, blocks

from .test_chunks import block, check


@pytest.fixture(params=[True, False], ids=["folder", "URI"])
def storage(request, tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "_said", set())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return Storage(tmp_path / "s") if request.param else remote(monkeypatch, tmp_path / "s")


def opened(storage: Storage, **more: Any) -> tuple[Bank, Failing]:
    """A bank, and its file system."""
    bank = Bank(storage, "k", **more)
    files = Failing(bank.folder.fs)
    bank.folder.fs = bank._bounds.folder.fs = files
    return bank, files


def taken(bank: Bank, count: int) -> BankedRows:
    """A run that has taken its first requests."""
    rows = BankedRows(bank, Maker(bank, lambda request: block(request, 5)), 5)
    each = blocks(rows, 0)
    for number in range(count):
        check(next(each), block(number, 5))
    return rows


def test_what_cannot_be_listed_is_made_and_kept(storage, caplog):
    taken(opened(storage)[0], 3)
    bank, files = opened(storage)
    files.broken = {"get_file_info"}
    rows = taken(bank, 4)
    assert (rows.make.made, rows.found) == (20, 0) and bank.unseen and about_bank(bank)["bank_damaged"] == 0
    said = "the run goes on, and makes the rows of the bank itself that it can't read"
    assert caplog.messages[0] == f"{bank.folder.where()}: cannot be read ({Failing.REASON}); {said}"
    bank.join()
    # A folder can't be written either: where others write, and how much, must be looked up before.
    assert len(caplog.messages) == (2 if storage.is_local else 1)
    files.broken = set()
    bank.look()
    assert not bank.unseen and bank.requests >= {0, 1, 2} and bank.bytes > 0


def test_nothing_is_kept_where_nobody_knows_how_much_there_is(storage, caplog):
    bank, files = opened(storage, max_bytes=10**9)
    files.broken = {"get_file_info"}
    rows = taken(bank, 3)
    assert rows.make.unkept == 15 and bank.full
    assert [each.partition("; ")[2] for each in caplog.messages] == [
        "the run goes on, and makes the rows of the bank itself that it can't read",
        "the run goes on, and its further synthetic rows are not kept",
    ]


def test_a_file_that_cannot_be_read_is_made_again_and_stays(storage, monkeypatch, caplog):
    first, _ = opened(storage)
    taken(first, 3)
    bank, files = opened(storage)
    if storage.is_local:  # where files are mapped
        monkeypatch.setattr(Storage, "holds", lambda self, *parts: files.open_input_file)
    files.broken = {"open_input_file"}
    rows = taken(bank, 3)
    assert (rows.make.made, rows.found, bank.damaged) == (15, 0, 0) and len(caplog.messages) == 1
    monkeypatch.undo()
    files.broken = set()
    assert taken(Bank(storage, "k"), 3).found == 15


def test_a_mark_that_cannot_be_reached_is_not_gone(tmp_path, monkeypatch, caplog):
    """As on a network's disk that doesn't answer for a moment."""
    bank = Bank(Storage(tmp_path), "k")
    bank.hold()
    bank.put(block(0, 5))

    def stale(path):
        raise OSError(116, "Stale file handle", str(path))

    monkeypatch.setattr("pathlib.Path.stat", stale)
    bank._renew()
    monkeypatch.undo()
    assert bank.read(0) is not None and not caplog.messages
