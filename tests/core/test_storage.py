"""Names of storages, files that are written whole or not at all, drafts, and secrets."""

import copy
import errno
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyarrow import fs

from tgt_ray.core.errors import ConfigError, NotWritten, RunFailed
from tgt_ray.core.storage import BIG, Storage, shown
from tgt_ray.core.stored import Damaged


@pytest.mark.parametrize("name", ["is it?", "what?a=b", "{b}[c]*", "a b", "x:y", "#1"])
def test_a_folder_has_the_name_that_was_given(tmp_path, name):
    storage = Storage(tmp_path / name)
    storage.within("run").write(b"1", "f")
    assert (tmp_path / name / "run" / "f").read_bytes() == b"1" and len(list(tmp_path.iterdir())) == 1
    assert storage.within("run").root == storage.shown + "/run" == f"{tmp_path}/{name}/run"
    assert copy.deepcopy(storage).read("run", "f") == b"1"


def test_options_of_a_uri_stay_behind_its_path():
    storage = Storage("s3://bucket/a/?region=eu-west-1")
    assert storage.within("run").root == "s3://bucket/a/run?region=eu-west-1"
    assert storage.where("run", "f") == "s3://bucket/a/run/f"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "--storage: is empty; give a folder"),
        (" ", "--storage: is empty; give a folder"),
        ("~nobody-there/x", "--storage ~nobody-there/x: not a folder"),
        ("s3:/bucket/x", r"--storage s3:/bucket/x: a URI has two slashes, s3://; for a folder of this name write \./"),
        ("nosuch://bucket/x", "--storage nosuch://bucket/x: not a folder or a URI that pyarrow knows"),
        ("a\0b", "not a folder or a URI"),
    ],
)
def test_a_name_that_is_none_is_refused_in_one_line(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said) as refused:
        Storage(name)
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "f").write_text("1")
    with pytest.raises(ConfigError, match="/f: is a file; give a folder"):
        Storage(tmp_path / "f").check_writable()
    with pytest.raises(ConfigError, match="cannot write there"):
        Storage(tmp_path / "f" / "x").check_writable()


def test_secrets_are_never_shown():
    secret = "s3://me:p4ss%2Fw@bucket/a?region=eu-west-1&secret_key=abc&session_token=t0k"
    storage = Storage("s3://me:p4ss@bucket/a?region=eu-west-1")
    assert storage.shown == "s3://***@bucket/a?region=eu-west-1" and storage.root.startswith("s3://me:p4ss@")
    assert storage.within("run").shown == "s3://***@bucket/a/run?region=eu-west-1"
    assert storage.where("f") == "s3://***@bucket/a/f"
    assert shown(secret) == "s3://***@bucket/a?region=eu-west-1&secret_key=***&session_token=***"
    with pytest.raises(ConfigError) as refused:
        Storage(secret.replace("s3:", "nosuch:"))
    assert not any(word in str(refused.value) for word in ("p4ss", "abc", "t0k"))
    assert refused.value.__suppress_context__, "pyarrow's words would be in a traceback"


def test_what_is_stored_of_a_storage_can_be_without_secrets():
    storage = Storage("s3://me:p4ss@bucket/a?region=eu-west-1")
    quiet = storage.without_secrets()
    for each in (quiet, quiet.within("run"), quiet.fs, quiet.within("run").fs):
        stored = pickle.dumps(each)
        assert b"p4ss" not in stored and b"p4ss" in pickle.dumps(storage)
    again = pickle.loads(pickle.dumps(quiet.within("run")))  # noqa: S301
    assert again.root == "s3://me:p4ss@bucket/a/run?region=eu-west-1" and again.base == "bucket/a/run"
    files = pickle.loads(pickle.dumps(quiet.fs))  # noqa: S301
    assert isinstance(quiet.fs, fs.S3FileSystem) and isinstance(files, fs.S3FileSystem)
    assert quiet.fs.region == "eu-west-1"
    plain = Storage("s3://bucket/a?region=eu-west-1")
    assert plain.without_secrets() is plain


def test_a_process_that_does_not_know_the_secrets_can_read_what_was_stored_without_them():
    stored = pickle.dumps(Storage("s3://me:p4ss@bucket/b?region=eu-west-1").without_secrets().fs)
    code = f"import pickle; print(type(pickle.loads({stored!r})).__name__)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "SubTreeFileSystem", done.stderr


