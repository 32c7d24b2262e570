"""One command at a time has the folder of a run, and makes a teacher."""

import copy
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from tests.helpers.storages import remote
from tgt_ray.core import exclusive, owner
from tgt_ray.core.errors import ConfigError, NotWritten
from tgt_ray.core.owner import NotOwner, claimed, current, in_use, made_once, owned, taken
from tgt_ray.core.storage import Storage


@pytest.fixture(params=["folder", "exclusive object store", "other object store"])
def storage(request, tmp_path, monkeypatch) -> Storage:
    if request.param == "exclusive object store":
        monkeypatch.setattr(exclusive, "_file_system", lambda root: fsspec.filesystem("file"))
    return Storage(tmp_path) if request.param == "folder" else remote(monkeypatch, tmp_path)


@pytest.fixture
def quick(monkeypatch):
    """Short times, and owners of another machine, which can't be looked at."""
    monkeypatch.setattr(owner, "BEAT_S", 0.1)
    monkeypatch.setattr(owner, "LOOK_S", 0.02)
    monkeypatch.setattr(owner, "STALE_S", 0.6)


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def left_by_another(folder: Path, epoch: int = 1, **changed) -> None:
    """What an owner of another machine has left."""
    folder.mkdir(exist_ok=True)
    said = {"token": "f" * 32, "host": "other", "machine": "other 1", "pid": 1, "started": 0.0, "since": "long ago"}
    (folder / f"owner-{epoch:06d}.lock").write_text(json.dumps({**said, **changed}))


def test_a_second_command_is_refused_while_the_first_prepares_and_after_it_has_begun(tmp_path):
    storage = Storage(tmp_path)
    with claimed(storage, "a", False):
        with pytest.raises(ConfigError, match=r"--name a: exists already in .*another command has just begun it"):
            claimed(storage, "a", False).__enter__()
        (tmp_path / "a" / "sweep.yaml").write_text("{}")
        said = r"--resume: 'a' in .* is running since 20.* UTC, on host .+, last sign of life \d s ago; wait until"
        with pytest.raises(ConfigError, match=said) as refused:
            claimed(storage, "a", True).__enter__()
        assert "\n" not in str(refused.value) and in_use(storage.within("a"))
    assert names(tmp_path / "a") == ["sweep.yaml"] and taken(storage, "a") and not in_use(storage.within("a"))
    with pytest.raises(ConfigError, match="exists already"):
        claimed(storage, "a", False).__enter__()
    with claimed(storage, "a", True):
        pass
    assert names(tmp_path / "a") == ["sweep.yaml"]


def test_where_nothing_was_started_the_name_is_free_again(storage, tmp_path):
    with pytest.raises(ConfigError, match="too few"), claimed(storage, "a", False):
        assert len(names(tmp_path / "a")) == 2, "a lock and a heartbeat"
        raise ConfigError("train.steps: too few")
    assert not list(tmp_path.glob("a/*")) and not taken(storage, "a")


def test_of_many_at_once_one_gets_the_name(tmp_path):
    storage = Storage(tmp_path)

    def begin(_):
        try:
            with claimed(storage, "a", False):
                (tmp_path / "a" / "experiment.yaml").write_text("{}")
                return 1
        except ConfigError:
            return 0

    with ThreadPoolExecutor(8) as threads:
        for round_ in range(20):
            assert sum(threads.map(begin, range(8))) == 1, round_
            (tmp_path / "a" / "experiment.yaml").unlink()
            (tmp_path / "a").rmdir()


CODE = """
import os, sys, time
from tgt_ray.core import owner
from tgt_ray.core.storage import Storage
owner.BEAT_S = 0.1
with owner.claimed(Storage(sys.argv[1]), "a", False) as held:
    print("begun", flush=True)
    if sys.argv[2] == "killed":
        os._exit(9)
    while True:
        held.check()
        time.sleep(0.02)
"""


