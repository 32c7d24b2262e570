"""The disk of a sweep is full, read-only or gone, for a while or for good."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import pytest

from tests.chaos.sweep import MOMENTS, Sweep, copied_without_sweep
from tests.helpers.disks import Disk, small_disk
from tgt_ray.core.patience import PATIENCE_S

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.timeout(900)]

#: Seconds for which a disk fails before it can be written again.
WHILE_S = 15


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as there:
        yield there


@pytest.fixture
def on_disk(disk, calm, tmp_path) -> Iterator[Sweep]:
    place = copied_without_sweep(calm.storage, disk.place / "storage")
    running = Sweep(place, calm.file, tmp_path / "output.txt")
    yield running
    running.end_by_force()


def goes_on(running, calm, case, how: str) -> None:
    running.end().compare(calm.table)
    case.note(then=how, next_s=running.seconds_to_go_on(case.began))


def is_resumed(running, calm, case) -> None:
    running.start("--resume")
    goes_on(running, calm, case, "ends with one line; `--resume` goes on")


@pytest.mark.parametrize("how", ["full", "read-only"])
@pytest.mark.parametrize("moment", ["teacher", *MOMENTS])
def test_a_storage_fails(disk, on_disk, calm, case, moment, how):
    if moment == "teacher":
        shutil.rmtree(on_disk.folder.parent / "teachers")
    on_disk.begin()
    on_disk.wait_for(moment, *(["ray::Board"] if moment == "start" else []))
    case.comes()
    case.note(fault=how, of=f"{how} for {WHILE_S} s", moment=moment)
    if how == "full":
        disk.fill()
        time.sleep(WHILE_S)
        disk.free()
    else:
        with disk.read_only(on_disk.folder.parent):
            time.sleep(WHILE_S)
    goes_on(on_disk, calm, case, "goes on")
    if moment == "middle":  # at others there may be nothing to write
        said = on_disk.said()
        assert "; tried again for 60 s" in said and "the storage can be written again, after" in said, said


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_storage_fails_for_good(disk, on_disk, calm, case, how):
    on_disk.begin().wait_for("middle")
    case.comes()
    case.note(fault=how, of=f"{how} for good, middle", moment="middle")
    if how == "full":
        disk.fill()
        on_disk.end(1)
        disk.free()
    else:
        with disk.read_only(on_disk.folder.parent):
            on_disk.end(1)
    last = on_disk.said().strip().splitlines()[-1]
    assert last.startswith("failed: ") and "go on with --resume once it can be written" in last, last
    assert ("storage full" if how == "full" else "Read-only file system") in last
    assert not list(on_disk.folder.parent.rglob("*.tmp"))
    is_resumed(on_disk, calm, case)


def test_a_folder_is_removed(sweep, calm, case):
    running = sweep().begin()
    running.wait_for("middle")
    case.comes()
    case.note(fault="removed", of="the sweep's folder is removed, middle", moment="middle")
    shutil.rmtree(running.folder)
    running.end(1)
    last = running.said().strip().splitlines()[-1]
    assert time.time() - case.began < PATIENCE_S
    assert last.startswith("failed: ") and "somebody has removed the folder" in last, last
    assert not running.folder.exists()
    running.start(str(running.file))
    running.end().compare(calm.table)
    case.note(then="ends with one line; the same command begins anew", next_s=running.seconds_to_go_on(case.began))
