"""Raw pixels in Parquet files."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.images import random_rows, same
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.data import ImageRows, ParquetImages, in_this_process
from tgt_ray.tasks import ImageClassification, TaskData


def write(folder, name: str, rows: ImageRows, kind: str = "fixed", **more) -> None:
    size = rows.images[0].size
    kinds = {"fixed": pa.binary(size), "binary": pa.binary(), "large": pa.large_binary()}
    images = pa.array([image.tobytes() for image in rows.images], kinds[kind])
    pq.write_table(
        pa.table({"image": images, "label": rows.labels, **more}), folder / f"{name}.parquet", row_group_size=16
    )


@pytest.mark.parametrize("kind", ["fixed", "binary", "large"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)])
def test_parquet_gives_the_bytes_that_were_written(tmp_path, kind, shape):
    rows = {name: random_rows(40, shape, seed=i) for i, name in enumerate(("train", "validation", "test"))}
    for name, part in rows.items():
        write(tmp_path, name, part, kind, extra=pa.array(range(40)))
    splits = ParquetImages(path=tmp_path).load()
    assert splits.num_classes == 3
    assert same(splits.train, rows["train"]) and same(splits.test, rows["test"])
    assert same(splits.validation, rows["validation"])


def test_parquet_holds_validation_out_of_train_never_of_test(tmp_path):
    train, test = random_rows(60), random_rows(30, seed=1)
    write(tmp_path, "train", train)
    write(tmp_path, "test", test)
    splits = ParquetImages(path=tmp_path, validation_fraction=0.25).load()
    assert same(splits.test, test)
    assert sorted([*splits.train.ids, *splits.validation.ids]) == list(range(60))
    np.testing.assert_array_equal(np.bincount(splits.validation.labels), [5, 5, 5])
    np.testing.assert_array_equal(splits.validation.images, train.images[splits.validation.ids])
    other = ParquetImages(path=tmp_path, validation_fraction=0.25, seed=1).load()
    assert set(other.validation.ids) != set(splits.validation.ids)


def test_raw_pixels_too_many_for_memory_go_to_the_storage_in_parts(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = {name: random_rows(60, (3, 4, 6), seed=i) for i, name in enumerate(("train", "test"))}
    for name, part in rows.items():
        write(folder, name, part)
    source = ParquetImages(path=folder, image_shape=(3, 4, 6))
    small = source.load()
    monkeypatch.setattr("tgt_ray.data.images.parquet.MOST_IN_MEMORY", 100)
    monkeypatch.setattr("tgt_ray.data.images.encoded.IMAGES_PER_PART", 7)
    task, storage = ImageClassification(data=source), Storage(tmp_path / "s")
    scan = task.scan()
    assert not isinstance(scan, TaskData), "no pixel is in memory yet"
    large = source.read(scan, storage, in_this_process)
    assert source.labels(scan)["validation"].tolist() == small.validation.labels.tolist()
    for name in ("train", "validation", "test"):
        in_parts = ImageRows.from_table(getattr(large, name).to_table().to_arrow(), (3, 4, 6))
        assert same(in_parts, getattr(small, name))
    data = task.read(scan, storage, in_this_process)
    assert data.input_shape == (3, 4, 6) and len(data.tables["test"]) == 60
    with pytest.raises(
        ConfigError, match=r"task\.data\.image_shape: \[3, 5, 5\] needs 75 bytes, .*train\.parquet has 72"
    ):
        ParquetImages(path=folder, image_shape=(3, 5, 5)).scan()
    odd = rows["test"].images[:, :, :3]
    write(folder, "test", ImageRows(rows["test"].ids, np.ascontiguousarray(odd), rows["test"].labels))
    with pytest.raises(
        ConfigError, match=r"row 0: not a readable image \(54 bytes, .* 3x4x6 has 72\); 60 such image\(s\); mend them$"
    ):
        task.load(storage)


def test_the_image_shape_can_be_given(tmp_path):
    for name in ("train", "test"):
        write(tmp_path, name, random_rows(30, (1, 4, 6)))
    assert ParquetImages(path=tmp_path, image_shape=(1, 4, 6)).load().train.images.shape[1:] == (1, 4, 6)
    with pytest.raises(ConfigError, match=r"task\.data\.image_shape: give channels, height, width"):
        ParquetImages(path=tmp_path).load()
    with pytest.raises(ConfigError, match=r"task\.data\.image_shape: \[1, 5, 5\] needs 25 bytes"):
        ParquetImages(path=tmp_path, image_shape=(1, 5, 5)).load()


def test_label_names_set_the_class_range(tmp_path):
    for name in ("train", "test"):
        write(tmp_path, name, random_rows(30))
    (tmp_path / "labels.json").write_text(json.dumps(["a", "b", "c", "d"]))
    assert ParquetImages(path=tmp_path).load().num_classes == 4
    with pytest.raises(ConfigError, match=r"class 3 \('d'\) has no row in the train split"):
        ImageClassification(data=ParquetImages(path=tmp_path)).load()


def bad_parquet(folder, what: str) -> None:
    """A folder of Parquet files with one mistake."""
    good = random_rows(30)
    for name in ("train", "test"):
        write(folder, name, good)
    test, train = folder / "test.parquet", folder / "train.parquet"
    if what == "no test file":
        test.unlink()
    elif what == "no image column":
        pq.write_table(pa.table({"picture": [b"1"], "label": [0]}), test)
    elif what == "no label column":
        pq.write_table(pa.table({"image": [b"1"], "klass": [0]}), test)
    elif what == "truncated file":
        test.write_bytes(test.read_bytes()[:-40])
    elif what == "empty file":
        test.write_bytes(b"")
    elif what == "no rows":
        write_empty(test)
    elif what == "truncated image":
        images = [image.tobytes() for image in good.images]
        images[4] = images[4][:-1]
        pq.write_table(pa.table({"image": pa.array(images, pa.binary()), "label": good.labels}), test)
    elif what == "other size in test":
        write(folder, "test", random_rows(30, (1, 4, 4)))
    elif what == "missing image":
        images = pa.array([None, *[image.tobytes() for image in good.images[1:]]], pa.binary())
        pq.write_table(pa.table({"image": images, "label": good.labels}), test)
    elif what == "labels are text":
        pq.write_table(pa.table({"image": [b"1"], "label": ["cat"]}), test)
    elif what == "images are lists":
        pq.write_table(pa.table({"image": [[1, 2]], "label": [0]}), train)
    elif what == "label too large":
        write(folder, "test", ImageRows(good.ids, good.images, np.where(good.ids == 7, 3, good.labels)))
    elif what == "label negative":
        write(folder, "train", ImageRows(good.ids, good.images, np.where(good.ids == 7, -1, good.labels)))
    elif what == "label names no list":
        (folder / "labels.json").write_text('{"a": 1}')
    elif what == "label names no JSON":
        (folder / "labels.json").write_text("[")


def write_empty(file) -> None:
    pq.write_table(pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}), file)


@pytest.mark.parametrize(
    "what, file, expected",
    [
        ("no test file", "test.parquet", "no file"),
        ("no image column", "test.parquet", "no column 'image'; needed: image, label; found: picture, label"),
        ("no label column", "test.parquet", "no column 'label'; needed: image, label; found: image, klass"),
        ("truncated file", "test.parquet", "not a readable Parquet file"),
        ("empty file", "test.parquet", "not a readable Parquet file"),
        ("no rows", "test.parquet", "holds no rows"),
        ("truncated image", "test.parquet", "images differ in size"),
        ("other size in test", "test.parquet", "16"),
        ("missing image", "test.parquet", "1 empty values"),
        ("labels are text", "test.parquet", "expected integers"),
        ("images are lists", "train.parquet", "expected binary"),
        ("label too large", "test.parquet", "label 3 in row 7 is outside the class range 0..2"),
        ("label negative", "train.parquet", "label -1 in row 7 is outside the class range 0..2"),
        ("label names no list", "labels.json", "expected a list of class names"),
        ("label names no JSON", "labels.json", "not valid JSON"),
    ],
)
def test_bad_parquet_is_refused_with_file_and_reason(tmp_path, what, file, expected):
    bad_parquet(tmp_path, what)
    with pytest.raises(ConfigError) as refused:
        ParquetImages(path=tmp_path).load()
    assert file in str(refused.value) and expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"task\.data\.path: no folder at .*nowhere"):
        ParquetImages(path=tmp_path / "nowhere").load()


def test_fashion_mnist_loads(data_folder):
    splits = ParquetImages(path=data_folder / "image" / "fashion_mnist").load()
    assert splits.num_classes == 10
    assert splits.train.images.shape == (55000, 1, 28, 28)
    for rows, each in ((splits.train, 5500), (splits.validation, 500), (splits.test, 1000)):
        np.testing.assert_array_equal(np.bincount(rows.labels), [each] * 10)
    assert 60 < splits.train.images.mean() < 90, "grey values, not compressed bytes"
