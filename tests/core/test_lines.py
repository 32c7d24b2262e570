"""Lines that are appended: whatever happens to the file, the whole ones count."""

import errno
import json
import os
import resource
import signal
from pathlib import Path

import pytest

from tests.helpers.storages import remote
from tgt_ray.core import lines
from tgt_ray.core.errors import NotWritten
from tgt_ray.core.storage import Storage


@pytest.fixture(params=["folder", "object store"])
def storage(request, tmp_path, monkeypatch) -> Storage:
    return Storage(tmp_path) if request.param == "folder" else remote(monkeypatch, tmp_path)


def writer(storage: Storage, number: int = 1, check=lambda: None) -> lines.Writer:
    return lines.Writer(storage, "journal", lines.read(storage, "journal"), number, check)


def test_lines_come_back_in_order_also_of_several_writers_and_from_several_files(storage, tmp_path):
    for number in (1, 2, 3):
        mine = writer(storage, number)
        for each in range(100):
            mine.append({"by": number, "each": each})
    found, damaged = lines.read(storage, "journal")
    assert [each["n"] for each in found] == list(range(1, 301)) and damaged == 0
    assert [(each["by"], each["each"]) for each in found] == [(a, b) for a in (1, 2, 3) for b in range(100)]
    files = list(tmp_path.glob("journal*"))
    assert len(files) == 1 if storage.is_local else len(files) == 6
    for file in files:
        for line in file.read_text().splitlines():
            assert json.loads(line)["checksum"].startswith("crc32 "), "plain JSON for others"


def test_a_line_is_read_as_it_was_written_whatever_is_in_it(storage):
    given = {"none": None, "list": [1, 2.5, "ä\n"], "nested": {"checksum": "crc32 00000000"}, "nan": float("nan")}
    said = writer(storage).append(given)
    assert lines.read(storage, "journal") == ([said], 0)
    assert said == {"n": 1, **given, "nan": None}


def test_each_flip_and_each_cut_costs_only_the_lines_that_it_hits(tmp_path):
    storage, mine = Storage(tmp_path), writer(Storage(tmp_path))
    for each in range(4):
        mine.append({"each": each})
    file, wanted = tmp_path / "journal.jsonl", lines.read(storage, "journal")[0]
    content = file.read_bytes()
    ends = [i for i, byte in enumerate(content) if byte == 10]
    for place in range(len(content)):
        file.write_bytes(content[:place])
        found, damaged = lines.read(storage, "journal")
        assert found == wanted[: sum(end < place or end == place for end in ends)], place
        assert damaged == (place - 1 not in ends and place > 0 and place not in ends)
        flipped = bytearray(content)
        flipped[place] ^= 1 + place % 255
        file.write_bytes(flipped)
        found, damaged = lines.read(storage, "journal")
        assert len(found) >= 2 and all(each in wanted for each in found) and damaged >= 1, place


def test_damaged_lines_go_with_the_next_write_and_their_numbers_stay(tmp_path):
    mine = writer(Storage(tmp_path))
    for each in range(3):
        mine.append({"each": each})
    file = tmp_path / "journal.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"each": 1', b'"each": 7')[:-5])
    writer(Storage(tmp_path), 2).append({"each": 9})
    found, damaged = lines.read(Storage(tmp_path), "journal")
    assert [(each["n"], each["each"]) for each in found] == [(1, 0), (2, 9)] and damaged == 0


def test_a_last_line_without_its_end_stays(tmp_path):
    writer(Storage(tmp_path)).append({"each": 0})
    file = tmp_path / "journal.jsonl"
    file.write_bytes(file.read_bytes().rstrip())
    writer(Storage(tmp_path), 2).append({"each": 1})
    assert [each["each"] for each in lines.read(Storage(tmp_path), "journal")[0]] == [0, 1]


def test_a_folder_that_was_copied_between_storages_goes_on(tmp_path, monkeypatch):
    first = writer(Storage(tmp_path / "a"))
    (tmp_path / "a").mkdir()
    first.append({"on": "a disk"})
    with monkeypatch.context() as changed:
        writer(remote(changed, tmp_path / "a"), 2).append({"on": "an object store"})
    writer(Storage(tmp_path / "a"), 3).append({"on": "a disk again"})
    found, _ = lines.read(Storage(tmp_path / "a"), "journal")
    assert [each["on"] for each in found] == ["a disk", "an object store", "a disk again"]
    assert [each["n"] for each in found] == [1, 2, 3]


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    mine = writer(Storage(tmp_path))
    mine.append({"each": 0})
    before = (tmp_path / "journal.jsonl").read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as changed:
        changed.setattr(os, "fsync", full)
        with pytest.raises(NotWritten, match=r"journal\.jsonl: cannot be written \(storage full: No space left on "):
            mine.append({"each": 1})
    assert (tmp_path / "journal.jsonl").read_bytes() == before
    mine.append({"each": 2})
    assert [each["each"] for each in lines.read(Storage(tmp_path), "journal")[0]] == [0, 2]


def test_of_a_line_that_is_cut_off_by_a_full_disk_nothing_stays(tmp_path):
    mine = writer(Storage(tmp_path))
    mine.append({"each": 0})
    before = (tmp_path / "journal.jsonl").read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limit[1]))
    try:
        with pytest.raises(NotWritten, match=r"journal\.jsonl: cannot be written \(File too large\)"):
            mine.append({"each": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (tmp_path / "journal.jsonl").read_bytes() == before
    mine.append({"each": 2})
    assert [each["each"] for each in lines.read(Storage(tmp_path), "journal")[0]] == [0, 2]


def test_a_line_that_cannot_be_written_at_first_stands_there_once_all_the_same(tmp_path, monkeypatch):
    """The disk has room again at the very moment at which the file is closed."""
    mine, whole = writer(Storage(tmp_path)), os.fsync

    def full(file):
        monkeypatch.setattr(os, "fsync", whole)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotWritten):
        mine.append({"each": 1})
    assert not (tmp_path / "journal.jsonl").read_bytes()
    mine.append({"each": 1})
    assert lines.read(Storage(tmp_path), "journal") == ([{"n": 1, "each": 1}], 0)


def test_nothing_is_written_where_it_may_not_be(tmp_path):
    def refuse():
        raise RuntimeError("not mine")

    with pytest.raises(RuntimeError, match="not mine"):
        writer(Storage(tmp_path), check=refuse).append({"each": 0})
    assert not list(Path(tmp_path).iterdir())
