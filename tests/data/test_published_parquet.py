"""Parquet files of images as hubs publish them, and data sets of Hugging Face: shards, paths without bytes, damage."""

import json
import os

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.test_encoded_images import encoded, huggingface
from tests.helpers.images import random_rows
from tests.helpers.pictures import CLASSES, picture, write_pictures
from tgt_ray.core.errors import ConfigError
from tgt_ray.data import EncodedParquet, HuggingFaceImages, ParquetImages, in_this_process
from tgt_ray.data.parts import no_split
from tgt_ray.tasks import ImageClassification

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def table(rows, labels=None) -> pa.Table:
    images = [{"bytes": encoded(picture(row % 3, row)), "path": f"{row}.png"} for row in rows]
    return pa.table(
        {"image": pa.array(images, STRUCT), "label": [row % 3 for row in rows] if labels is None else labels}
    )


def sharded(folder) -> EncodedParquet:
    for shard, rows in enumerate((range(7), range(7, 9), range(9, 18))):
        pq.write_table(table(rows), folder / f"train-0000{shard}-of-00003.parquet")
    pq.write_table(table(range(6)), folder / "test-00000-of-00001-0123456789abcdef.parquet")
    pq.write_table(table(range(30, 36)), folder / "dev.parquet")
    return EncodedParquet(path=folder)


def pixels(split) -> np.ndarray:
    rows = split.to_table().to_arrow()
    return np.stack([np.frombuffer(value, np.uint8) for value in rows["image"].to_pylist()])


def wanted(rows) -> np.ndarray:
    return np.stack([np.asarray(picture(row % 3, row)).transpose(2, 0, 1).reshape(-1) for row in rows])


def test_shards_are_read_in_order(folder, store, monkeypatch):
    monkeypatch.setattr("tgt_ray.data.images.encoded.IMAGES_PER_PART", 4)  # parts go over the ends of shards
    source = sharded(folder)
    pq.write_table(table([0]), folder / "extra.parquet")
    splits = source.read(source.scan(), store, in_this_process)
    np.testing.assert_array_equal(pixels(splits.train), wanted(range(18)))
    np.testing.assert_array_equal(pixels(splits.validation), wanted(range(30, 36)))
    assert splits.train.labels.tolist() == [row % 3 for row in range(18)] and len(splits.test.labels) == 6
    assert [(each.what, each.first) for each in splits.left_out] == [
        (
            no_split((".parquet",)),
            "extra.parquet",
        )
    ]


def test_a_shard_of_raw_pixels(folder):
    rows = random_rows(40)
    whole = pa.table({"image": pa.array([each.tobytes() for each in rows.images]), "label": rows.labels})
    for shard, part in enumerate((whole[:15], whole[15:])):
        pq.write_table(part, folder / f"train-{shard}-of-2.parquet")
    pq.write_table(whole, folder / "test.parquet")
    pq.write_table(whole, folder / "validation.parquet")
    splits = ParquetImages(path=folder).load()
    np.testing.assert_array_equal(splits.train.images, rows.images)
    assert splits.train.ids.tolist() == list(range(40)) and splits.train.labels.tolist() == rows.labels.tolist()


@pytest.mark.parametrize("kind", [EncodedParquet, ParquetImages])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda at: (at / "train-00001-of-00003.parquet").unlink(),
            "2 of 3 shards of train; the first that is missing is train-00001",
        ),
        (
            lambda at: pq.write_table(table([0]), at / "train.parquet"),
            r"has both train\.parquet and train-00000-of-00003",
        ),
        (lambda at: pq.write_table(table([0]), at / "val.parquet"), "has both val and dev; keep one"),
        (
            lambda at: pq.write_table(table([0]), at / "train-00003-of-00003.parquet"),
            r"train-00003-of-00003\.parquet is too many",
        ),
        (lambda at: pq.write_table(table([0]), at / "train-0-of-00003.parquet"), "two files for shard 0 of train"),
        (
            lambda at: (at / "test-00000-of-00001-0123456789abcdef.parquet").rename(at / "other.parquet"),
            r"no file test\.parquet in .*data; ",
        ),
    ],
)
def test_shards_that_are_not_whole_are_refused(folder, kind, change, says):
    sharded(folder)
    change(folder)
    with pytest.raises(ConfigError, match=says):
        kind(path=folder).scan()


@pytest.mark.parametrize("kind", ["absolute", "relative", "of pandas"])
def test_rows_with_a_path_and_no_bytes_are_read_from_that_file(folder, store, kind):
    (folder / "images").mkdir()
    nothing = pa.struct([("bytes", pa.null()), ("path", pa.string())])
    for split, count in (("train", 12), ("test", 6), ("validation", 6)):
        images = []
        for row in range(count):
            picture(row % 3, row).save(folder / "images" / f"{row}.png")
            path = f"images/{row}.png"
            images.append({"bytes": None, "path": str(folder / path) if kind == "absolute" else path})
        column = pa.array(images, nothing if kind == "of pandas" else STRUCT)
        pq.write_table(pa.table({"image": column, "label": np.arange(count) % 3}), folder / f"{split}.parquet")
    source = EncodedParquet(path=folder)
    first = source.read(source.scan(), store, in_this_process)
    np.testing.assert_array_equal(pixels(first.train), wanted(range(12)))
    picture(0, 99).save(folder / "images" / "3.png")
    changed = source.read(source.scan(), store, in_this_process)
    assert changed.train.fingerprint() != first.train.fingerprint(), "the file's content is a part of the key"
    (folder / "images" / "3.png").unlink()
    with pytest.raises(
        ConfigError, match=r"train\.parquet: row 3, without bytes, file .*images/3\.png: not a readable"
    ):
        source.read(source.scan(), store, in_this_process)


