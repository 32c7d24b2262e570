"""The bank stays within its bounds, and nobody removes what a running trial uses."""

import logging
import multiprocessing
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers.storages import remote
from tgt_ray.core.errors import NotWritten
from tgt_ray.core.storage import Storage
from tgt_ray.teacher.bank import bounds, marks
from tgt_ray.teacher.bank.bank import Bank
from tgt_ray.training.banked import BankedRows, Maker, blocks, keep

from .test_chunks import block, check

KEYS = ("a", "b", "c")


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path)


def filled(storage: Storage, key: str, used: float, rows: int = 300) -> Bank:
    """A bank with a request, that was used so many seconds ago."""
    bank = Bank(storage, key)
    bank.put(block(0, rows))
    bank.hold()
    bank.release()
    os.utime(bank.folder.path("last_use"), (time.time() - used,) * 2)
    return bank


def there(storage: Storage) -> list[str]:
    return sorted(each.name for each in Path(storage.path("bank")).iterdir())


def test_banks_that_were_used_longest_ago_make_room(storage, caplog):
    caplog.set_level(logging.INFO)
    for key, ago in (("a", 500), ("b", 900), ("c", 100)):
        filled(storage, key, ago)
    size = filled(storage, "a", 500).bytes
    bank = Bank(storage, "d", max_bytes=3 * size + 100)
    bank.put(block(1, 300))
    assert there(storage) == ["a", "c", "d"]
    assert len(caplog.messages) == 1 and "the rows of 1 recipe(s) that were used longest ago are removed" in caplog.text
    check(bank.read(1), block(1, 300))


def test_a_bank_that_is_in_use_stays_and_a_full_one_costs_one_line(storage, caplog):
    user = filled(storage, "a", 900)
    user.hold()
    filled(storage, "b", 100)
    bank = Bank(storage, "d", max_bytes=user.bytes + 100)
    with pytest.raises(NotWritten, match=r"pool\.bank\.max_bytes: .* are taken by rows that this run or others use"):
        bank.put(block(1, 300))
    assert "a" in there(storage) and "b" not in there(storage)
    keep(bank, block(1, 300))
    keep(Bank(storage, "e", max_bytes=user.bytes + 100), block(1, 300))
    assert len([each for each in caplog.messages if "further synthetic rows are not kept" in each]) == 1
    user.release()
    Bank(storage, "d", max_bytes=user.bytes + 100).put(block(1, 300))
    assert "a" not in there(storage)


def test_a_run_that_was_evicted_from_meanwhile_makes_its_rows_again(storage):
    reader = filled(storage, "a", 900)
    check(reader.read(0), block(0, 300))
    Bank(storage, "d", max_bytes=reader.bytes + 100).put(block(1, 300))
    check(reader.read(0), block(0, 300))  # it is mapped
    other = Bank(storage, "a")
    other.look()
    assert other.read(0) is None and other.damaged == 0
    reader.put(block(5, 300))
    check(reader.read(5), block(5, 300))


def _hold(root: Path, key: str) -> None:
    bank = Bank(Storage(root), key)
    bank.hold(1000)
    (root / "held").touch()
    time.sleep(60)


