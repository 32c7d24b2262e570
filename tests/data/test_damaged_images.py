"""Decoded images whose files in the storage are damaged."""

from pathlib import Path

import pytest

from tests.helpers.pictures import write_pictures
from tgt_ray.core.errors import NotWritten
from tgt_ray.core.storage import Storage
from tgt_ray.data import ImageFolder, in_this_process
from tgt_ray.data.images import encoded
from tgt_ray.data.stored import forget


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


@pytest.mark.parametrize("how", ["empty", "cut", "flip", "missing"])
def test_those_of_a_remote_storage_are_decoded_again_as_well(source, tmp_path, monkeypatch, caplog, how):
    """A machine that has no copy of its own yet finds it when it fetches the file."""
    write = Storage.write

    def with_folder(self, data, *parts, **more):  # an object store needs none
        Path(self.path(*parts)).parent.mkdir(parents=True, exist_ok=True)
        write(self, data, *parts, **more)

    monkeypatch.setattr(Storage, "write", with_folder)
    monkeypatch.setattr(Storage, "is_local", property(lambda self: False, lambda self, value: None), raising=False)
    storage, homes = Storage(tmp_path / "storage"), iter(range(9))

    def on_another_machine():
        monkeypatch.setenv("HOME", str(tmp_path / f"home-{next(homes)}"))
        forget()
        caplog.clear()
        return read(source, storage)

    before = on_another_machine()
    (damaged,) = (tmp_path / "storage").glob("data_cache/*/train-00000.arrow")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0x40
    if how == "missing":
        damaged.unlink()
    else:
        damaged.write_bytes({"empty": b"", "cut": content[: len(content) // 2]}.get(how, content))
    assert on_another_machine() == before
    said = [line for line in caplog.messages if line.endswith("; made again")]
    assert len(said) == 1 and said[0].startswith(f"{damaged}: is {'missing' if how == 'missing' else 'damaged ('}")
    assert on_another_machine() == before and not caplog.messages
