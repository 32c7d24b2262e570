"""Nothing in a sweep's folder holds a secret of the storage's URI."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.helpers.owners import held
from tests.helpers.storages import SECRET, with_secrets
from tests.helpers.trials import sweep
from tgt_ray.core.storage import Storage
from tgt_ray.sweeps import driver
from tgt_ray.sweeps.journal import Journal


class NoBoard:
    cancel = SimpleNamespace(remote=lambda name: None)


@contextmanager
def kept(folder: Path, places: list[Path]) -> Iterator[str]:
    """A folder in the place of a temporary one, which stays."""
    places.append(folder / str(len(places)))
    places[-1].mkdir(parents=True)
    yield str(places[-1])


@pytest.mark.slow
@pytest.mark.ray
def test_no_file_of_a_sweep_has_a_secret(ray_cluster, tmp_path, monkeypatch):
    folder = Storage(with_secrets(monkeypatch, tmp_path).format("mine"))
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
