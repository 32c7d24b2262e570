"""Decoded images whose files in the storage are damaged."""

import pytest

from tests.helpers.pictures import write_pictures
from tgt_ray.core.errors import NotWritten
from tgt_ray.core.storage import Storage
from tgt_ray.data import ImageFolder, in_this_process
from tgt_ray.data.images import encoded


@pytest.fixture
def source(tmp_path) -> ImageFolder:
    write_pictures(tmp_path / "data")
    return ImageFolder(path=str(tmp_path / "data"), size=8)


def read(source, storage):
    splits = source.read(source.scan(), storage, in_this_process)
    return splits.train.to_table().to_arrow()


@pytest.mark.parametrize("how", ["empty", "cut", "flip", "missing"])
@pytest.mark.parametrize("file", ["record.json", "train-00000.arrow", "test-00000.arrow"])
def test_they_are_decoded_again_with_a_line(source, tmp_path, caplog, file, how):
    storage = Storage(tmp_path / "storage")
    before = read(source, storage)
    (damaged,) = (tmp_path / "storage").glob(f"data_cache/*/{file}")
    content = bytearray(damaged.read_bytes())
    damaged.unlink()
    if how != "missing":
        if how == "flip":
            content[len(content) // 2] ^= 0x40
        damaged.write_bytes({"empty": b"", "cut": content[: len(content) // 2]}.get(how, content))
    caplog.clear()
    assert read(source, storage) == before
    said = [line for line in caplog.messages if line.endswith("; made again")]
    if how == "missing" and file == "record.json":  # that of a cache that was never complete
        assert said == []
    else:
        assert len(said) == 1 and said[0].startswith(f"{damaged}: is {'missing' if how == 'missing' else 'damaged ('}")
    caplog.clear()
    assert read(source, storage) == before and not caplog.messages


def test_a_cache_of_an_older_version_is_read(source, tmp_path, monkeypatch, caplog):
    storage = Storage(tmp_path / "storage")
    with monkeypatch.context() as older:
        older.setattr("tgt_ray.core.stored.sealed", lambda name, data: [data])
        before = read(source, storage)
    monkeypatch.setattr(encoded, "decode_part", None)
    assert read(source, storage) == before and not caplog.messages


def test_a_full_disk_is_no_fault_of_the_images(source, tmp_path, monkeypatch):
    def full(*args):
        raise NotWritten("data_cache/x: cannot be written (No space left on device)")

    monkeypatch.setattr(encoded, "write_file", full)
    with pytest.raises(NotWritten, match="No space left"):
        read(source, Storage(tmp_path / "storage"))
