"""One command at a time has the folder of a run."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.storages import storage_at
from tgt_ray.core import claims
from tgt_ray.core.claims import LOCK, claimed, taken
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage


@pytest.fixture(params=["folder", "other file system"])
def storage(request, tmp_path) -> Storage:
    return storage_at(tmp_path, request.param == "folder", "a")


def test_a_second_command_is_refused_while_the_first_prepares_and_after_it_has_begun(tmp_path):
    storage = Storage(tmp_path)
    with claimed(storage, "a", False):
        with pytest.raises(ConfigError, match=r"--name a: exists already in .*another command has just begun it"):
            claimed(storage, "a", False).__enter__()
        (tmp_path / "a" / "sweep.yaml").write_text("{}")
        with pytest.raises(ConfigError, match=r"--resume: another command works on 'a' in .*; wait until"):
            claimed(storage, "a", True).__enter__()
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["sweep.yaml"] and taken(storage, "a")
    with pytest.raises(ConfigError, match="exists already"):
        claimed(storage, "a", False).__enter__()
    with claimed(storage, "a", True):
        pass
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["sweep.yaml"]


def test_where_nothing_was_started_the_name_is_free_again(storage, tmp_path):
    with pytest.raises(ConfigError, match="too few"), claimed(storage, "a", False):
        assert (tmp_path / "a" / LOCK).exists()
        raise ConfigError("train.steps: too few")
    assert not (tmp_path / "a").exists() and not taken(storage, "a")


def test_without_locks_the_last_mark_counts(tmp_path, monkeypatch):
    storage = Storage(tmp_path)
    storage.is_local = False
    (tmp_path / "a").mkdir()
    read = storage.read

    def after_another(*parts):
        (tmp_path / "a" / LOCK).write_bytes(b"of another")
        return read(*parts)

    monkeypatch.setattr(storage, "read", after_another)
    with pytest.raises(ConfigError, match="--name a: exists already"):
        claimed(storage, "a", False).__enter__()
    with claimed(storage, "a", True):
        pass


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


def test_a_killed_command_keeps_no_name(tmp_path):
    killed = (
        "import os, sys; from tgt_ray.core.claims import claimed; from tgt_ray.core.storage import Storage\n"
        "with claimed(Storage(sys.argv[1]), 'a', False): os._exit(9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", killed, str(tmp_path)], env=environment).returncode == 9
    storage = Storage(tmp_path)
    assert (tmp_path / "a" / LOCK).exists() and not taken(storage, "a")
    with claimed(storage, "a", False):
        pass
    assert not (tmp_path / "a").exists()


def test_a_file_system_without_locks_says_so_and_keeps_names_apart(tmp_path, monkeypatch, caplog):
    def none(*args):
        raise OSError("Function not implemented")

    monkeypatch.setattr(claims.fcntl, "flock", none)
    with claimed(Storage(tmp_path), "a", False):
        assert "has no locks (Function not implemented)" in caplog.text
        (tmp_path / "a" / "sweep.yaml").write_text("{}")
        with pytest.raises(ConfigError, match="exists already"):
            claimed(Storage(tmp_path), "a", False).__enter__()
