"""Texts: the sources, what they refuse, and the classification task with few labels."""

import csv
import json
import logging

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.core.texts import SEPARATOR, to_texts
from tgt_ray.data import Labelled, LongTail
from tgt_ray.objectives import Distillation
from tgt_ray.tasks import TextClassification, inputs_of
from tgt_ray.teacher.generators import MLPAutoencoderGenerator
from tgt_ray.teacher.transfer_set import prepare

CLASSES = ["bad", "fair", "good"]
COUNTS = {"train": 24, "test": 9, "validation": 6}


def rows_of(split: str, count: int) -> dict[str, list]:
    """Texts with what separators of files look like, and the number zero written as a text."""
    texts = [f'{split} "{n}", naïve\n{CLASSES[n % 3]}\t2020-01-0{1 + n % 9}' for n in range(count)]
    return {
        "text": ["NA", "2020-01-01", *texts[2:]],
        "more": [f"2021-01-0{1 + n % 9}" for n in range(count)],
        "label": [n % 3 for n in range(count)],
        "id": list(range(count)),
    }


def write(folder, kind: str, splits: dict[str, dict[str, list]]) -> dict:
    """The splits as a source of this kind, and its config."""
    folder.mkdir(exist_ok=True)
    if kind == "huggingface":
        sets = {split: datasets.Dataset.from_dict(columns) for split, columns in splits.items()}
        datasets.DatasetDict(sets).save_to_disk(folder / "hf")
        more = {"validation": "validation"} if "validation" in splits else {}
        return {"type": kind, "path": str(folder / "hf"), **more}
    for split, columns in splits.items():
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        if kind == "parquet":
            pq.write_table(pa.table(columns), folder / f"{split}.parquet", row_group_size=5)
        elif kind == "jsonl":
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            with open(folder / f"{split}.{kind}", "w", newline="") as file:
                writer = csv.DictWriter(file, list(columns), delimiter="\t" if kind == "tsv" else ",")
                writer.writeheader()
                writer.writerows(rows)
    return {"type": "csv" if kind == "tsv" else kind, "path": str(folder)}


KINDS = ["parquet", "csv", "tsv", "jsonl", "huggingface"]


def task(source: dict, **more) -> TextClassification:
    return validate(TextClassification, {"type": "text_classification", "data": source, **more})


@pytest.fixture
def splits():
    return {split: rows_of(split, count) for split, count in COUNTS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_texts_and_labels(tmp_path, kind, splits):
    mine = task(write(tmp_path / "data", kind, splits))
    data = mine.load()
    assert data.num_classes == 3 and data.input_shape == (512,)
    for split, rows in splits.items():
        table = data.tables[split]
        assert table["text"].to_pylist() == rows["text"]
        assert data.labels(split).tolist() == rows["label"]
        assert table["id"].to_pylist() == list(range(COUNTS[split]))
        assert [table[name].type for name in ("id", "label")] == [pa.int64(), pa.int64()]
        inputs = inputs_of(mine, table, data.input_shape)
        assert isinstance(inputs, torch.Tensor) and inputs.dtype == torch.uint8 and inputs.shape[1] == 512
        assert to_texts(inputs.numpy()) == rows["text"]
    assert data.tables["train"].equals(data.tables["full"])


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_one_text(tmp_path, kind, splits):
    data = task({**write(tmp_path / "data", kind, splits), "pair_column": "more"}).load()
    wanted = [f"{a}{SEPARATOR}{b}" for a, b in zip(splits["test"]["text"], splits["test"]["more"], strict=True)]
    assert data.tables["test"]["text"].to_pylist() == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_labels_may_be_names(tmp_path, kind, splits):
    for rows in splits.values():
        rows["label"] = [CLASSES[number] for number in rows["label"]]
    source = {**write(tmp_path / "data", kind, splits), "label_names": CLASSES}
    data = task(source).load()
    assert data.class_names == tuple(CLASSES)
    assert data.labels("train").tolist() == [n % 3 for n in range(24)]
    with pytest.raises(ConfigError, match=r"no integers \('bad', 'fair', 'good'\); .* give label_names"):
        task({**source, "label_names": None}).load()
    with pytest.raises(
        ConfigError, match=r"label 'bad' in row 0 of column 'label' of .* did you mean 'bat'\? \(8 such"
    ):
        task({**source, "label_names": ["bat", "fair", "good"]}).load()


def test_names_come_with_the_data(tmp_path, splits):
    for rows in splits.values():
        rows["label"] = [CLASSES[number] for number in rows["label"]]
    source = write(tmp_path / "data", "csv", splits)
    (tmp_path / "data" / "labels.json").write_text(json.dumps(CLASSES[::-1]))
    data = task(source).load()
    assert data.class_names == ("good", "fair", "bad") and data.labels("test").tolist() == [2, 1, 0] * 3
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["1", "0"])})
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [0, 0, 1, 1]}, features=features)
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "hf")
    data = task({"type": "huggingface", "path": str(tmp_path / "hf")}).load()
    assert data.class_names == ("1", "0") and data.labels("test").tolist() == [0, 0, 1, 1], "numbers, not names"