def another(folder: Path, how: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    arguments = [sys.executable, "-c", CODE, str(folder), how]
    started = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert started.stdout and started.stdout.readline() == "begun\n"
    return started


def test_a_killed_command_keeps_no_name(tmp_path):
    assert another(tmp_path, "killed").wait() == 9
    storage = Storage(tmp_path)
    assert len(names(tmp_path / "a")) == 2 and not taken(storage, "a") and not in_use(storage.within("a"))
    began = time.monotonic()
    with claimed(storage, "a", False) as held:
        assert held.epoch == 2 and len(names(tmp_path / "a")) == 2, "the lock and the heartbeat of the dead are gone"
    assert time.monotonic() - began < owner.STALE_S / 10, "at once, since its process is gone on this machine"
    assert not (tmp_path / "a").exists()


def test_one_that_was_stopped_and_goes_on_ends_in_one_line_and_writes_nothing(tmp_path, quick):
    stopped = another(tmp_path, "stopped")
    (tmp_path / "a" / "sweep.yaml").write_text("{}")
    with pytest.raises(ConfigError, match="running since"):
        claimed(Storage(tmp_path), "a", True).__enter__()
    os.kill(stopped.pid, signal.SIGSTOP)
    time.sleep(2 * owner.BEAT_S)
    with claimed(Storage(tmp_path), "a", True) as held:
        assert held.epoch == 2
        os.kill(stopped.pid, signal.SIGCONT)
        _, said = stopped.communicate(timeout=20)
        assert stopped.returncode == 1
        last = said.strip().splitlines()[-1]
        assert "NotOwner: " in last and "another command has taken over" in last and "running since" in last
        held.check()
        assert len([each for each in names(tmp_path / "a") if each.startswith("owner-")]) == 2


def test_another_machine_s_owner_is_stale_once_its_heartbeat_stays_the_same(tmp_path, quick):
    left_by_another(tmp_path / "a")
    began = time.monotonic()
    with claimed(Storage(tmp_path), "a", False) as held:
        assert time.monotonic() - began >= owner.STALE_S and held.epoch == 2
        assert not list((tmp_path / "a").glob("*-000001.lock"))


def test_a_heartbeat_that_changes_is_a_sign_of_life_whatever_the_clock_there_says(tmp_path, quick):
    left_by_another(tmp_path / "a")
    beat, over = tmp_path / "a" / f"owner-{'f' * 32}.beat", threading.Event()

    def go_on():
        number = 0
        while not over.wait(0.1):
            number += 1
            beat.write_text(json.dumps({"beat": number, "at": 5.0}))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        with pytest.raises(ConfigError, match=r"'a' in .* is running since long ago, on host other"):
            claimed(Storage(tmp_path), "a", True).__enter__()
    finally:
        over.set()
        thread.join()


def test_each_takeover_raises_the_epoch_and_the_overtaken_stays_out(tmp_path, quick, storage):
    folder = storage.within("a")
    (tmp_path / "a").mkdir(exist_ok=True)
    with owned(folder, pytest.fail) as held:
        copy.deepcopy(held).check()
        left_by_another(tmp_path / "a", 2)
        with pytest.raises(NotOwner, match=r"another command has taken over.*running since long ago, on host other"):
            held.check()
        time.sleep(3 * owner.BEAT_S)
        (tmp_path / "a" / f"owner-{held.token}.beat").unlink(missing_ok=True)
        time.sleep(3 * owner.BEAT_S)
        assert names(tmp_path / "a") == ["owner-000001.lock", "owner-000002.lock"], "no heartbeat comes back"
    assert names(tmp_path / "a") == ["owner-000002.lock"]


def test_a_folder_that_was_removed_ends_its_owner_and_isn_t_made_again(tmp_path, quick):
    with claimed(Storage(tmp_path), "a", False) as held:
        for each in (tmp_path / "a").iterdir():
            each.unlink()
        (tmp_path / "a").rmdir()
        time.sleep(3 * owner.BEAT_S)
        assert not (tmp_path / "a").exists()
        with pytest.raises(NotOwner, match="somebody has removed the folder"):
            held.check()


def test_what_a_folder_without_its_files_leads_to_is_said_as_what_it_is(tmp_path):
    with (
        pytest.raises(NotOwner, match="a: somebody has removed the folder while"),
        claimed(Storage(tmp_path), "a", False),
    ):
        shutil.rmtree(tmp_path / "a")
        (tmp_path / "a" / "student.json").read_bytes()
    with pytest.raises(FileNotFoundError), claimed(Storage(tmp_path), "a", False):
        (tmp_path / "a" / "student.json").read_bytes()
    assert not (tmp_path / "a").exists()


def test_heartbeats_that_cannot_be_written_end_nothing_and_come_back_soon(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(owner, "AGAIN_S", 0.02)
    monkeypatch.setattr(owner, "BEAT_S", 0.3)
    failed, write = threading.Event(), Storage.write
    tries = list[float]()

    def full(self, *args, **more):
        tries.append(time.monotonic())
        if len(tries) in (2, 3, 4):
            raise NotWritten("x: cannot be written (storage full)")
        if len(tries) == 5:
            failed.set()
        write(self, *args, **more)

    monkeypatch.setattr(Storage, "write", full)
    with owned(Storage(tmp_path), pytest.fail) as held:
        assert failed.wait(20)
        held.check()
    assert tries[4] - tries[1] < tries[1] - tries[0], "three more tries in less time than one pause"


def test_without_exclusive_creation_somebody_else_s_folder_is_refused(tmp_path, quick, monkeypatch):
    storage = remote(monkeypatch, tmp_path)
    left_by_another(tmp_path / "a")
    (tmp_path / "a" / "sweep.yaml").write_text("{}")
    said = (
        r"a: is running since .*, and this storage can't tell two commands apart; use a storage.*remove .*000001\.lock"
    )
    with pytest.raises(ConfigError, match=said):
        claimed(storage, "a", True).__enter__()
    left_by_another(tmp_path / "a", machine=owner.machine(), pid=2**22 + 1)
    with claimed(storage, "a", True) as held:
        assert held.epoch == 2, "its process is gone for certain"


def test_what_a_uri_says_is_said_to_fsspec():
    given = {"region": "r", "endpoint_override": "host:9000", "scheme": "http", "access_key": "k", "secret_key": "s"}
    assert exclusive._options("s3", given) == {
        "key": "k",
        "secret": "s",
        "endpoint_url": "http://host:9000",
        "client_kwargs": {"region_name": "r"},
    }
    assert exclusive._options("gs", {"anonymous": "true"}) == {"token": "anon"}


def test_a_storage_that_can_t_be_written_is_said_in_one_line(tmp_path, monkeypatch):
    def none(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(owner.exclusive, "_create_local", none)
    with pytest.raises(ConfigError, match=r"--storage .*: cannot write in 'a' \(Permission denied\)"):
        claimed(Storage(tmp_path), "a", False).__enter__()
    assert current(Storage(tmp_path / "a")) is None and not (tmp_path / "a").exists()


def test_of_two_that_need_something_one_makes_it_and_the_other_waits_and_says_so(tmp_path, quick, caplog):
    caplog.set_level(logging.INFO, "tgt_ray")
    made, working = [], []

    def make(number: int) -> None:
        with made_once(Storage(tmp_path / "teachers"), "labeler-0123", "labeler"):
            working.append(number)
            assert len(working) == 1, "never two at once"
            if not made:
                time.sleep(3 * owner.BEAT_S)
                made.append(number)
            working.remove(number)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(make, range(3)))
    assert len(made) == 1
    waits = [each for each in caplog.messages if "another command makes it already" in each]
    assert waits and all(each.startswith("labeler: ") and each.endswith("; waits for it") for each in waits)
    assert names(tmp_path / "teachers") == []


def test_whoever_makes_something_waits_for_a_storage_that_fails_for_a_while(tmp_path, monkeypatch):
    folder, tried, begin = Storage(tmp_path), [], owner.owned

    def failing(*args):
        tried.append(args)
        if len(tried) < 3:
            raise NotWritten("the disk is read-only")
        return begin(*args)

    monkeypatch.setattr(owner, "owned", failing)
    monkeypatch.setattr(owner.patience.time, "sleep", lambda seconds: None)
    with owner.made_once(folder, "labeler", "the labeler"):
        assert len(tried) == 3
