"""Further texts without labels in a file, a folder or a split of their own."""

import gzip

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.text_files import COUNTS, rows_of, task, write
from tgt_ray.core.errors import ConfigError

MORE = ["one more", "two  more", "three more"]


@pytest.fixture
def source(tmp_path, splits):
    return write(tmp_path / "x", "csv", splits)


def put(folder, name):
    if name.startswith("unlabelled/"):
        (folder / "unlabelled").mkdir()
    if ".txt" in name:
        content = "\n".join([*MORE[:2], "", f" {MORE[2]} ", ""])
        (folder / name).write_bytes(gzip.compress(content.encode()) if name.endswith("gz") else content.encode())
    else:
        (folder / name).write_text("text,label\n" + "".join(f"{text},{n}\n" for n, text in enumerate(MORE)))


NAMES = ["unlabelled.txt", "unlabeled.txt.gz", "unsupervised.csv", "unlabelled/0000.csv", "unlabelled/any.txt"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("held_out", [True, False])
def test_they_are_anchors_where_that_is_asked_for(tmp_path, source, name, held_out):
    put(tmp_path / "x", name)
    if held_out:
        (tmp_path / "x" / "validation.csv").unlink()
        source["validation_fraction"] = 0.25
    plain, data = task(source).scan(), task(source, unlabelled="anchors").scan()
    more = data.tables["unlabelled"]
    assert more["text"].to_pylist() == MORE and data.labels("unlabelled").tolist() == [-1] * 3
    assert more["id"].to_pylist() == [24, 25, 26], "ids go on behind those of train"
    assert data.tables["train"].equals(plain.tables["train"])
    blank = [("blank lines", 1, f"{name.removeprefix('unlabelled/')} line 3")] if ".txt" in name else []
    assert [(each.what, each.count, each.first.split("/")[-1]) for each in data.left_out] == blank
    assert data.tables["validation"].equals(plain.tables["validation"])
    assert data.tables["full"]["text"].to_pylist() == [*plain.tables["full"]["text"].to_pylist(), *MORE]


@pytest.mark.parametrize("unlabelled", [None, "ignore"])
def test_they_are_counted_otherwise(tmp_path, source, unlabelled):
    put(tmp_path / "x", "unlabelled.txt")
    data = task(source, unlabelled=unlabelled).scan()
    assert "unlabelled" not in data.tables and len(data.tables["full"]) == COUNTS["train"]
    (entry,) = data.left_out
    assert entry.what == "file of texts without labels, which task.unlabelled: anchors takes"
    assert entry.first.endswith("unlabelled.txt")


def test_rows_of_train_without_a_label_come_with_them(tmp_path, incomplete):
    splits, labelled = incomplete
    pq.write_table(pa.table({"text": MORE}), tmp_path / "unlabelled.parquet")
    source = write(tmp_path, "parquet", splits)
    data = task(source, unlabelled="anchors").scan()
    assert data.tables["unlabelled"]["id"].to_pylist() == [*range(0, 24, 4), 24, 25, 26]
    assert data.tables["train"]["id"].to_pylist() == labelled


def test_a_split_of_a_hub(tmp_path, splits):
    sets = {split: datasets.Dataset.from_dict(columns) for split, columns in splits.items()}
    sets["unsupervised"] = datasets.Dataset.from_dict({"text": MORE, "label": [-1] * 3})
    datasets.DatasetDict(sets).save_to_disk(tmp_path / "hf")
    source = {"type": "huggingface", "path": str(tmp_path / "hf"), "validation": "validation"}
    data = task({**source, "unlabelled": "unsupervised"}, unlabelled="anchors").scan()
    assert data.tables["unlabelled"]["text"].to_pylist() == MORE and data.left_out == ()
    assert [each.first for each in task(source).scan().left_out] == ["unsupervised"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_lines_are_no_split_with_labels(tmp_path, source, split):
    (tmp_path / "x" / f"{split}.csv").rename(tmp_path / "x" / f"{split}.txt")
    with pytest.raises(ConfigError, match=rf"{split}.txt: has texts without labels, and {split} needs labels; give it"):
        task(source).scan()


def test_lines_are_no_pairs(tmp_path, source):
    put(tmp_path / "x", "unlabelled.txt")
    with pytest.raises(ConfigError, match=r"unlabelled.txt: has single texts"):
        task({**source, "pair_column": "more"}, unlabelled="anchors").scan()


def test_empty_ones_are_refused_or_counted(tmp_path, splits):
    pq.write_table(pa.table({"text": ["", *MORE]}), tmp_path / "unlabelled.parquet")
    source = write(tmp_path, "parquet", {split: rows_of(split, count) for split, count in COUNTS.items()})
    with pytest.raises(ConfigError, match=r"unlabelled.parquet: has 1 empty texts, the first in row 0"):
        task(source, unlabelled="anchors").scan()
    data = task({**source, "on_empty": "skip"}, unlabelled="anchors").scan()
    assert data.tables["unlabelled"]["id"].to_pylist() == [25, 26, 27]
    assert [(each.what, each.count) for each in data.left_out] == [("rows with an empty text", 1)]


#: Files beside the splits that nobody asked for, and which could not be read.
OTHERS = {
    "other columns": {"unlabelled.csv": b"id;body\n1;a\n"},
    "not UTF-8": {"unlabelled.txt": b"caf\xe9\n"},
    "two names": {"unlabelled.csv": b"", "unsupervised.txt": b"x"},
    "shards of which one is missing": {"unlabelled-00000-of-00002.csv": b"text\na\n"},
    "a folder of two kinds": {"unlabelled/a.csv": b"text\na\n", "unlabelled/b.txt": b"a\n"},
}


@pytest.mark.parametrize("unlabelled", [None, "ignore"])
@pytest.mark.parametrize("files", OTHERS.values(), ids=OTHERS)
def test_they_are_not_opened_unless_they_are_asked_for(tmp_path, source, files, unlabelled):
    plain = task(source).scan()
    for name, content in files.items():
        (tmp_path / "x" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "x" / name).write_bytes(content)
    data = task(source, unlabelled=unlabelled).scan()
    assert data.fingerprints == plain.fingerprints
    (entry,) = data.left_out
    assert entry.what.endswith("of texts without labels, which task.unlabelled: anchors takes")
    assert (entry.count, entry.first) == (len(files), str(tmp_path / "x" / min(files)))
    with pytest.raises(ConfigError):
        task(source, unlabelled="anchors").scan()


def test_blank_lines_of_several_files_are_counted_together(tmp_path, source):
    (tmp_path / "x" / "unlabelled").mkdir()
    for number in range(2):
        (tmp_path / "x" / "unlabelled" / f"{number}.txt").write_text("a\n\n \nb\n")
    data = task(source, unlabelled="anchors").scan()
    assert len(data.tables["unlabelled"]) == 4
    assert [(each.what, each.count, each.first.split("/")[-1]) for each in data.left_out] == [
        ("blank lines", 4, "0.txt line 2")
    ]


def test_lines_beside_a_split_are_counted(tmp_path, source):
    plain = task(source).scan()
    for name in ("train.txt", "training.txt"):
        (tmp_path / "x" / name).write_text("notes\n")
    data = task(source).scan()
    assert data.fingerprints == plain.fingerprints
    assert [(each.count, each.first) for each in data.left_out] == [(2, "train.txt")]


def test_lines_are_looked_at_where_splits_are(tmp_path, splits):
    source = {**write(tmp_path / "data", "csv", splits), "path": str(tmp_path)}
    (tmp_path / "train.txt").write_text("notes\n")
    data = task(source).scan()
    assert len(data.tables["full"]) == COUNTS["train"]
    assert [(each.count, each.first) for each in data.left_out] == [(1, "train.txt")]
    for split in COUNTS:
        (tmp_path / "data" / f"{split}.csv").unlink()
    (tmp_path / "train.txt").rename(tmp_path / "data" / "train.txt")
    with pytest.raises(ConfigError, match=r"data/train.txt: has texts without labels, and train needs labels; give it"):
        task(source).scan()
