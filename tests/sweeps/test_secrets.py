"""Nothing in a sweep's folder holds a secret of the storage's URI."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from pyarrow import fs

from tests.helpers.owners import held
from tests.helpers.trials import sweep
from tgt_ray.core import storage as storage_module
from tgt_ray.core.storage import Storage
from tgt_ray.sweeps.driver import make_tuner
from tgt_ray.sweeps.resume import mend

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


@pytest.mark.ray
def test_no_file_of_a_sweep_has_a_secret(ray_cluster, tmp_path, monkeypatch):
    def from_uri(uri):
        assert SECRET in uri
        return LikeS3(secret_key=SECRET), str(tmp_path / uri.partition("/bucket/")[2].partition("?")[0])

    names = {**vars(fs), "FileSystem": SimpleNamespace(from_uri=from_uri)}
    monkeypatch.setattr(storage_module, "fs", SimpleNamespace(**names))
    folder = Storage(f"s3://me:{SECRET}@host/bucket/mine?secret_key={SECRET}")
    (tmp_path / "mine").mkdir()
    folder.write(b'{"format": 2, "concurrent": 1, "fingerprints": {}}', "record.json")
    for resume in (False, True):
        # No board: each trial fails at once, which is enough for Tune to write all of its files.
        make_tuner(sweep(), (), None, held(folder), 1, resume).fit()
        assert mend(sweep(), folder), "what was stored can be read"
    files = [file for file in Path(tmp_path / "mine").rglob("*") if file.is_file()]
    names = {file.name.partition("-")[0] for file in files}
    assert {"tuner.pkl", "experiment_state", "searcher", "trials.parquet", "error.txt"} <= names
    for file in files:
        content = file.read_bytes()
        # Tune writes pickles in hexadecimal digits.
        assert SECRET.encode() not in content and SECRET.encode().hex().encode() not in content, file