def test_what_is_damaged_is_named_or_made_again(tmp_path, caplog):
    storage = Storage(tmp_path)
    storage.write(b'{"a": 1}', "r.json")
    (tmp_path / "r.json").write_bytes((tmp_path / "r.json").read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(Damaged, match=r"r\.json: is damaged \(its content doesn't fit its checksum\)"):
        storage.read("r.json")
    assert storage.find("r.json") is None and not storage.holds("r.json")
    assert caplog.messages == [f"{tmp_path}/r.json: is damaged (its content doesn't fit its checksum); made again"] * 2
    caplog.clear()
    assert storage.find("none.json") is None and not storage.holds("none.json") and not caplog.messages
    (tmp_path / "r.json").write_bytes(b"")
    assert not storage.holds("r.json") and "it is empty" in caplog.text


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    storage = Storage(tmp_path)
    storage.write(b"old", "big")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(NotWritten) as failed:
            storage.write(b"x" * 100_000, "big")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert str(failed.value) == f"{tmp_path}/big: cannot be written (File too large)"
    assert isinstance(failed.value, RunFailed), "exit code 1, since the input is good"
    assert [each.name for each in tmp_path.iterdir()] == ["big"] and storage.read("big") == b"old"


def test_a_big_file_is_not_begun_where_there_is_no_room_for_it(tmp_path, monkeypatch):
    storage, big = Storage(tmp_path), b"x" * BIG
    storage.write(b"old", "a", "big")
    opened: list[str] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(total=2 * BIG, free=BIG - 1))
    monkeypatch.setattr(storage, "fs", Counting(storage.fs, opened))
    with pytest.raises(NotWritten) as failed:
        storage.write(big, "a", "big")
    said = "storage full: 1.05 MB are needed, 1.05 MB are free"
    assert str(failed.value) == f"{tmp_path}/a/big: cannot be written ({said})"
    assert not opened and storage.read("a", "big") == b"old"
    storage.write(big[1:], "a", "small")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(total=0, free=0))
    storage.write(big, "a", "big")
    assert storage.read("a", "big") == big, "some file systems don't say how large they are"


class Counting:
    """A file system that notes which files are opened to be written."""

    def __init__(self, of, opened: list[str]):
        self.of, self.opened = of, opened

    def open_output_stream(self, path):
        self.opened.append(path)
        return self.of.open_output_stream(path)

    def __getattr__(self, name):
        return getattr(self.of, name)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_called_so(tmp_path, number):
    assert Storage(tmp_path).reason(OSError(number, "x")) == f"storage full: {os.strerror(number)}"


def test_a_file_that_is_replaced_can_be_kept(tmp_path):
    storage = Storage(tmp_path)
    for number in (b"1", b"2", b"3"):
        storage.write(number, "a", "now", keep="before")
    assert storage.read("a", "now") == b"3" and storage.read("a", "before") == b"2"


def test_drafts_of_dead_processes_are_removed_and_no_others(tmp_path):
    storage = Storage(tmp_path)
    killed = (
        "import os, sys; from tgt_ray.core.storage import Storage, fs\n"
        "storage = Storage(sys.argv[1])\n"
        "storage.fs = type('Fs', (), {'create_dir': storage.fs.create_dir, 'open_output_stream':"
        " storage.fs.open_output_stream, 'move': lambda *args: os._exit(9)})()\n"
        "storage.write(b'1', 'teachers', 'w')"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", killed, str(tmp_path)], env=environment).returncode == 9
    (dead,) = (tmp_path / "teachers").iterdir()
    assert dead.name.endswith(".tmp")
    alive = tmp_path / "teachers" / dead.name.replace(dead.name.split(".")[-3], str(os.getpid()))
    of_older_version, fresh = tmp_path / "run" / "s.pt.0123abcd.tmp", tmp_path / "run" / "s.pt.0123abce.tmp"
    others = [tmp_path / "mine" / "s.pt.0123abcd.tmp", tmp_path / "run" / "own.tmp"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "experiment.yaml").write_text("{}")
    (tmp_path / "mine").mkdir()
    long_ago = time.time() - 2 * 24 * 3600
    for file in (alive, of_older_version, fresh, *others):
        file.write_bytes(b"1")
        if file not in (alive, fresh):
            os.utime(file, (long_ago, long_ago))
    assert storage.remove_drafts() == 2
    assert not dead.exists() and not of_older_version.exists()
    assert all(file.exists() for file in (alive, fresh, *others))
    assert Storage(tmp_path / "none").remove_drafts() == 0 and not (tmp_path / "none").exists()


def test_a_copied_folder_is_read_whatever_its_name(tmp_path):
    """A run may be called by 16 digits, as dates are; only what we name by its content has a name that counts."""
    storage = Storage(tmp_path)
    storage.write(b'{"a": 1}', "2026112812080900", "record.json")
    shutil.copytree(tmp_path / "2026112812080900", tmp_path / "copy")
    shutil.copytree(tmp_path / "2026112812080900", tmp_path / "2026112812080901")
    for name in ("copy", "2026112812080901"):
        assert b'"a": 1' in storage.read(name, "record.json")
    storage.write(b'{"a": 1}', "data_cache", "2026112812080900", "record.json")
    shutil.copytree(tmp_path / "data_cache" / "2026112812080900", tmp_path / "data_cache" / "2026112812080901")
    with pytest.raises(Damaged):
        storage.read("data_cache", "2026112812080901", "record.json")