def test_stars_are_classes_by_their_names(tmp_path, splits):
    for rows in splits.values():
        rows["label"] = [number + 1 for number in rows["label"]]
    for kind in ("parquet", "csv"):
        source = write(tmp_path / kind, kind, splits)
        with pytest.raises(
            ConfigError, match=r"task\.data\.label_names: labels of .* are 1\.\.3, class numbers begin at 0"
        ):
            task(source).load()
        data = task({**source, "label_names": [1, 2, 3]}).load()
        assert data.labels("test").tolist() == [0, 1, 2] * 3 and data.class_names == ("1", "2", "3")


def test_validation_is_held_out_of_train_never_of_test(tmp_path, splits):
    del splits["validation"]
    source = write(tmp_path / "data", "parquet", splits)
    data = task({**source, "validation_fraction": 0.25}).load()
    assert np.bincount(data.labels("validation")).tolist() == [2, 2, 2] and data.tables["test"].num_rows == 9
    ids = {split: data.tables[split]["id"].to_pylist() for split in ("train", "validation")}
    assert sorted(ids["train"] + ids["validation"]) == list(range(24))
    texts = data.tables["validation"]["text"].to_pylist()
    assert texts == [splits["train"]["text"][row] for row in ids["validation"]]
    other = task({**source, "validation_fraction": 0.25, "seed": 1}).load()
    assert other.tables["validation"]["id"].to_pylist() != ids["validation"]


def test_fingerprints_see_texts_labels_and_where_texts_are_cut(tmp_path, splits):
    source = write(tmp_path / "data", "parquet", splits)
    first = task(source).load().fingerprints
    assert first == task(source).load().fingerprints and first["train"] == first["full"]
    assert len({task(source, max_bytes=size).load().fingerprints["train"] for size in (512, 20)} | {first["test"]}) == 3
    splits["train"]["text"][7] += "!"
    splits["test"]["label"][0] = 1
    changed = task(write(tmp_path / "data", "parquet", splits)).load().fingerprints
    assert changed["train"] != first["train"] and changed["test"] != first["test"]
    assert changed["validation"] == first["validation"]


def test_long_texts_are_cut_and_counted(tmp_path, splits, caplog):
    splits["train"]["text"][5] = "ä" * 15
    splits["test"]["text"][0] = "b" * 31
    for rows in splits.values():
        rows["text"] = [text[:20] for text in rows["text"]]
    splits["train"]["text"][5], splits["test"]["text"][0] = "ä" * 15, "b" * 31
    mine = task(write(tmp_path / "data", "parquet", splits), max_bytes=29)
    with caplog.at_level(logging.INFO, "tgt_ray"):
        data = mine.load()
    (line,) = [r.getMessage() for r in caplog.records if "max_bytes" in r.getMessage()]
    assert "1 of 24 in train, 0 of 6 in validation, 1 of 9 in test" in line and "31 bytes" in line and "'ää" in line
    assert to_texts(inputs_of(mine, data.tables["train"], (29,))[[5]].numpy()) == ["ä" * 14]
    caplog.clear()
    with caplog.at_level(logging.INFO, "tgt_ray"):
        task(write(tmp_path / "data", "parquet", splits), max_bytes=31).load()
    assert "max_bytes" not in caplog.text


