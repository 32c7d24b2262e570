"""Rows of train that are held out as well: counted, refused, or left out of train."""

import logging
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.pictures import CLASSES, picture, write_pictures
from tgt_ray.core import progress
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.tasks import ImageClassification, TextClassification, with_calibration
from tgt_ray.tasks.leaks import keys_of, several_labels


def text_task(folder, **settings) -> TextClassification:
    data = {"type": "parquet", "path": folder, "drop_leaks": settings.pop("drop_leaks", False)}
    return validate(TextClassification, {"type": "text_classification", "data": data, "vocabulary": 300, **settings})


@pytest.fixture
def texts(tmp_path):
    rows = {
        "train": ["good one", "bad one", "good two", "bad two", "Ａ  Good TEST", "only here"],
        "validation": ["fine", "poor", "bad  ONE"],
        "test": ["a good test", "poor", "another"],
    }
    for split, column in rows.items():
        labels = np.arange(len(column)) % 2
        pq.write_table(pa.table({"text": column, "label": labels}), tmp_path / f"{split}.parquet")
    return tmp_path


def test_leaks_of_texts_are_counted_without_case_white_space_and_forms(texts, caplog):
    data = text_task(texts).load()
    assert data.leaks == {"test": 1, "validation": 1, "validation and test": 1}
    assert data.account()["leaks"] == data.leaks
    of_test, of_validation, both = caplog.messages
    assert "1 of 3 test rows (33.3 %)" in of_test and "1 of 3 validation rows" in of_validation
    assert "drop_leaks" in of_test and "1 test rows are also in validation" in both


def test_they_are_left_out_of_train_where_that_is_asked_for(texts, caplog):
    caplog.set_level(logging.INFO)
    task = text_task(texts, drop_leaks=True)
    data, before = task.load(), text_task(texts).load()
    assert data.tables["train"]["text"].to_pylist() == ["good one", "good two", "bad two", "only here"]
    assert data.tables["full"].num_rows == 4 and data.tables["test"].num_rows == 3
    assert data.fingerprints["train"] != before.fingerprints["train"]
    assert task.said(data).endswith("left out: 2 rows of train that are held out as well (train, ...)")
    (line,) = [each for each in caplog.messages if "are also in" in each and "train" not in each][-1:]
    assert "1 test rows are also in validation" in line, "which leaving rows out of train doesn't mend"


def test_unlabelled_rows_are_looked_at_too(texts):
    table = pq.read_table(texts / "train.parquet")
    labels = [None if text == "bad one" else label for text, label in zip(*table.to_pydict().values(), strict=True)]
    pq.write_table(table.set_column(1, "label", pa.array(labels)), texts / "train.parquet")
    for drop, expected in ((False, ["bad one"]), (True, [])):
        data = text_task(texts, unlabelled="anchors", drop_leaks=drop).load()
        assert data.leaks["validation"] == 1 and data.tables["unlabelled"]["text"].to_pylist() == expected


def test_strict_refuses_them(texts):
    with pytest.raises(ConfigError, match=r"task.data: 1 of 3 test rows .*; task.data.drop_leaks: true leaves"):
        text_task(texts, on_leaks="fail").load()
    with pytest.raises(ConfigError, match="1 test rows are also in validation"):
        text_task(texts, on_leaks="fail", drop_leaks=True).load()


def test_a_class_that_would_lose_all_its_rows_is_named(texts):
    table = pa.table({"text": ["good one", "a good test"], "label": ["good", "bad"]})
    pq.write_table(table, texts / "train.parquet")
    for split in ("validation", "test"):
        there = pq.read_table(texts / f"{split}.parquet")
        names = pa.array([["good", "bad"][label] for label in there["label"].to_pylist()])
        pq.write_table(there.set_column(1, "label", names), texts / f"{split}.parquet")
    task = validate(
        TextClassification,
        {
            "type": "text_classification",
            "vocabulary": 300,
            "data": {"type": "parquet", "path": texts, "label_names": ["good", "bad"], "drop_leaks": True},
        },
    )
    with pytest.raises(ConfigError, match=r"task\.data\.drop_leaks: class 'bad' has no row left in train"):
        task.load()


def test_images_are_compared_by_their_pixels(tmp_path):
    for split, first in (("train", 0), ("validation", 10), ("test", 20)):
        for label, name in enumerate(CLASSES):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(first, first + 4):
                picture(label, number).save(folder / f"{number}.png")
    picture(1, 2).save(tmp_path / "data/test/green/20.bmp")  # the pixels of a train image in another kind of file
    task = validate(ImageClassification, {"data": {"type": "folder", "path": tmp_path / "data"}})
    assert task.load(Storage(tmp_path / "storage")).leaks == {"test": 1, "validation": 0, "validation and test": 0}


