"""Encoded images: folders, lists, Parquet and Hugging Face data sets of the same small pictures."""

import io
import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.helpers.pictures import CLASSES, COUNTS, picture, write_pictures
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.data import (
    EncodedParquet,
    HuggingFaceImages,
    ImageFolder,
    ImageLists,
    ParquetImages,
    in_this_process,
)
from tgt_ray.data.images.encoded import UnreadableImage, decode
from tgt_ray.tasks import ImageClassification, inputs_of
from tgt_ray.tasks.metrics import classification as metrics


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def lists(folder):
    for split in COUNTS:
        lines = [
            f"{file.relative_to(folder)} {CLASSES.index(file.parent.name)}"
            for file in sorted((folder / split).rglob("*.png"))
        ]
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return ImageLists(path=folder, train="train.txt", test="test.txt", validation="validation.txt")


def parquet(folder, as_struct=False):
    for split in COUNTS:
        files = sorted((folder / split).rglob("*.png"))
        content = [{"bytes": f.read_bytes(), "path": f.name} if as_struct else f.read_bytes() for f in files]
        table = pa.table({"image": content, "label": [CLASSES.index(f.parent.name) for f in files]})
        pq.write_table(table, folder / f"{split}.parquet", row_group_size=5)
    return EncodedParquet(path=folder)


def huggingface(folder):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    splits = {}
    for split in COUNTS:
        files = sorted((folder / split).rglob("*.png"))
        rows = {"image": [str(f) for f in files], "label": [f.parent.name for f in files]}
        splits[split] = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(splits).save_to_disk(folder / "hf")
    return HuggingFaceImages(path=str(folder / "hf"), validation="validation")


