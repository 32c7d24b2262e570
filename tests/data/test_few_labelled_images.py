"""Images of which few have labels, and further ones in a folder of their own."""

import json

import numpy as np
import pytest
import torch

from tests.data.test_encoded_images import lists
from tests.helpers.pictures import picture
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.signals.of_generator import LATENT
from tgt_ray.core.storage import Storage
from tgt_ray.tasks import ImageClassification, inputs_of
from tgt_ray.teacher.generators import MLPAutoencoderGenerator
from tgt_ray.teacher.transfer_set import wanted_signals


@pytest.fixture
def others(folder):
    (folder / "others" / "within").mkdir(parents=True)
    for number in range(5):
        picture(number % 3, 40 + number).save(folder / "others" / ("within" if number % 2 else ".") / f"{number}.png")
    (folder / "others" / "notes.txt").write_text("any")
    return folder


def task(folder, **settings) -> ImageClassification:
    source = {"type": "folder", "path": str(folder), **settings.pop("data", {})}
    return validate(ImageClassification, {"type": "image_classification", "data": source, **settings})


def pixels(mine, data, name):
    rows = torch.arange(len(data.tables[name]))
    return inputs_of(mine, data.tables[name], data.input_shape)[rows].numpy()


def ids(data, name):
    return data.tables[name]["id"].to_pylist()


@pytest.mark.parametrize("source", ["digits", "folder"])
def test_labels_of_some_are_kept_and_the_others_are_anchors(folder, source, tmp_path):
    storage, settings = Storage(tmp_path / "s"), {"labelled": {"rows": 12}}
    if source == "digits":
        mine, whole = (validate(ImageClassification, each) for each in (settings, {}))
    else:
        mine, whole = task(folder, **settings), task(folder)
    data, before = mine.load(storage), whole.load(storage)
    assert mine.has_unlabelled and not whole.has_unlabelled
    assert len(data.tables["train"]) == 12 and set(data.labels("train")) == set(before.labels("train"))
    assert sorted(ids(data, "train") + ids(data, "unlabelled")) == sorted(ids(before, "train"))
    assert set(data.labels("unlabelled")) == {-1} and (data.labels("full") >= 0).sum() == 12
    assert ids(data, "full") == ids(before, "full")
    np.testing.assert_array_equal(pixels(mine, data, "full"), pixels(whole, before, "full"))
    for name in ("validation", "test"):
        assert data.fingerprints[name] == before.fingerprints[name]
    assert data.fingerprints["full"] != before.fingerprints["full"]
    wanted = wanted_signals(data, MLPAutoencoderGenerator(), (), ())
    assert LATENT in wanted["unlabelled"] and len(wanted["unlabelled"]) == 2, "and the class that the labeler says"
    scan = mine.scan()
    assert mine.metrics_of_scan(scan) == mine.metrics_of(data)


def test_those_of_a_folder_of_their_own_come_with_them(others, tmp_path):
    settings = {"data": {"unlabelled": "others"}}
    mine, plain = task(others, **settings), task(others)
    data, before = mine.load(Storage(tmp_path / "s")), plain.load(Storage(tmp_path / "s"))
    assert mine.has_unlabelled and len(data.tables["unlabelled"]) == 5 and len(data.tables["train"]) == 24
    assert ids(data, "unlabelled") == list(range(24, 29))
    wanted = [np.asarray(picture(number % 3, 40 + number)).transpose(2, 0, 1) / 255 for number in (0, 2, 4, 1, 3)]
    np.testing.assert_allclose(pixels(mine, data, "unlabelled"), np.stack(wanted), rtol=1e-6)
    assert ids(data, "full") == list(range(29)) and (data.labels("full")[24:] == -1).all()
    np.testing.assert_array_equal(pixels(mine, data, "train"), pixels(plain, before, "train"))
    assert {each.what for each in data.left_out} == {"files with the suffix .txt"}
    assert "folder that is no split" in {each.what for each in before.left_out}, "where nobody names it"


def test_both_together_without_a_validation_split(others, tmp_path):
    for file in sorted((others / "validation").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (others / "validation").rmdir()
    mine = task(others, data={"unlabelled": "others", "validation_fraction": 0.25}, labelled={"rows": 6})
    data = mine.load(Storage(tmp_path / "s"))
    rows = {name: len(table) for name, table in data.tables.items()}
    assert rows == {"train": 6, "full": 23, "validation": 6, "test": 9, "unlabelled": 17}
    assert len({*ids(data, "train"), *ids(data, "unlabelled")}) == 23
    assert (data.labels("validation") >= 0).all() and (data.labels("train") >= 0).all()


def test_ignored_ones_are_in_nothing_and_counted(others, tmp_path):
    mine = task(others, data={"unlabelled": "others"}, unlabelled="ignore")
    data = mine.load(Storage(tmp_path / "s"))
    assert "unlabelled" not in data.tables and len(data.tables["full"]) == 24 and not mine.has_unlabelled
    assert ("images without labels, since task.unlabelled is ignore", 5) in [(e.what, e.count) for e in data.left_out]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere", "is no folder in"),
        ("..", "is no folder in"),
        ("train/red", "is the folder of a split"),
        ("e", "no im"),
    ],
)
def test_a_folder_that_is_none_is_refused(others, name, says):
    (others / "e").mkdir()
    with pytest.raises(ConfigError, match=rf"task\.data\.unlabelled: .*{says}"):
        task(others, data={"unlabelled": name}).scan()


def test_settings_that_have_no_effect_are_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="every row of the train split has a label"):
        task(folder, unlabelled="anchors").load(Storage(tmp_path / "s"))
    with pytest.raises(ConfigError, match="labelled and long_tail exclude each other"):
        task(folder, labelled={"rows": 6}, long_tail={"head": 5, "imbalance": 2})


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl"])
def test_those_of_a_list_come_with_it(others, tmp_path, kind):
    lists(others)
    names = [f"others/{name}.png" for name in ("0", "within/1", "2")]
    lines = {"txt": names, "csv": ["file_name", *names], "jsonl": [json.dumps({"file_name": name}) for name in names]}
    (others / f"more.{kind}").write_text("\n".join(["", *lines[kind]] if kind == "txt" else lines[kind]))
    source = {"type": "lists", **{split: f"{split}.txt" for split in ("train", "test", "validation")}}
    mine = task(others, data={**source, "unlabelled": f"more.{kind}"})
    data = mine.load(Storage(tmp_path / "s"))
    assert mine.has_unlabelled and ids(data, "unlabelled") == [24, 25, 26] and len(data.tables["train"]) == 24
    wanted = [np.asarray(picture(number % 3, 40 + number)).transpose(2, 0, 1) / 255 for number in (0, 1, 2)]
    np.testing.assert_allclose(pixels(mine, data, "unlabelled"), np.stack(wanted), rtol=1e-6)
    (others / "others" / "0.png").unlink()
    with pytest.raises(ConfigError, match=r"others/0\.png: not a readable image \(no such file"):
        mine.scan()
    (others / f"more.{kind}").write_text("")
    with pytest.raises(ConfigError, match=r"holds no lines|no column 'file_name'|holds no rows|is empty"):
        mine.scan()