def test_the_mark_of_a_process_that_was_killed_counts_no_more(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(marks, "LOCKED_S", 0.0)
    filled(storage, "a", 900)
    process = multiprocessing.get_context("fork").Process(target=_hold, args=(tmp_path, "a"))
    process.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    (found,) = marks.banks(storage.within("bank"))
    assert found.checkpoints == (1000,)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (found,) = marks.banks(storage.within("bank"))
    assert found.checkpoints == () and found.key == "a"
    assert not list(Path(storage.path("bank", "a")).glob("in_use*"))


def test_where_there_are_no_locks_the_age_of_a_mark_counts(tmp_path, monkeypatch):
    storage = remote(monkeypatch, tmp_path)
    bank = filled(storage, "a", 0)
    bank.hold(7)
    (mark,) = Path(storage.path("bank", "a")).glob("in_use*")
    assert marks.banks(storage.within("bank"))[0].checkpoints == (7,)
    os.utime(mark, (time.time() - 4000,) * 2)
    monkeypatch.setattr(marks, "RENEWED_S", 0.0)
    bank.look()
    bank.read(0)  # it is renewed while rows are read
    assert marks.banks(storage.within("bank"))[0].checkpoints == (7,)
    os.utime(mark, (time.time() - 4000,) * 2)
    assert marks.banks(storage.within("bank"))[0].checkpoints == () and not mark.exists()


def test_room_for_checkpoints_stays_free(storage, monkeypatch):
    other = filled(storage, "a", 0)
    other.hold(40_000)
    bank = Bank(storage, "b")
    bank.hold(10_000)
    free = 99_000

    def usage(path):
        return shutil._ntuple_diskusage(10**9, 10**9 - free, free)

    monkeypatch.setattr(bounds.shutil, "disk_usage", usage)
    with pytest.raises(NotWritten, match=r"99 kB are free on the disk, of which 100 kB are left for checkpoints"):
        bank.put(block(0))
    free = 200_000
    bank.put(block(0))
    other.release()
    bank.release()
    free = 20_000
    Bank(storage, "b").put(block(1))


def test_what_cannot_be_joined_stays_as_it_is(storage, monkeypatch, caplog):
    bank = Bank(storage, "a")
    for number in range(3):
        bank.put(block(number))
    monkeypatch.setattr(bounds.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10))
    bank.join()
    bank.join()
    assert len(caplog.messages) == 1 and "synthetic rows stay in files of single requests" in caplog.text
    reader = Bank(storage, "a")
    reader.look()
    assert reader.requests == {0, 1, 2}
    check(reader.read(2), block(2))


def test_a_storage_that_nothing_may_be_written_to_is_read(storage, monkeypatch, caplog):
    full = filled(storage, "a", 0)
    full.put(block(1))
    full.join()
    full.put(block(2))
    path = next(Path(storage.path("bank", "a")).glob("request-*"))
    path.write_bytes(path.read_bytes()[:-90])

    def refused(*args, **options):
        raise PermissionError(13, "Permission denied")

    def not_written(self, data, *parts, keep=None):
        raise NotWritten(f"{self.where(*parts)}: cannot be written (Permission denied)")

    monkeypatch.setattr(Storage, "write", not_written)
    monkeypatch.setattr(os, "open", refused)
    bank = Bank(storage, "a", max_bytes=2**30)
    monkeypatch.setattr(bank, "_remove", lambda name: None)
    bank.hold(5)
    bank.look()
    assert bank.requests == {0, 1, 2}
    check(bank.read(0), block(0, 300))
    assert bank.read(2) is None and bank.read(2) is None and bank.damaged == 1
    keep(bank, block(2))
    bank.join()
    bank.release()
    assert bank.full and [each.partition(": ")[2].partition(" (")[0] for each in caplog.messages] == [
        "is damaged",
        "cannot be written",
    ]


def _evict(root: Path, key: str, max_bytes: int) -> None:
    """Add rows where there is no room, and wait between the look for banks to be removed and their removal."""
    found = bounds.banks

    def late(folder):
        there = found(folder)
        (root / "listed").touch()
        while not (root / "go").exists():
            time.sleep(0.01)
        return there

    bounds.banks = late
    bank = Bank(Storage(root), key, max_bytes)
    with suppress(NotWritten):
        bank.put(block(1, 300))


@pytest.mark.parametrize("begins", [True, False])
def test_a_bank_that_is_used_since_it_was_listed_stays(storage, tmp_path, begins):
    """Two processes: one has listed it as unused when the other begins to use it."""
    user = filled(storage, "a", 900)
    process = multiprocessing.get_context("fork").Process(target=_evict, args=(tmp_path, "d", user.bytes + 100))
    process.start()
    while not (tmp_path / "listed").exists():
        time.sleep(0.01)
    if begins:
        user.hold()
    (tmp_path / "go").touch()
    process.join(timeout=60)
    assert process.exitcode == 0 and ("a" in there(storage)) == begins
    if begins:
        check(Bank(storage, "a").read(0) or user.read(0), block(0, 300))


