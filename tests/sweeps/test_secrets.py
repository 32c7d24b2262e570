"""Nothing in a sweep's folder holds a secret of the storage's URI."""

from pathlib import Path

import pytest

from tests.helpers.storages import SECRET, with_secrets
from tests.helpers.trials import sweep
from tgt_ray.core.storage import Storage
from tgt_ray.sweeps.driver import make_tuner
from tgt_ray.sweeps.resume import mend


@pytest.mark.ray
def test_no_file_of_a_sweep_has_a_secret(ray_cluster, tmp_path, monkeypatch):
    folder = Storage(with_secrets(monkeypatch, tmp_path).format("mine"))
    (tmp_path / "mine").mkdir()
    folder.write(b'{"format": 2, "concurrent": 1, "fingerprints": {}}', "record.json")
    for resume in (False, True):
        # No board: each trial fails at once, which is enough for Tune to write all of its files.
        make_tuner(sweep(), (), None, folder, 1, resume).fit()
        assert mend(sweep(), folder), "what was stored can be read"
    files = [file for file in Path(tmp_path / "mine").rglob("*") if file.is_file()]
    names = {file.name.partition("-")[0] for file in files}
    assert {"tuner.pkl", "experiment_state", "searcher", "trials.parquet", "error.txt"} <= names
    for file in files:
        content = file.read_bytes()
        # Tune writes pickles in hexadecimal digits.
        assert SECRET.encode() not in content and SECRET.encode().hex().encode() not in content, file
