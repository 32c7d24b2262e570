"""Tables and labels that are nearly right: each is read as it is meant, or refused in a line that names the fault."""

import json

import pytest

from tests.helpers.text_files import task
from tgt_ray.core.errors import ConfigError
from tgt_ray.data.labels import label_names


def csv_texts(folder, train, test=("0", "1"), **more):
    """A source of CSV files with a text for each of these labels."""
    folder.mkdir(exist_ok=True)
    for split, labels in (("train", train), ("validation", train), ("test", test)):
        lines = [f"{split} {row},{label}\n" for row, label in enumerate(labels)]
        (folder / f"{split}.csv").write_text("text,label\n" + "".join(lines))
    return {"type": "csv", "path": str(folder), **more}


def test_names_that_are_digits_do_not_shift_classes(tmp_path):
    for names in ([1, 2, 3], [1, 2]):
        with pytest.raises(ConfigError, match=r"label '0' in row 0 of column 'label' .* none of the class names"):
            task(csv_texts(tmp_path / "x", "012"[: len(names)] * 2, label_names=names)).load()
    (tmp_path / "x" / "labels.json").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="label '0' in row 0"):
        task(csv_texts(tmp_path / "x", "0101")).load()
    (tmp_path / "x" / "labels.json").unlink()
    # All names, or names at the places of their numbers, are clear.
    assert task(csv_texts(tmp_path / "x", "1212", "12", label_names=[2, 1])).load().labels("test").tolist() == [1, 0]
    assert task(csv_texts(tmp_path / "x", "0101", label_names=["no", 1])).load().labels("test").tolist() == [0, 1]
    with pytest.raises(ConfigError, match="label 2 in row 2 is outside"):
        task(csv_texts(tmp_path / "x", "0120", label_names=[0, 1])).load()


def test_labels_that_differ_as_words_are_not_merged(tmp_path):
    for train, test in ((("0", "00", "1", "1"), "01"), ("0101", ("0", "01"))):
        with pytest.raises(ConfigError, match=r"has the labels '\d' and '0\d', which are one number"):
            task(csv_texts(tmp_path / "x", train, test)).load()
    two = ["00", "01"]
    assert task(csv_texts(tmp_path / "x", two * 2, two)).load().labels("test").tolist() == [0, 1]
    words = ["0", "00"]
    data = task(csv_texts(tmp_path / "x", words * 2, words, label_names=words)).load()
    assert data.labels("test").tolist() == [0, 1]


def test_names_of_classes_can_be_printed(tmp_path):
    for name, fault in (("\ud800", "half a character"), (" ", "is empty")):
        with pytest.raises(ConfigError, match=f"label_names.*{fault}"):
            task(csv_texts(tmp_path / "x", "0101", label_names=[name, "b"]))
        file = tmp_path / "labels.json"
        file.write_text(json.dumps(["b", name]))
        with pytest.raises(ConfigError, match=f"labels.json: entry 1 can't name a class: it .*{fault}"):
            label_names(file)
    lines = tmp_path / "classes.txt"
    lines.write_text("a\u0085b\r\n\nc\u2028d\n", newline="")
    assert label_names(lines) == ["a\u0085b", "c\u2028d"]


def test_delimiters(tmp_path):
    source = csv_texts(tmp_path / "x", "0101")
    for wrong in ("§", '"', "\n"):
        with pytest.raises(ConfigError, match="can't be between columns; give a character of ASCII"):
            task({**source, "delimiter": wrong})
    for file in (tmp_path / "x").iterdir():
        file.write_text(file.read_text().replace(",", "\t"))
    assert task({**source, "delimiter": r"\t"}).load().labels("test").tolist() == [0, 1]
