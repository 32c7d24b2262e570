"""Nothing in a sweep's folder holds a secret of the storage's URI."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyarrow import fs

from tests.helpers.owners import held
from tests.helpers.trials import sweep
from tgt_ray.core import storage as storage_module
from tgt_ray.core.storage import Storage
from tgt_ray.sweeps import driver
from tgt_ray.sweeps.journal import Journal

SECRET = "s3cr3t-w0rd"


class LikeS3(fs.LocalFileSystem):
    """A local file system whose pickle has a secret, as that of S3 has."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def __reduce__(self):
        return _again, (self.options,)


def _again(options):
    return LikeS3(**options)


class NoBoard:
    cancel = SimpleNamespace(remote=lambda name: None)


@contextmanager
def kept(folder: Path, places: list[Path]) -> Iterator[str]:
    """A folder in the place of a temporary one, which stays."""
    places.append(folder / str(len(places)))
    places[-1].mkdir(parents=True)
    yield str(places[-1])


@pytest.mark.ray
def test_no_file_of_a_sweep_has_a_secret(ray_cluster, tmp_path, monkeypatch):
    def from_uri(uri):
        assert SECRET in uri
        return LikeS3(secret_key=SECRET), str(tmp_path / uri.partition("/bucket/")[2].partition("?")[0])

    names = {**vars(fs), "FileSystem": SimpleNamespace(from_uri=from_uri)}
    monkeypatch.setattr(storage_module, "fs", SimpleNamespace(**names))
    folder = Storage(f"s3://me:{SECRET}@host/bucket/mine?secret_key={SECRET}")
    (tmp_path / "mine").mkdir()
    places: list[Path] = []
    monkeypatch.setattr(driver, "TemporaryDirectory", lambda prefix: kept(tmp_path / "tune", places))
    for count in (4, 5):  # the second time it goes on with one more
        config = sweep(trials=count)
        journal = Journal.read(folder)
        journal.begin_command(held(folder), config.model_dump(mode="json"))
        # No board: each trial fails at once, which is enough for Tune to write all of its files.
        driver.search_trials(config, (), NoBoard(), held(folder), journal, 1)
        assert journal.ended == count + 2
    files = [file for file in Path(tmp_path).rglob("*") if file.is_file()]
    names = {file.name.partition("-")[0] for file in files}
    assert {"tuner.pkl", "experiment_state", "trials.parquet", "journal.jsonl", "error.txt"} <= names
    for file in files:
        content = file.read_bytes()
        # Tune writes pickles in hexadecimal digits.
        assert SECRET.encode() not in content and SECRET.encode().hex().encode() not in content, file
