import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.data import Digits, ImageRows, LongTail, ParquetImages, in_this_process
from tgt_ray.data.base import stratified_holdout
from tgt_ray.tasks import ImageClassification, TaskData


@pytest.fixture(scope="module")
def splits():
    return Digits().load()


def parts(splits) -> list[ImageRows]:
    return [splits.train, splits.validation, splits.test]


def test_the_splits_of_digits_are_disjoint_and_complete(splits):
    ids = np.concatenate([rows.ids for rows in parts(splits)])
    assert sorted(ids) == list(range(1797))


def test_the_splits_of_digits_have_their_shares_of_every_class(splits):
    per_class = np.array([np.bincount(rows.labels, minlength=10) for rows in parts(splits)])
    shares = per_class / per_class.sum(axis=0)
    np.testing.assert_allclose(shares, np.array([[0.6], [0.15], [0.25]]).repeat(10, 1), atol=0.01)


def test_digits_are_always_the_same(splits):
    again = Digits().load()
    assert [rows.fingerprint() for rows in parts(again)] == [rows.fingerprint() for rows in parts(splits)]


def test_digits_use_the_range_of_bytes(splits):
    assert splits.train.images.dtype == np.uint8 and splits.train.images.shape[1:] == (1, 8, 8)
    assert splits.train.images.min() == 0 and splits.train.images.max() == 255


def test_digits_keep_images_with_their_labels(splits):
    from sklearn.datasets import load_digits

    original = load_digits()
    for rows in parts(splits):
        np.testing.assert_array_equal(rows.labels, original.target[rows.ids])
        np.testing.assert_allclose(rows.images[:, 0] * (16 / 255), original.images[rows.ids], atol=0.04)


# Long tail


@given(st.integers(1, 500), st.floats(1, 200), st.integers(1, 30))
def test_long_tail_counts_follow_the_exponential_profile(head, imbalance, classes):
    expected = [head * imbalance ** (-c / max(1, classes - 1)) for c in range(classes)]
    counts = LongTail(head=head, imbalance=imbalance).counts(classes)
    assert (np.abs(counts - expected) <= 0.5 + 1e-9).all()
    assert counts[0] == head
    assert (np.diff(counts) <= 0).all()


def test_the_profile_of_the_default_experiment():
    assert LongTail(head=80, imbalance=20).counts(10).tolist() == [80, 57, 41, 29, 21, 15, 11, 8, 6, 4]


def test_the_long_tail_keeps_its_counts_and_follows_its_seed(splits):
    labels = splits.train.labels
    kept = {s: LongTail(head=80, imbalance=20, seed=s).subsample(labels, 10) for s in (0, 0, 1)}
    for rows in kept.values():
        np.testing.assert_array_equal(np.bincount(labels[rows]), LongTail(head=80, imbalance=20).counts(10))
        assert len(set(rows)) == len(rows)
    np.testing.assert_array_equal(kept[0], LongTail(head=80, imbalance=20, seed=0).subsample(labels, 10))
    assert set(kept[0]) != set(kept[1])


def test_a_class_left_empty_is_refused(splits):
    with pytest.raises(ConfigError, match=r"task\.long_tail: class 8 is left empty by head 3 and imbalance 10"):
        LongTail(head=3, imbalance=10).subsample(splits.train.labels, 10)


def test_a_head_beyond_the_rows_is_refused(splits):
    with pytest.raises(ConfigError, match="should keep 500 rows, the train split has"):
        LongTail(head=500, imbalance=1).subsample(splits.train.labels, 10)


def test_the_task_subsamples_the_students_split_alone():
    plain, tailed = ImageClassification(), ImageClassification(long_tail=LongTail(head=80, imbalance=20))
    plain_data, data = plain.load(), tailed.load()
    for split in ("full", "validation", "test"):
        assert data.tables[split].equals(plain_data.tables[split])
        assert data.fingerprints[split] == plain_data.fingerprints[split]
    assert plain_data.tables["train"].equals(plain_data.tables["full"])
    assert data.tables["train"].num_rows == 272 and data.fingerprints["train"] != plain_data.fingerprints["train"]
    ids = {split: set(data.tables[split]["id"].to_pylist()) for split in data.tables}
    assert ids["train"] < ids["full"]
    assert not ids["validation"] & (ids["full"] | ids["test"]) and not ids["test"] & ids["full"]


@given(st.lists(st.integers(2, 30), min_size=1, max_size=6), st.floats(0.01, 0.99), st.integers(0, 5))
@settings(deadline=None)
def test_a_holdout_takes_its_share_of_each_class(counts, fraction, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    kept, held = stratified_holdout(labels, fraction, seed, "test")
    assert sorted([*kept, *held]) == list(range(len(labels)))
    per_class = np.bincount(labels[held], minlength=len(counts))
    assert (per_class >= 1).all() and (np.bincount(labels[kept], minlength=len(counts)) >= 1).all()
    assert (np.abs(per_class - fraction * np.array(counts)) <= 1).all()


def test_a_class_of_one_row_cannot_be_held_out():
    with pytest.raises(ConfigError, match="class 1 has 1 row"):
        stratified_holdout(np.array([0, 0, 1]), 0.5, 0, "test")


# Arrow tables


def random_rows(size: int, shape=(1, 8, 8), classes: int = 3, seed: int = 0) -> ImageRows:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(size) % classes)
    return ImageRows(np.arange(size), rng.integers(0, 256, (size, *shape)).astype(np.uint8), labels)


def same(a: ImageRows, b: ImageRows) -> bool:
    return all(np.array_equal(x, y) for x, y in ((a.ids, b.ids), (a.images, b.images), (a.labels, b.labels)))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 5)])
def test_rows_survive_an_arrow_table(shape):
    rows = random_rows(11, shape)
    table = rows.to_table()
    assert same(ImageRows.from_table(table, shape), rows)
    assert same(ImageRows.from_table(table.slice(3, 4), shape), rows.take(np.arange(3, 7)))
    chunked = pa.concat_tables([table.slice(2, 3), table.slice(7, 2)])
    assert same(ImageRows.from_table(chunked, shape), rows.take(np.array([2, 3, 4, 7, 8])))


def test_rows_of_a_strided_view_survive_an_arrow_table():
    rows = random_rows(10)
    every_other = ImageRows(rows.ids[::2], rows.images[::2, :, ::-1], rows.labels[::2])
    assert same(ImageRows.from_table(every_other.to_table(), (1, 8, 8)), every_other)


def test_a_fingerprint_sees_every_part_of_the_rows():
    rows = random_rows(6)
    changed = rows.images.copy()
    changed[3, 0, 2, 2] ^= 1
    others = [
        ImageRows(rows.ids, changed, rows.labels),
        ImageRows(rows.ids + 1, rows.images, rows.labels),
        ImageRows(rows.ids, rows.images, rows.labels[::-1]),
        ImageRows(rows.ids, rows.images.reshape(6, 1, 4, 16), rows.labels),
    ]
    assert len({r.fingerprint() for r in [rows, *others]}) == 5
    assert rows.fingerprint() == rows.take(np.arange(6)).fingerprint()


def test_inputs_are_floats_between_zero_and_one():
    rows = random_rows(5)
    inputs = ImageClassification().inputs(rows.to_table(), (1, 8, 8))
    np.testing.assert_allclose(inputs.numpy(), rows.images / np.float32(255), rtol=1e-6)
    inputs += 1  # writable, and not the table's memory
    assert inputs.min() >= 1


# Parquet


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
    with pytest.raises(ConfigError, match="class 3 has no row in the train split"):
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