SOURCES = {
    "folder": lambda folder: ImageFolder(path=folder),
    "lists": lists,
    "parquet": parquet,
    "parquet of structs": lambda folder: parquet(folder, as_struct=True),
    "huggingface": huggingface,
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_gives_the_pixels_and_labels(kind, folder, store, monkeypatch):
    # Row groups, parts and what is read at once end at different rows.
    monkeypatch.setattr("tgt_ray.data.images.parquet.ROWS_READ", 2)
    monkeypatch.setattr("tgt_ray.data.images.encoded.IMAGES_PER_PART", 4)
    data = ImageClassification(data=SOURCES[kind](folder)).load(store)
    assert data.input_shape == (3, 12, 12) and data.num_classes == 3
    for split, count in COUNTS.items():
        assert data.labels(split).tolist() == np.repeat([0, 1, 2], count).tolist()
        inputs = inputs_of(ImageClassification(), data.tables[split], data.input_shape)
        wanted = np.stack([np.asarray(picture(label, n)) for label in range(3) for n in range(count)])
        (got,) = inputs.split(1000)
        np.testing.assert_array_equal((got.numpy() * 255).round().astype(np.uint8), wanted.transpose(0, 3, 1, 2))
    assert data.tables["train"]["id"].to_pylist() == list(range(24))


def test_a_second_load_decodes_nothing(folder, store):
    source = ImageFolder(path=folder)
    first = ImageClassification(data=source).load(store)

    def refuse(function, parts):
        raise AssertionError("decoded again")

    again = ImageClassification(data=source).load(store, refuse)
    assert first.fingerprints == again.fingerprints
    picture(0, 99).save(folder / "train" / "blue" / "00.png")
    changed = ImageClassification(data=source).load(store)
    assert changed.fingerprints["train"] != first.fingerprints["train"]
    assert changed.fingerprints["test"] == first.fingerprints["test"]


def test_the_fingerprint_follows_the_rows(folder, store):
    plain = ImageClassification(data=ImageFolder(path=folder))
    tailed = ImageClassification(data=ImageFolder(path=folder), long_tail={"head": 8, "imbalance": 4})
    all_rows, few = plain.load(store), tailed.load(store)
    assert few.fingerprints["full"] == all_rows.fingerprints["full"] != few.fingerprints["train"]
    assert np.bincount(few.labels("train")).tolist() == [8, 4, 2]


def test_a_validation_split_is_held_out_where_there_is_none(folder, store):
    for file in (folder / "validation").rglob("*.png"):
        file.unlink()
    for name in CLASSES:
        (folder / "validation" / name).rmdir()
    (folder / "validation").rmdir()
    data = ImageClassification(data=ImageFolder(path=folder, validation_fraction=0.25)).load(store)
    assert np.bincount(data.labels("validation")).tolist() == [2, 2, 2]
    ids = {split: set(data.tables[split]["id"].to_pylist()) for split in ("train", "validation")}
    assert not ids["train"] & ids["validation"] and len(ids["train"] | ids["validation"]) == 24


def whole_train(folder):
    """A list of all images as the train split, and no validation split."""
    lists(folder)
    lines = [(folder / f"{split}.txt").read_text() for split in ("train", "validation")]
    (folder / "train.txt").write_text("".join(lines))
    return ImageLists(path=folder, train="train.txt", test="test.txt")


@pytest.mark.parametrize("kind", [*SOURCES, "held out"])
@pytest.mark.parametrize("tail", [None, {"head": 7, "imbalance": 3}])
def test_the_metrics_of_the_data_are_known_before_an_image_is_decoded(kind, tail, folder, store, monkeypatch):
    # Groups of such few rows that the long tail makes a difference: 8 rows or 7, 4, 2 without it and with it.
    monkeypatch.setattr(metrics, "SHOTS", {"many_shot": (8, None), "medium_shot": (5, 7), "few_shot": (0, 4)})
    source = whole_train(folder) if kind == "held out" else SOURCES[kind](folder)
    task = ImageClassification(data=source, long_tail=tail)
    scan = task.scan()
    known = task.metrics_of_scan(scan)
    assert ("few_shot" in known) == (tail is not None) and ("many_shot" in known) == (tail is None)
    assert known == task.metrics_of(task.read(scan, store, in_this_process))


def test_where_rows_may_be_left_out_no_metric_is_ruled_out_before(folder):
    task = ImageClassification(data=ImageFolder(path=folder, on_bad_rows="skip"))
    assert task.metrics_of_scan(task.scan()) == task.metric_names


def test_an_unreadable_image_stops_with_its_name_or_is_left_out(folder, store):
    bad = folder / "train" / "green" / "03.png"
    bad.write_bytes(bad.read_bytes()[:40])
    with pytest.raises(ConfigError, match=r"green/03\.png: not a readable image .*1 such image"):
        ImageClassification(data=ImageFolder(path=folder)).load(store)
    assert not list((folder.parent / "storage").rglob("*.arrow")), "nothing half-made is left"
    data = ImageClassification(data=ImageFolder(path=folder, on_bad_rows="skip")).load(store)
    assert np.bincount(data.labels("train")).tolist() == [8, 7, 8]
    (record,) = [json.loads(f.read_text()) for f in (folder.parent / "storage").glob("data_cache/*/record.json")]
    assert record["splits"]["train"]["bad"] == 1 and record["splits"]["train"]["bad_names"] == [str(bad)]


def test_images_of_many_sizes_need_one_size(folder, store):
    picture(0, 0, (20, 14)).save(folder / "train" / "blue" / "00.png")
    with pytest.raises(ConfigError, match=r"task\.data\.size: images differ in size \(.*00.png is 20x14.*is 12x12"):
        ImageClassification(data=ImageFolder(path=folder)).load(store)
    data = ImageClassification(data=ImageFolder(path=folder, size=10)).load(store)
    assert data.input_shape == (3, 10, 10)


def test_grey_images_and_conversion(folder, store):
    data = ImageClassification(data=ImageFolder(path=folder, channels=1)).load(store)
    assert data.input_shape == (1, 12, 12)
    grey = encoded(Image.fromarray(np.full((4, 6), 77, np.uint8)), "JPEG")
    assert decode(grey, None, 3).shape == (3, 4, 6) and (decode(grey, None, 3) == 77).all()
    assert decode(grey, 5, 1).shape == (1, 5, 5)


@pytest.mark.parametrize("content", [None, b"", b"no image at all", encoded(picture(0, 0))[:60]])
def test_what_is_no_image_is_said_so(content):
    with pytest.raises(UnreadableImage):
        decode(content, None, 3)


def test_images_of_more_than_8_bits_are_not_bleached(folder, store):
    deep = Image.fromarray(np.full((12, 12), 40000, np.uint16))
    deep.save(folder / "train" / "blue" / "00.png")
    with pytest.raises(ConfigError, match=r"blue/00\.png: not a readable image \(more than 8 bits a channel"):
        ImageClassification(data=ImageFolder(path=folder)).load(store)


def test_a_split_without_a_readable_image_leaves_nothing_behind(folder, store):
    for file in (folder / "test").rglob("*.png"):
        file.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="none of the 9 images of the split 'test' can be read"):
        ImageClassification(data=ImageFolder(path=folder, on_bad_rows="skip")).load(store)
    assert not list((folder.parent / "storage").rglob("*.arrow"))


def test_a_folder_that_a_decoding_process_does_not_see_is_no_bad_image(folder, store):
    source = ImageFolder(path=folder, on_bad_rows="skip")
    scan = source.scan()
    folder.rename(folder.parent / "elsewhere")
    with pytest.raises(ConfigError, match=r"pictures is not seen on .*give a folder that all nodes mount"):
        ImageClassification(data=source).read(scan, store, in_this_process)


@pytest.mark.parametrize("labels", [["a", "b", "c"], [0.5, 1.5, 2.5]])
def test_labels_of_a_hugging_face_set_that_are_no_classes_are_refused(tmp_path, labels):
    rows = datasets.Dataset.from_dict({"image": [{"bytes": encoded(picture(0, 0)), "path": None}] * 3, "label": labels})
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "hf")
    with pytest.raises(ConfigError, match="expected rows with a class label or integers"):
        HuggingFaceImages(path=str(tmp_path / "hf")).scan()