def test_a_damaged_page_gives_one_line(folder, store):
    for split in ("train", "test"):
        images = [encoded(picture(row % 3, row % 6)) for row in range(24)]
        content = pa.table({"image": images, "label": np.arange(24) % 3})
        pq.write_table(content, folder / f"{split}.parquet", compression="none")
    file = folder / "train.parquet"
    column = pq.read_metadata(file).row_group(0).column(0)
    end = column.dictionary_page_offset + column.total_compressed_size
    content = bytearray(file.read_bytes())
    content[end - 4 : end] = b"\xff" * 4
    file.write_bytes(content)
    source = EncodedParquet(path=folder)
    with pytest.raises(ConfigError, match=r"^.*train\.parquet: not a readable Parquet file \(.*\)$"):
        source.read(source.scan(), store, in_this_process)


def test_a_footer_whose_names_are_no_text_gives_one_line(folder):
    sharded(folder)
    file = folder / "dev.parquet"
    content, name = bytearray(file.read_bytes()), b"path"
    place = len(content)
    while (place := content.rfind(name, 0, place)) >= 0:
        content[place : place + len(name)] = b"pa\x82h"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"dev\.parquet: not a readable Parquet file"):
        EncodedParquet(path=folder).scan()


@pytest.mark.parametrize(
    ("labels", "names", "says"),
    [
        ([1, 2, 3], None, r"train\.parquet: labels are 1\.\.3, class numbers begin at 0; subtract 1"),
        ([1, 2, 3], ["a", "b", "c"], r"labels are 1\.\.3, class numbers begin at 0"),
        ([0, 1, 3], None, "class 2 has no row"),
        ([0, 1, 1], ["a", "b", "c"], "class 2, 'c' has no row"),
    ],
)
def test_labels_of_parquet_files_are_checked_before_decoding(folder, labels, names, says):
    for split in ("train", "test"):
        pq.write_table(table(range(3), labels), folder / f"{split}.parquet")
    if names:
        (folder / "labels.json").write_text(json.dumps(names))
    with pytest.raises(ConfigError, match=says):
        EncodedParquet(path=folder).scan()


def test_a_replaced_parquet_file_of_the_same_size_and_date_is_noticed(folder):
    source = sharded(folder)
    file, keys = folder / "train-00000-of-00003.parquet", []
    for place in (None, file.stat().st_size // 3):
        content = bytearray(file.read_bytes())
        if place is not None:
            content[place] ^= 1
        file.write_bytes(content)
        os.utime(file, (1, 1))
        keys.append(source.scan().key)
    assert keys[0] != keys[1]


def test_splits_of_a_hugging_face_set_that_no_setting_names_are_counted(tmp_path):
    source = huggingface(write_pictures(tmp_path / "pictures"))
    assert source.scan().left_out == ()
    (left,) = source.model_copy(update={"validation": None}).scan().left_out
    assert (left.what, left.count, left.first) == ("split that no setting names", 1, "validation")


def save(folder, images, labels, features) -> HuggingFaceImages:
    rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(folder)
    return HuggingFaceImages(path=str(folder), validation_fraction=0.4)


def test_a_hugging_face_set_that_names_files(tmp_path, store):
    for row in range(6):
        picture(0, row).save(tmp_path / f"{row}.png")
    features = datasets.Features({"image": datasets.Value("string"), "label": datasets.Value("int64")})
    labels = [0, 0, 0, 1, 1, 1]
    source = save(tmp_path / "hf", [f"../{row}.png" for row in range(6)], labels, features)
    first = source.read(source.scan(), store, in_this_process)
    np.testing.assert_array_equal(
        pixels(first.test), [np.asarray(picture(0, row)).transpose(2, 0, 1).reshape(-1) for row in range(6)]
    )
    picture(0, 99).save(tmp_path / "3.png")
    assert source.read(source.scan(), store, in_this_process).test.fingerprint() != first.test.fingerprint()
    from_one = save(tmp_path / "one", [str(tmp_path / "0.png")] * 6, [1, 1, 1, 2, 2, 2], features)
    with pytest.raises(ConfigError, match=r"split 'train' of .*one: labels are 1\.\.2, class numbers begin at 0"):
        from_one.scan()
    numbers = datasets.Features({"image": datasets.Value("int64"), "label": datasets.Value("int64")})
    with pytest.raises(ConfigError, match=r"image_column: column 'image' of split 'train' is .*; expected images"):
        save(tmp_path / "numbers", [1] * 6, labels, numbers).scan()


def test_names_of_classes_in_messages(tmp_path):
    folder = write_pictures(tmp_path / "pictures")
    for file in (folder / "train" / "green").iterdir():
        file.unlink()
    source = huggingface(folder)
    with pytest.raises(ConfigError, match=r"split 'train' of .*: class 1, 'green' has no row"):
        ImageClassification(data=source).scan()
    assert CLASSES[1] == "green"


@pytest.mark.parametrize("home", [".", "data", "default"])
def test_images_in_folders_of_splits(folder, store, home):
    for split, rows in (("train", range(18)), ("test", range(20, 26)), ("validation", range(30, 36))):
        at = folder / home / split
        at.mkdir(parents=True)
        for number, part in enumerate(np.array_split(np.array(rows), 2)):
            pq.write_table(table(part.tolist()), at / f"{number:04}.parquet")
    (folder / "classes.txt").write_text("blue\ngreen\nred\n")
    (folder / home / "README.md").write_text("any")
    splits = EncodedParquet(path=folder).load(store)
    np.testing.assert_array_equal(pixels(splits.train), wanted(range(18)))
    assert splits.class_names == ("blue", "green", "red")
    where = "README.md" if home == "." else f"{home}/README.md"
    assert [(each.count, each.first) for each in splits.left_out] == [(1, where)]
