"""Tables that name image files and their labels."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.pictures import CLASSES, COUNTS
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.data import ImageFolder, ImageLists

KINDS = ["csv", "tsv", "csv.gz", "jsonl", "json", "parquet"]


def rows(folder, split, inside=False, names=True):
    files = sorted((folder / split).rglob("*.png"))
    base = folder / split if inside else folder
    label = [file.parent.name if names else CLASSES.index(file.parent.name) for file in files]
    return [
        {"more": {"any": 1}, "file_name": file.relative_to(base).as_posix(), "label": each}
        for file, each in zip(files, label, strict=True)
    ]


def write(file, found):
    kind = file.name.split(".", 1)[1]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(found), file)
    elif "sv" in kind:
        between = "\t" if kind == "tsv" else ","
        lines = [between.join(("id", "file_name", "label"))]
        lines += [between.join((str(n), f'"{row["file_name"]}"', str(row["label"]))) for n, row in enumerate(found)]
        content = "\ufeff".encode() + "\r\n".join(lines).encode()
        file.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)
    else:
        file.write_text(json.dumps(found) if kind == "json" else "\n".join(map(json.dumps, found)))


def tables(folder, kind, inside=False, names=True, **settings) -> ImageLists:
    files = {}
    for split in COUNTS:
        files[split] = f"{split}/metadata.{kind}" if inside else f"{split}.{kind}"
        write(folder / files[split], rows(folder, split, inside, names))
    return validate(ImageLists, {"type": "lists", "path": str(folder), **files, **settings})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inside", [True, False])
def test_a_table_gives_what_folders_give(folder, kind, inside):
    found, other = tables(folder, kind, inside).scan(), ImageFolder(path=folder).scan()
    assert found.class_names == other.class_names == CLASSES
    for split in COUNTS:
        assert found.places[split] == other.places[split]
        np.testing.assert_array_equal(found.labels[split], other.labels[split])


@pytest.mark.parametrize("kind", KINDS)
def test_labels_may_be_numbers(folder, kind):
    found = tables(folder, kind, names=False).scan()
    assert found.class_names == ["0", "1", "2"] and found.labels["train"].tolist() == np.repeat([0, 1, 2], 8).tolist()
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    assert tables(folder, kind, names=False).scan().class_names == CLASSES


def test_names_give_classes_their_order(folder):
    order = ["red", "blue", "green"]
    for settings in ({"label_names": order}, {}):
        found = tables(folder, "csv", **settings).scan()
        assert found.class_names == order
        wanted = [order.index(CLASSES[label]) for label in np.repeat([0, 1, 2], 8)]
        assert found.labels["train"].tolist() == wanted
        (folder / "labels.json").write_text(json.dumps(order))
    assert tables(folder, "csv").scan().key != tables(folder, "csv", label_names=CLASSES).scan().key


def test_names_may_be_written_with_their_numbers(folder):
    (folder / "labels.json").write_text(json.dumps({"1": "blue", "0": "red", "2": "green"}))
    assert tables(folder, "csv").scan().class_names == ["red", "blue", "green"]
    source = tables(folder, "csv", names=False)
    assert source.scan().class_names == ["red", "blue", "green"]
    for split in COUNTS:
        lines = [f"{row['file_name']} {row['label']}" for row in rows(folder, split, names=False)]
        (folder / f"{split}.csv").write_text("\n".join(lines))
    assert source.scan().class_names == ["red", "blue", "green"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        *(
            (
                content,
                r'expected a list .* as in \{"0": "cat", "1": "dog"\}; mend it, or set task\.data\.label_names, with',
            )
            for content in ('{"0": "red", "2": "blue"}', '{"red": 0, "blue": 1}', '{"1": "red", "2": "blue"}', "{}")
        ),
        ('{"0": "red", "1": null}', "entry 1 is null"),
        ('{"0": "red", "1": "red"}', "the name 'red' comes twice"),
        ('{"0": "red", "0": "blue"}', "the key '0' comes twice; each class needs a number of its own"),
    ],
)
def test_names_without_all_their_numbers_are_refused(folder, content, says):
    (folder / "labels.json").write_text(content)
    with pytest.raises(ConfigError, match=rf"^\S*labels\.json: {says}"):
        tables(folder, "csv").scan()
    assert tables(folder, "csv", label_names=CLASSES).scan().class_names == CLASSES


def test_columns_have_the_names_that_settings_say_and_text_lists_may_come_with_them(folder):
    source = tables(folder, "csv", file_column="photo", label_column="kind", validation="validation.txt")
    for split in ("train", "test"):
        file = folder / f"{split}.csv"
        file.write_text(file.read_text("utf-8-sig").replace("file_name,label", "photo,kind"))
    lines = [f"{row['file_name']} {row['label']}" for row in rows(folder, "validation", names=False)]
    (folder / "validation.txt").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"validation\.txt: label '0' in row 0 is no class of train"):
        source.scan()
    lines = [f"{row['file_name']} {row['label']}" for row in rows(folder, "validation")]
    for split in ("train", "test"):
        write(folder / f"{split}.csv", rows(folder, split, names=False))
        file = folder / f"{split}.csv"
        file.write_text(file.read_text("utf-8-sig").replace("file_name,label", "photo,kind"))
    assert source.scan().labels["validation"].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "photo,label\na,blue",
            "line 1 is 'photo,label', expected `path label` .* a table begins with a line",
        ),
        ("file_name,kind\na,blue", r"has no column 'label' \(task\.data\.label_column\)"),
        ("file_name,label\n", "holds no rows"),
        ("file_name,label\na.png,\n", r"column 'label' has 1 empty values, the first in row 0"),
        ("file_name,label\n,blue\n", r"column 'file_name' has 1 empty values, the first in row 0"),
        ("file_name,label\n../a.png,blue\n", r"row 0: the path '\.\./a\.png' leaves"),
        ("file_name,label\na.png,1.5\nb.png,red\n", r"test\.csv: label 'blue' in row 0 is no class of train"),
        (
            "file_name,label\na.png,1\nb.png,2\n",
            r"task\.data\.label_names: labels of .* are 1\.\.2, class numbers begin",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_said(folder, text, says):
    source = tables(folder, "csv")
    (folder / "train.csv").write_text(text)
    if "no class" not in says:
        for split in ("test", "validation"):
            (folder / f"{split}.csv").write_text(text)
    with pytest.raises(ConfigError, match=says):
        source.scan()


def test_a_class_that_train_lacks_is_named(folder):
    source = tables(folder, "jsonl")
    write(folder / "test.jsonl", [*rows(folder, "test"), {"file_name": "test/blue/00.png", "label": "purple"}])
    with pytest.raises(ConfigError, match=r"test\.jsonl: label 'purple' in row 9 is no class of train; legal: blue"):
        source.scan()


def test_missing_files_are_named_before_others_are_decoded(folder):
    source = tables(folder, "parquet")
    (folder / "train" / "green" / "03.png").unlink()
    with pytest.raises(ConfigError, match=r"green/03\.png: not a readable image \(no such file"):
        source.scan()


def test_a_folder_with_a_table_and_no_classes_says_how_to_read_it(folder):
    (folder / "train" / "metadata.csv").write_text("file_name,label\n")
    for name in CLASSES:
        for file in (folder / "train" / name).iterdir():
            file.rename(folder / "train" / f"{name}{file.name}")
        (folder / "train" / name).rmdir()
    with pytest.raises(ConfigError, match=r"for its metadata\.csv give type lists, and train: train/metadata\.csv"):
        ImageFolder(path=folder).scan()