def test_empty_images_and_labels_of_a_hugging_face_set(tmp_path, store):
    whole = {"bytes": encoded(picture(0, 0)), "path": None}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})

    def save(name, images, labels):
        rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / name)
        return HuggingFaceImages(path=str(tmp_path / name), validation_fraction=0.4, on_bad_rows="skip")

    source = save("no image", [whole, whole, None, whole, whole, whole], [0, 0, 0, 1, 1, 1])
    splits = source.read(source.scan(), store, in_this_process)
    assert [len(part.labels) for part in (splits.test, splits.train, splits.validation)] == [5, 3, 2]
    with pytest.raises(ConfigError, match=r"row 2: not a readable image"):
        ImageClassification(data=source.model_copy(update={"on_bad_rows": "fail"})).load(store)
    with pytest.raises(
        ConfigError, match=r"label_column: split 'train' of .* has 2 rows without a label, the first is row 1"
    ):
        save("no label", [whole] * 4, [0, None, None, 1]).scan()


def make_broken(folder, what):
    if what == "no train":
        (folder / "train").rename(folder / "pictures")
    elif what == "unknown class":
        (folder / "test" / "purple").mkdir()
    elif what == "empty":
        for file in (folder / "test").rglob("*.png"):
            file.unlink()
    elif what == "one class":
        for name in CLASSES[1:]:
            (folder / "train" / name).rename(folder / name)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("no train", "no folder 'train' in"),
        ("unknown class", "the class 'purple' is not in .*train"),
        ("empty", "test: no image files"),
        ("one class", "train has 1 class folder"),
    ],
)
def test_a_folder_that_is_wrong_is_refused_before_any_image_is_read(folder, what, says):
    make_broken(folder, what)
    with pytest.raises(ConfigError, match=says):
        ImageFolder(path=folder).scan()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("train/blue/00.png", "line 1 is 'train/blue/00.png', expected `path label`"),
        ("train/blue/00.png x", "expected `path label`"),
        ("../secret.png 0", r"line 1: the path '\.\./secret\.png' leaves"),
        ("/etc/passwd 0", "leaves"),
    ],
)
def test_a_list_with_a_bad_line_is_refused(folder, line, says):
    source = lists(folder)
    (folder / "train.txt").write_text(line + "\n")
    with pytest.raises(ConfigError, match=says):
        source.scan()


def test_a_label_of_a_list_outside_the_range_is_refused(folder):
    source = lists(folder)
    (folder / "test.txt").write_text("test/blue/00.png 0\ntest/red/00.png 7\n")
    with pytest.raises(
        ConfigError, match=r"test\.txt: label 7 in line 2 is outside the train list's class range 0\.\.2"
    ):
        source.scan()


def test_encoded_images_given_as_raw_pixels_are_recognised(folder):
    parquet(folder)
    with pytest.raises(ConfigError, match=r"holds encoded images \(JPEG or PNG\); give type encoded_parquet"):
        ParquetImages(path=folder).scan()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"path": "/nowhere"}, "task.data.path: no folder at /nowhere"),
        ({"train": "trian"}, "no split 'trian'; did you mean 'train'"),
        ({"label_column": "labels"}, "no column 'labels'; did you mean 'label'"),
    ],
)
def test_a_wrong_hugging_face_set_is_refused(folder, change, says):
    source = HuggingFaceImages.model_validate({**huggingface(folder).model_dump(), **change})
    with pytest.raises(ConfigError, match=says):
        source.scan()


#: The module that asks how much memory there is.
ENCODED = "tgt_ray.data.images.encoded"


def test_a_size_that_memory_does_not_hold_is_refused_before_an_image_is_decoded(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / "data")
    monkeypatch.setattr(f"{ENCODED}.decode", None)
    source = ImageFolder(path=folder, size=2**14)
    for ask in (lambda: source.load(Storage(tmp_path / "storage")), lambda: source.shape_of(source.scan())):
        monkeypatch.setattr(f"{ENCODED}.memory", lambda: 2**30)
        with pytest.raises(ConfigError, match=r"^task\.data\.size: 24 images of 3x16384x16384 .*38.7 GB.* 1.07 GB"):
            ask()
    assert not list((tmp_path / "storage").rglob("*.arrow"))


def test_images_that_are_too_large_as_they_are_are_refused_after_the_first_one(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / "data")
    monkeypatch.setattr(f"{ENCODED}.memory", lambda: 2 * 24 * 3 * 12 * 12 - 1)
    source = ImageFolder(path=folder)
    for ask in (lambda: source.load(Storage(tmp_path / "storage")), lambda: source.shape_of(source.scan())):
        with pytest.raises(ConfigError, match=r"^task\.data: 24 images of 3x12x12 .* 20.7 kB, twice their size"):
            ask()
    monkeypatch.setattr(f"{ENCODED}.memory", lambda: 2 * 24 * 3 * 12 * 12)
    assert source.load(Storage(tmp_path / "storage")).train.shape == (3, 12, 12)