def test_empty_texts_stop_or_are_left_out(tmp_path, splits, caplog):
    splits["train"]["text"][4], splits["train"]["text"][9] = " \n", None
    for kind in ("parquet", "jsonl"):
        source = write(tmp_path / kind, kind, splits)
        with pytest.raises(
            ConfigError, match=r"train\.\w+: has 2 empty texts, the first in row 4; .*task\.data\.on_empty"
        ):
            task(source).load()
        caplog.clear()
        with caplog.at_level(logging.INFO, "tgt_ray"):
            data = task({**source, "on_empty": "skip"}).load()
        assert "has 2 empty texts, the first in row 4; left out" in caplog.text
        ids = [n for n in range(24) if n not in (4, 9)]
        assert data.tables["train"]["id"].to_pylist() == ids
        assert data.labels("train").tolist() == [n % 3 for n in ids]


def test_a_pair_lacking_a_sentence_is_empty(tmp_path, splits):
    splits["test"]["more"][3] = ""
    source = write(tmp_path / "data", "csv", splits)
    task(source).load()
    with pytest.raises(ConfigError, match=r"test\.csv: has 1 empty texts, the first in row 3"):
        task({**source, "pair_column": "more"}).load()


def without(splits, column):
    return {split: {k: v for k, v in rows.items() if k != column} for split, rows in splits.items()}


def renamed(splits, old, new):
    return {split: {new if k == old else k: v for k, v in rows.items()} for split, rows in splits.items()}


def as_words(splits, column):
    """So that no file takes the column for one of dates."""
    return {split: {**rows, column: [f"on {value}" for value in rows[column]]} for split, rows in splits.items()}


def with_labels(splits, labels):
    return {**splits, "test": {**splits["test"], "label": labels}}