def test_a_bank_that_goes_while_banks_are_listed_is_no_error(storage, monkeypatch):
    found, gone = bounds.banks, []

    def once(folder):
        if not gone:
            gone.append(True)
            raise FileNotFoundError(2, "Cannot list directory")
        return found(folder)

    monkeypatch.setattr(bounds, "banks", once)
    Bank(storage, "k", max_bytes=10**9).put(block(0))
    assert gone and there(storage) == ["k"]


def _train(root: Path, waits: bool, said) -> None:
    """Take 40 requests, of which the first 20 are there, as a run does; the first 5 before the bank is removed."""
    bank = Bank(Storage(root), "k")
    bank.describe({"made of": "numbers"})
    bank.hold(1)
    rows, found = BankedRows(bank, Maker(bank, lambda request: block(request, 20)), 20), []
    try:
        for number, each in zip(range(40), blocks(rows, 0), strict=False):
            check(each, block(number, 20))
            if number == 4:
                (root / "begun").touch()
                while waits and not (root / "removed").exists():
                    time.sleep(0.01)
        found = [rows.make.made, rows.make.unkept, rows.found, bank.damaged]
        found += [each.checkpoints for each in marks.banks(Storage(root).within("bank"))]
    finally:
        said.put(found)
    bank.join()


@pytest.mark.parametrize("once", [True, False])
def test_a_run_whose_bank_is_removed_makes_its_rows_again(storage, tmp_path, once):
    bank = Bank(storage, "k")
    for number in range(20):
        bank.put(block(number, 20))
    context = multiprocessing.get_context("fork")
    said = context.Queue()
    process = context.Process(target=_train, args=(tmp_path, once, said))
    process.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    folder, least = tmp_path / "bank" / "k", 1 if once else 30
    while least or (process.is_alive() and not once):
        shutil.rmtree(folder, ignore_errors=True)
        least = max(0, least - 1)
        time.sleep(0 if once else 0.002)
    (tmp_path / "removed").touch()
    made, unkept, found, damaged, *uses = said.get(timeout=60)
    process.join(timeout=60)
    assert process.exitcode == 0 and damaged == 0 and made + found == 40 * 20 and made >= 20 * 20
    if once:
        assert (made, unkept, found) == (35 * 20, 0, 5 * 20) and uses == [(1,)], "it is marked as in use again"
        later = Bank(storage, "k")
        later.look()
        assert later.requests == set(range(40)), "those that it had open have been written again"
        assert (folder / "bank.json").exists()


def _make(root: Path, name: str, failed) -> None:
    """Make requests in an order of one's own, and join files now and then, as two sweeps do that know nothing of each
    other."""
    bank, start = Bank(Storage(root), "k"), int(name)
    bank.hold(1)
    try:
        for step in range(40):
            number = (step * (3 if start else 7) + 13 * start) % 40
            bank.look()
            found = bank.read(number)
            if found is None:
                bank.put(block(number, 20), 0.5)
                found = bank.read(number)
            check(found, block(number, 20))
            if step % 4 == start:
                bank.join()
        for number in range(40):
            check(bank.read(number), block(number, 20))
        assert bank.damaged == 0
    except BaseException as err:
        failed.put(f"{type(err).__name__}: {err}")
        raise
    finally:
        bank.join()
        bank.release()


@pytest.mark.parametrize("is_local", [True, False])
def test_two_processes_make_and_join_one_bank_at_once(tmp_path, is_local, monkeypatch, caplog):
    if not is_local:
        remote(monkeypatch, tmp_path / "storage")
        monkeypatch.setenv("HOME", str(tmp_path))
    root, context = tmp_path / "storage", multiprocessing.get_context("fork")
    failed = context.Queue()
    both = [context.Process(target=_make, args=(root, str(number), failed)) for number in (0, 1)]
    for each in both:
        each.start()
    for each in both:
        each.join(timeout=60)
    assert [each.exitcode for each in both] == [0, 0], failed.get(timeout=1)
    later = Bank(Storage(root), "k")
    later.look()
    assert later.requests == set(range(40)) and later.damaged == 0
    for number in range(40):
        check(later.read(number), block(number, 20))
    assert caplog.messages == []