@pytest.fixture
def pictures(tmp_path):
    """Pictures of which one of train is in two classes, in files of two kinds."""
    folder = write_pictures(tmp_path / "data")
    picture(0, 1).save(folder / "train/red/again.bmp")
    return folder


def test_an_image_with_two_labels_is_named(pictures, tmp_path, caplog):
    task = validate(ImageClassification, {"data": {"type": "folder", "path": pictures}})
    task.load(Storage(tmp_path / "storage"))
    (line,) = [each for each in caplog.messages if "more than one label" in each]
    one, other = (str(pictures / "train" / name) for name in ("blue/01.png", "red/again.bmp"))
    assert line == f"train: 1 images come with more than one label, the first: {one} is 'blue', {other} is 'red'"


def test_it_is_named_where_validation_is_held_out_of_train(pictures, tmp_path, caplog):
    for number in range(4):  # so that validation has two of them as well
        picture(0, 1).save(pictures / f"train/green/{number}.bmp")
        picture(0, 1).save(pictures / f"train/red/{number}.bmp")
    shutil.rmtree(pictures / "validation")
    data = {"type": "folder", "path": pictures, "validation_fraction": 0.9}
    validate(ImageClassification, {"data": data}).load(Storage(tmp_path / "storage"))
    lines = [each for each in caplog.messages if each.startswith("validation: 1 images come")]
    assert len(lines) == 1 and str(pictures / "train") in lines[0]


def test_raw_pixels_with_two_labels_are_named_by_their_rows(tmp_path, caplog):
    pixels = [bytes([number] * 16) for number in (1, 2, 3, 1, 2)]
    for split, labels in (("train", [0, 1, 0, 1, 1]), ("validation", [0, 1, 0, 0, 1]), ("test", [0, 1, 0, 0, 1])):
        pq.write_table(pa.table({"image": pixels, "label": labels}), tmp_path / f"{split}.parquet")
    validate(ImageClassification, {"data": {"type": "parquet", "path": tmp_path}}).load()
    lines = [each for each in caplog.messages if "more than one label" in each]
    assert lines == ["train: 1 images come with more than one label, the first: row 0 is 0, row 3 is 1"]


def test_images_without_a_label_have_no_second_one():
    keys = np.array([b"a", b"b", b"a", b"b", b"c", b"a"])
    assert several_labels(keys, np.array([0, 1, -1, 1, 2, -1])) == (0, (0, 0))
    assert several_labels(keys, np.array([-1, 1, 0, 2, 0, 3])) == (2, (1, 3))
    assert several_labels(keys, np.full(6, -1)) == (0, (0, 0))


def test_what_is_known_of_rows_is_used_for_calibration(texts, monkeypatch):
    task = text_task(texts, drop_leaks=True)
    data = task.load()
    assert data.keys["full"].tolist() == keys_of(task, "full", data.tables["full"]).tolist()
    monkeypatch.setattr("tgt_ray.tasks.calibration.keys_of", None)
    assert "validation" not in with_calibration(task, data, 1).keys, "it has fewer rows then"


def test_digits_have_none():
    data = Experiment().task.load()
    assert data.leaks == {"test": 0, "validation": 0, "validation and test": 0}
    assert len(keys_of(Experiment().task, "test", data.tables["test"])) == len(data.tables["test"])


def test_new_settings_at_their_defaults_change_no_fingerprint():
    task = {"type": "image_classification", "data": {"type": "digits"}}
    same = validate(Experiment, {"task": task})
    task["data"]["drop_leaks"] = True
    dropping = validate(Experiment, {"task": task})
    assert dropping.fingerprint() != same.fingerprint()
    assert same.fingerprint() == "3926a9404f69d950", "that of the version before this setting"


def test_comparing_shows_how_far_it_is(tmp_path, monkeypatch):
    shown = []

    class Display:
        def update(self, phase):
            shown.append(str(phase).split(" in ")[0])

        def end(self, phase):
            pass

    for split, count in (("train", 600), ("test", 300), ("validation", 8)):
        rows = {"text": [f"{split} {n}" for n in range(count)], "label": [n % 2 for n in range(count)]}
        pq.write_table(pa.table(rows), tmp_path / f"{split}.parquet")
    monkeypatch.setattr(progress, "FIRST_S", 0)
    with progress.shown_by(Display()):
        text_task(tmp_path).load()
    lines = [line for line in shown if line.startswith("comparing")]
    assert lines == [
        "comparing rows of test with others: 256 of 300 rows",
        "comparing rows of full with others: 256 of 600 rows",
        "comparing rows of full with others: 512 of 600 rows",
    ]
    assert "opening files of texts: 3 of 3 files" in shown