WRONG = {
    "no text column": (lambda s: renamed(without(s, "more"), "text", "txt"), {}, ["task.data.text_column", "no column 'text'; did you mean 'txt'?"]),
    "pairs": (lambda s: renamed(as_words(s, "more"), "text", "premise"), {}, ["for pairs give text_column and pair_column, here 'premise' and 'more'"]),
    "no pair column": (lambda s: s, {"pair_column": "mores"}, ["task.data.pair_column", "no column 'mores'; did you mean 'more'?"]),
    "no label column": (lambda s: renamed(s, "label", "labels"), {}, ["task.data.label_column", "no column 'label'; did you mean 'labels'?"]),
    "label missing": (lambda s: with_labels(s, [0, 1, None, 2, 0, 1, None, 1, 2]), {}, ["test", "has 2 null values, the first in row 2", "task.unlabelled set to anchors or ignore"]),
    "label too large": (lambda s: with_labels(s, [0, 1, 2, 3, 0, 1, 2, 1, 2]), {}, ["test", "label 3 in row 3 is outside the class range 0..2"]),
    "label negative": (lambda s: with_labels(s, [0, 1, 2, -1, 0, 1, 2, 1, 2]), {}, ["label -1 in row 3 of", "is no class (1 such rows)", "set task.unlabelled to anchors or ignore"]),
    "no label at all": (lambda s: with_labels(s, [-1] * 9), {}, ["test", "none of its 9 rows has a label"]),
    "a name too few": (lambda s: s, {"label_names": ["a", "b"]}, ["label 2 in row 2 is outside the class range 0..1"]),
    "a name too many": (lambda s: s, {"label_names": ["a", "b", "c", "d"]}, ["class 3 has no row in the train split"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change, keys, expected", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_one_line(tmp_path, kind, splits, change, keys, expected):
    source = write(tmp_path / "data", kind, change(splits))
    with pytest.raises(ConfigError) as refused:
        task({**source, **keys}).load()
    message = str(refused.value)
    assert all(part in message for part in expected), message
    assert "\n" not in message


@pytest.mark.parametrize(("every", "held"), [(5, "20 where"), (14, "can't be read where")])
def test_quotes_that_are_none_swallow_no_rows(tmp_path, every, held):
    """As in GLUE's files: some texts begin with a quote that is never closed, an even or an odd number of them."""
    texts = [f'"said {n}' if n % every == 0 else f"text {n}" for n in range(40)]
    lines = ["text\tlabel", *(f"{text}\t{n % 2}" for n, text in enumerate(texts))]
    for split in ("train", "test"):
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = {"type": "csv", "path": str(tmp_path)}
    with pytest.raises(ConfigError, match=rf"train\.tsv: has 40 rows, or {held} double quotes .*quoted: false"):
        task(source).load()
    assert task({**source, "quoted": False}).load().tables["test"]["text"].to_pylist() == texts
    if every == 5:
        assert len(task({**source, "quoted": True}).load().tables["test"]) == 20


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_texts_over_several_lines_are_counted(tmp_path, kind, splits, caplog):
    for rows in splits.values():
        rows["text"] = [text.replace("\n", " ") for text in rows["text"]]
    splits["train"]["text"][3] = "one\nof" + " two" * 30
    splits["train"]["more"][3], splits["train"]["more"][7] = "also\nhere", "a\rb"
    source = write(tmp_path / "data", kind, splits)
    with caplog.at_level(logging.INFO, "tgt_ray"):
        data = task(source).load()
    assert data.tables["train"]["text"].to_pylist() == splits["train"]["text"]
    (line,) = [r.getMessage() for r in caplog.records if "task.data.quoted: false" in r.getMessage()]
    assert f"train.{kind}: " in line and "in 2 of 24 rows, the first 'one\\nof two" in line and len(line) < 500
    caplog.clear()
    task({**source, "quoted": True}).load()
    assert "quoted" not in caplog.text


def test_quotes_that_join_rows_of_a_csv_are_said(tmp_path, caplog):
    """Nothing tells them from texts over several lines: two rows that begin with a quote are read as one, with all between."""
    texts = [f'"said {n}' if n % 5 == 0 else f"text {n}" for n in range(40)]
    for split in ("train", "test"):
        lines = ["text,label", *(f"{text},{n % 2}" for n, text in enumerate(texts))]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = {"type": "csv", "path": str(tmp_path)}
    assert len(task(source).load().tables["test"]) == 20
    said = [record.getMessage() for record in caplog.records if "task.data.quoted: false" in record.getMessage()]
    assert len(said) == 2 and all("in 4 of 20 rows, the first 'said 0,0\\ntext 1,1" in line for line in said)
    caplog.clear()
    assert task({**source, "quoted": False}).load().tables["test"]["text"].to_pylist() == texts
    assert "quoted" not in caplog.text


@pytest.mark.parametrize("sign", ["+1", "\uff11"])
def test_numbers_that_arrow_does_not_read_are_no_numbers(tmp_path, splits, sign):
    for rows in splits.values():
        rows["label"] = ["0" if number else sign for number in rows["label"]]
    with pytest.raises(ConfigError, match=r"give label_names"):
        task(write(tmp_path / "data", "csv", splits)).load()


@pytest.mark.parametrize("kind", KINDS)
def test_labels_with_a_point_are_no_class_numbers(tmp_path, kind, splits):
    for rows in splits.values():
        rows["label"] = [number / 2 for number in rows["label"]]
    with pytest.raises(
        ConfigError, match=r"expected integers or names of classes|are no integers \('0\.0', '0\.5', '1\.0'\)"
    ):
        task(write(tmp_path / "data", kind, splits)).load()


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_integers_that_pandas_made_floats_of_are_recognised(tmp_path, kind, incomplete):
    splits, _ = incomplete
    splits["train"]["label"] = [None if label is None else float(label) for label in splits["train"]["label"]]
    with pytest.raises(ConfigError, match=r"pandas makes such floats .*astype\('Int64'\)"):
        task(write(tmp_path / "data", kind, splits), unlabelled="anchors").load()


def test_texts_that_are_numbers_are_refused_where_the_file_says_so(tmp_path, splits):
    with pytest.raises(ConfigError, match=r"task\.data\.text_column: column 'id' of .* is int64, expected texts"):
        task({**write(tmp_path / "data", "parquet", splits), "text_column": "id"}).load()
    data = task({**write(tmp_path / "other", "csv", splits), "text_column": "id"})
    with pytest.raises(ConfigError, match=r"task\.data\.pair_column"):
        task({**data.data.model_dump(), "pair_column": "none"}).load()
    assert data.load().tables["test"]["text"].to_pylist() == [str(n) for n in range(9)]


DAMAGED = {
    "a broken row": ("csv", "test.csv", b"text,label\na,0\nb,c,1\n", "Row #3: Expected 2 columns, got 3"),
    "an empty csv": ("csv", "test.csv", b"", "Empty CSV file"),
    "only a header": ("csv", "test.csv", b"text,label\n", "holds no rows"),
    "two columns of one name": ("csv", "test.csv", b"text,text,label\na,b,0\n", "has 2 columns 'text'"),
    "bytes in a csv": ("csv", "test.csv", b"text,label\n\xff,0\n", "invalid UTF8"),
    "no json": ("jsonl", "test.jsonl", b'{"text": "a", "label": 0}\n{"text": \n', "line 2 is no JSON object: '{\"text\":'"),
    "json, no object": ("jsonl", "test.jsonl", b'{"text": "a", "label": 0}\n[1]\n', "line 2 is no JSON object: '[1]'"),
    "labels of two types": ("jsonl", "test.jsonl", b'{"text": "a", "label": 0}\n{"text": "b", "label": "x"}\n', "label) changed from number"),
    "bytes in a json": ("jsonl", "test.jsonl", b'{"text": "\xff", "label": 0}\n', "no UTF-8"),
    "no parquet": ("parquet", "test.parquet", b"PAR1 and so on", "not a readable Parquet file"),
    "no names": ("parquet", "labels.json", b"{}", "expected a list of class names"),
}  # fmt: skip


@pytest.mark.parametrize("kind, file, content, expected", DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_refused_with_their_name(tmp_path, splits, kind, file, content, expected):
    source = write(tmp_path / "data", kind, splits)
    (tmp_path / "data" / file).write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        task(source).load()
    assert file in str(refused.value) and expected in str(refused.value) and "\n" not in str(refused.value)


def test_missing_folders_and_files_are_refused(tmp_path, splits):
    source = write(tmp_path / "data", "csv", splits)
    with pytest.raises(ConfigError, match=r"task\.data\.path: no folder at .*nowhere"):
        task({**source, "path": str(tmp_path / "nowhere")}).load()
    with pytest.raises(ConfigError, match=r"no file train\.parquet in .*; did you mean 'train\.csv'\?"):
        task({**source, "type": "parquet"}).load()
    write(tmp_path / "data", "tsv", splits)
    with pytest.raises(ConfigError, match=r"has both train\.csv and train\.tsv; keep one"):
        task(source).load()
    with pytest.raises(ConfigError, match="no split 'trian'; did you mean 'train'"):
        task({**write(tmp_path / "data", "huggingface", splits), "train": "trian"}).load()
    with pytest.raises(ConfigError, match="no folder at /nowhere"):
        task({"type": "huggingface", "path": "/nowhere"}).load()


def test_a_data_set_without_splits_is_refused(tmp_path, splits):
    datasets.Dataset.from_dict(splits["train"]).save_to_disk(tmp_path / "hf")
    source = {"type": "huggingface", "path": str(tmp_path / "hf"), "validation": "dev"}
    with pytest.raises(ConfigError) as refused:
        task(source).load()
    assert "task.data.path" in str(refused.value) and "\n" not in str(refused.value)
    assert "needed is a DatasetDict with the splits 'train', 'test', 'dev'" in str(refused.value)


@pytest.mark.parametrize(
    "more, expected",
    [
        ({"data": {"type": "parquet", "path": "x", "pair_column": "text"}}, "must differ"),
        ({"data": {"type": "parquet", "path": "x", "label_names": ["a", "a"]}}, "a name comes twice"),
        ({"data": {"type": "parket", "path": "x"}}, "did you mean 'parquet'"),
        ({"labelled": {"rows": 6}, "long_tail": {"head": 5, "imbalance": 2}}, "labelled and long_tail exclude each other"),
        ({"unlabelled": "anchor"}, "unlabelled: .*'ignore' or 'anchors'"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(more, expected):
    source = more.pop("data", {"type": "parquet", "path": "x"})
    with pytest.raises(ConfigError, match=expected):
        task(source, **more)


def test_the_data_of_texts_has_no_default():
    with pytest.raises(ConfigError, match="data: Field required"):
        validate(TextClassification, {"type": "text_classification"})


def test_a_long_tail_of_texts(tmp_path, splits):
    data = task(write(tmp_path / "data", "csv", splits), long_tail=LongTail(head=8, imbalance=4)).load()
    assert data.class_counts.tolist() == [8, 4, 2] and data.tables["full"].num_rows == 24


# Few labels


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.data())
@settings(deadline=None)
def test_labelled_rows_are_spread_over_the_classes(there, draw):
    rows = draw.draw(st.integers(len(there), sum(there)))
    counts = Labelled(rows=rows).counts(np.array(there))
    assert counts.sum() == rows and (counts >= 1).all() and (counts <= there).all()
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(there)), there))
    chosen = Labelled(rows=rows).choose(labels, len(there))
    np.testing.assert_array_equal(np.bincount(labels[chosen]), counts)
    assert len(set(chosen.tolist())) == rows and sorted(chosen) == chosen.tolist()


def test_labelled_rows_follow_their_seed_and_are_as_many_as_there_can_be():
    labels = np.repeat([0, 1], [90, 10])
    chosen = [Labelled(rows=20, seed=seed).choose(labels, 2).tolist() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(Labelled(rows=30, stratified=False).choose(labels, 2)) == 30
    with pytest.raises(ConfigError, match=r"task\.labelled\.rows: 101 is more than the 100 rows"):
        Labelled(rows=101).choose(labels, 2)
    with pytest.raises(ConfigError, match=r"task\.labelled\.rows: 1 is less than the 2 classes"):
        Labelled(rows=1).choose(labels, 2)
    with pytest.raises(ConfigError, match=r"leave class 1 without any; .*stratified: true"):
        Labelled(rows=2, stratified=False).choose(labels, 2)


@pytest.fixture
def few(tmp_path, splits):
    return task(write(tmp_path / "data", "parquet", splits), labelled={"rows": 9})


def test_what_has_no_label_is_a_table_of_its_own(few, tmp_path):
    data = few.load()
    assert data.tables["train"].num_rows == 9 and data.class_counts.tolist() == [3, 3, 3]
    ids = {split: data.tables[split]["id"].to_pylist() for split in ("train", "unlabelled", "full")}
    assert sorted(ids["train"] + ids["unlabelled"]) == ids["full"] == list(range(24))
    assert set(data.labels("unlabelled")) == {-1}
    assert sorted(np.flatnonzero(data.labels("full") >= 0)) == ids["train"]
    ignored = few.model_copy(update={"unlabelled": "ignore"}).load()
    assert ignored.tables.keys() == {"train", "full", "validation", "test"}
    assert ignored.tables["full"].equals(data.tables["full"]), "so that both have one teacher"
    every = few.model_copy(update={"labelled": Labelled(rows=24)}).load()
    assert "unlabelled" not in every.tables and every.class_counts.tolist() == [8, 8, 8]


def test_anchors_without_labels_have_those_that_the_labeler_gives_them(few, tmp_path):
    data, storage = few.load(), Storage(tmp_path / "storage")
    teacher = {"labeler": {"fingerprint": "a"}, "generator": {"fingerprint": "b"}}
    passed = []

    def teacher_pass(asked):
        passed.extend(len(table) for table, _ in asked)
        said = []
        for table, _ in asked:
            ids = table["id"].to_numpy()
            latent, top = ids[:, None].astype(np.float32), (ids + 1) % 3
            logits = np.eye(3, dtype=np.float32)[top]
            said.append({"logits": logits, "latent": latent, "top_class": top, "top_share": np.ones(len(ids))})
        return said

    def ready(teacher_pass):
        # An objective that looks at validation rows too, and a generator with latents that can be kept.
        objectives, generator = [Distillation(conformal={})], MLPAutoencoderGenerator()
        return prepare(data, teacher, generator, objectives, teacher_pass, storage)

    prepared = ready(teacher_pass)
    assert passed == [9, 6, 15]
    ids = np.concatenate([data.tables[split]["id"].to_numpy() for split in ("train", "unlabelled")])
    np.testing.assert_array_equal(prepared.anchors.ids, ids)
    np.testing.assert_array_equal(prepared.anchors.latents[:, 0], ids)
    np.testing.assert_array_equal(prepared.anchors.labels[:9], data.labels("train"))
    np.testing.assert_array_equal(prepared.anchors.labels[9:], (ids[9:] + 1) % 3)
    assert prepared.student.class_counts.tolist() == [3, 3, 3]
    assert prepared.student.tables["unlabelled"].equals(data.tables["unlabelled"])
    assert prepared.student.columns["logits"].shape == (9, 3)
    again = ready(lambda asked: pytest.fail("labelled again"))
    np.testing.assert_array_equal(again.anchors.labels, prepared.anchors.labels)
    del data.tables["unlabelled"]
    alone = ready(lambda asked: pytest.fail("labelled again"))
    assert len(alone.anchors.ids) == 9 and "unlabelled" not in alone.student.tables


def test_labels_that_are_not_to_be_used_change_nothing(tmp_path, splits):
    """Other labels in rows that have none: the same data, so the same teacher."""
    few = task(write(tmp_path / "data", "parquet", splits), labelled={"rows": 9, "stratified": False})
    before = few.load()
    for row in before.tables["unlabelled"]["id"].to_pylist():
        splits["train"]["label"][row] = (splits["train"]["label"][row] + 1) % 3
    write(tmp_path / "data", "parquet", splits)
    after = few.load()
    assert after.fingerprints == before.fingerprints
    assert all(table.equals(before.tables[split]) for split, table in after.tables.items())


@pytest.fixture
def incomplete(splits):
    """A label missing in every fourth row of train and in two rows of test, and the rows of train that have one."""
    for split, rows in (("train", range(0, 24, 4)), ("test", (4, 8))):
        for row in rows:
            splits[split]["label"][row] = None
    return splits, [row for row in range(24) if row % 4]


def with_missing_as(splits, value):
    return {
        split: {**rows, "label": [value if label is None else label for label in rows["label"]]}
        for split, rows in splits.items()
    }


def as_names(splits):
    return {
        split: {**rows, "label": [None if label is None else CLASSES[label] for label in rows["label"]]}
        for split, rows in splits.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", ["null", "-1", "names and empty", "names and null"])
def test_rows_without_labels_are_unlabelled_where_that_is_permitted(tmp_path, kind, incomplete, missing, caplog):
    splits, known = incomplete
    more = {}
    if "names" in missing:
        splits, more = as_names(splits), {"label_names": CLASSES}
    if missing != "null":
        splits = with_missing_as(splits, {"-1": -1, "names and empty": " ", "names and null": None}[missing])
    source = {**write(tmp_path / "data", kind, splits), **more}
    with pytest.raises(ConfigError, match=r"6 (null values|such rows).*task\.unlabelled .*anchors or ignore"):
        task(source).load()
    with caplog.at_level(logging.INFO, "tgt_ray"):
        data = task(source, unlabelled="anchors").load()
    said = [record.getMessage() for record in caplog.records if "no label" in record.getMessage()]
    assert len(said) == 2
    assert said[0].endswith("6 of 24 rows have no label; unlabelled rows") and "train" in said[0]
    assert said[1].endswith("2 of 9 rows have no label; left out") and "test" in said[1]
    ids = {split: data.tables[split]["id"].to_pylist() for split in data.tables}
    assert ids["train"] == known and ids["unlabelled"] == list(range(0, 24, 4)) and ids["full"] == list(range(24))
    assert set(data.labels("unlabelled")) == {-1} and data.class_counts.tolist() == [6, 6, 6]
    assert np.flatnonzero(data.labels("full") >= 0).tolist() == known
    assert ids["test"] == [0, 1, 2, 3, 5, 6, 7] and data.labels("test").tolist() == [0, 1, 2, 0, 2, 0, 1]
    assert data.tables["unlabelled"]["text"].to_pylist() == splits["train"]["text"][::4]
    caplog.clear()
    with caplog.at_level(logging.INFO, "tgt_ray"):
        ignored = task(source, unlabelled="ignore").load()
    assert "6 of 24 rows have no label; left out" in caplog.text
    assert "unlabelled" not in ignored.tables and ignored.tables["full"].equals(ignored.tables["train"])
    assert all(ignored.tables[split].equals(data.tables[split]) for split in ("train", "validation", "test"))


@pytest.mark.parametrize("stratified", [True, False])
def test_rows_without_labels_change_nothing_for_those_with_labels(tmp_path, splits, stratified):
    """Validation and labelled rows are the same ones, with texts without labels between and after the others."""
    del splits["validation"]
    few = {"rows": 9, "stratified": stratified}
    plain = task(write(tmp_path / "plain", "parquet", splits), labelled=few).load()
    train = {name: list(values) for name, values in splits["train"].items()}
    for row in (0, 7, 26):
        for name, value in (("text", f"no label {row}"), ("more", "x"), ("label", None), ("id", 0)):
            train[name].insert(row, value)
    mine = task(
        write(tmp_path / "more", "parquet", {**splits, "train": train}), labelled=few, unlabelled="anchors"
    ).load()
    for split in ("train", "validation"):
        assert mine.tables[split].drop_columns("id").equals(plain.tables[split].drop_columns("id"))
    assert mine.tables["unlabelled"].num_rows == plain.tables["unlabelled"].num_rows + 3
    texts = mine.tables["unlabelled"]["text"].to_pylist()
    assert sorted(text for text in texts if text.startswith("no label")) == ["no label 0", "no label 26", "no label 7"]
    assert set(mine.labels("unlabelled")) == {-1} and mine.tables["full"].num_rows == plain.tables["full"].num_rows + 3
    with pytest.raises(ConfigError, match=r"task\.labelled\.rows: 22 is more than the 21 rows with labels"):
        few["rows"] = 22
        task({"type": "parquet", "path": str(tmp_path / "more")}, labelled=few, unlabelled="anchors").load()


def test_a_long_tail_leaves_rows_with_labels_over(tmp_path, incomplete):
    splits, _ = incomplete
    source, tail = write(tmp_path / "data", "csv", splits), LongTail(head=4, imbalance=2)
    data = task(source, long_tail=tail, unlabelled="anchors").load()
    assert data.class_counts.tolist() == [4, 3, 2] and data.tables["full"].num_rows == 24
    assert data.tables["unlabelled"]["id"].to_pylist() == list(range(0, 24, 4))


def test_minus_one_may_be_a_class(tmp_path, splits):
    for rows in splits.values():
        rows["label"] = [-1 if n % 2 else 1 for n in range(len(rows["label"]))]
    splits["train"]["label"][4] = None
    source = write(tmp_path / "data", "parquet", splits)
    with pytest.raises(ConfigError, match=r"label -1 in row 1 .* where it is a class, give task\.data\.label_names"):
        task(source).load()
    data = task({**source, "label_names": [-1, 1]}, unlabelled="anchors").load()
    assert data.class_counts.tolist() == [12, 11] and data.tables["unlabelled"]["id"].to_pylist() == [4]


def test_empty_texts_without_labels_are_counted_where_they_stay(tmp_path, incomplete):
    splits, _ = incomplete
    splits["train"]["text"][8] = splits["test"]["text"][4] = ""
    source = write(tmp_path / "data", "parquet", splits)
    with pytest.raises(ConfigError, match=r"train\.parquet: has 1 empty texts, the first in row 8"):
        task(source, unlabelled="anchors").load()
    assert task(source, unlabelled="ignore").load().tables["train"].num_rows == 18
    splits["train"]["text"][7] = ""
    write(tmp_path / "data", "parquet", splits)
    with pytest.raises(ConfigError, match=r"train\.parquet: has 1 empty texts, the first in row 7"):
        task(source, unlabelled="ignore").load()


def test_anchors_without_any_are_refused(tmp_path, splits):
    source = write(tmp_path / "data", "csv", splits)
    for more in ({}, {"labelled": {"rows": 24}}):
        with pytest.raises(
            ConfigError, match=r"task\.unlabelled: 'anchors', but every row of the train split has a label"
        ):
            task(source, unlabelled="anchors", **more).load()
    assert task(source, unlabelled="ignore").load().fingerprints == task(source).load().fingerprints


REAL = {
    "sst2": ({}, (6920, 872, 1821), 2),
    "trec6": ({}, (4904, 548, 500), 6),
    "banking77": ({}, (8965, 1038, 3080), 77),
    "sick_nli": ({"text_column": "premise", "pair_column": "hypothesis"}, (4500, 500, 4927), 3),
}


@pytest.mark.parametrize("name", REAL)
def test_real_texts_load(data_folder, name):
    columns, sizes, classes = REAL[name]
    source = {"type": "parquet", "path": str(data_folder / "text" / name), **columns}
    data = task(source, labelled={"rows": 500}).load()
    assert data.num_classes == classes == len(data.class_names) and data.class_counts.sum() == 500
    assert [data.tables[split].num_rows for split in ("full", "validation", "test")] == list(sizes)
    assert data.class_counts.min() >= 1 and data.tables["unlabelled"].num_rows == sizes[0] - 500
    pairs = [SEPARATOR in text for text in data.tables["test"]["text"].to_pylist()]
    assert all(pairs) if columns else not any(pairs)


def test_pairs_that_are_taken_for_single_texts_are_recognised(data_folder):
    with pytest.raises(
        ConfigError, match="for pairs give text_column and pair_column, here 'premise' and 'hypothesis'"
    ):
        task({"type": "parquet", "path": str(data_folder / "text" / "sick_nli")}).load()
