"""Sources of texts, and what they refuse."""

import json
import logging

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.helpers.text_files import CLASSES, COUNTS, KINDS, task, write
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.texts import SEPARATOR, to_texts
from tgt_ray.data import LongTail
from tgt_ray.tasks import TextClassification, inputs_of


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
    with pytest.raises(ConfigError, match=r"not integers \('bad', 'fair', 'good'\); .* give label_names"):
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
    "no text column": (
        lambda s: renamed(without(s, "more"), "text", "txt"),
        {},
        ["task.data.text_column", "no column 'text'; did you mean 'txt'?"],
    ),
    "pairs": (
        lambda s: renamed(as_words(s, "more"), "text", "premise"),
        {},
        ["for pairs give text_column and pair_column, here 'premise' and 'more'"],
    ),
    "no pair column": (
        lambda s: s,
        {"pair_column": "mores"},
        ["task.data.pair_column", "no column 'mores'; did you mean 'more'?"],
    ),
    "no label column": (
        lambda s: renamed(s, "label", "labels"),
        {},
        ["task.data.label_column", "no column 'label'; did you mean 'labels'?"],
    ),
    "label missing": (
        lambda s: with_labels(s, [0, 1, None, 2, 0, 1, None, 1, 2]),
        {},
        ["test", "has 2 null values, the first in row 2", "task.unlabelled set to anchors or ignore"],
    ),
    "label too large": (
        lambda s: with_labels(s, [0, 1, 2, 3, 0, 1, 2, 1, 2]),
        {},
        ["test", "label 3 in row 3 is outside the class range 0..2"],
    ),
    "label negative": (
        lambda s: with_labels(s, [0, 1, 2, -1, 0, 1, 2, 1, 2]),
        {},
        ["label -1 in row 3 of", "is not a class (1 such rows)", "set task.unlabelled to anchors or ignore"],
    ),
    "no label at all": (lambda s: with_labels(s, [-1] * 9), {}, ["test", "none of its 9 rows has a label"]),
    "a name too few": (lambda s: s, {"label_names": ["a", "b"]}, ["label 2 in row 2 is outside the class range 0..1"]),
    "a name too many": (lambda s: s, {"label_names": ["a", "b", "c", "d"]}, ["class 3 has no row in the train split"]),
}


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


def test_quotes_that_join_rows_of_a_csv_are_refused(tmp_path, caplog):
    """Rows from one quote to the next would be read as one, which goes on after the second quote."""
    texts = [f'"said {n}' if n % 5 == 0 else f"text {n}" for n in range(40)]
    for split in ("train", "test"):
        lines = ["text,label", *(f"{text},{n % 2}" for n, text in enumerate(texts))]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = {"type": "csv", "path": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"train\.csv: line 7: .* after its closing .* set task\.data\.quoted: false"):
        task(source).load()
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
        ConfigError, match=r"expected integers or names of classes|are not integers \('0\.0', '0\.5', '1\.0'\)"
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
    "bytes in a csv": ("csv", "test.csv", b"text,label\n\xff,0\n", "line 2 is not UTF-8 at byte 0xff"),
    "no json": (
        "jsonl",
        "test.jsonl",
        b'{"text": "a", "label": 0}\n{"text": \n',
        "line 2 is not a JSON object: '{\"text\":'",
    ),
    "json, no object": (
        "jsonl",
        "test.jsonl",
        b'{"text": "a", "label": 0}\n[1]\n',
        "line 2 is not a JSON object: '[1]'",
    ),
    "labels of two types": (
        "jsonl",
        "test.jsonl",
        b'{"text": "a", "label": 0}\n{"text": "b", "label": "x"}\n',
        "line 2: 'label' is a text ('x'), in line 1 it is a number",
    ),
    "bytes in a json": ("jsonl", "test.jsonl", b'{"text": "\xff", "label": 0}\n', "not UTF-8"),
    "no parquet": ("parquet", "test.parquet", b"PAR1 and so on", "not a readable Parquet file"),
    "no names": ("parquet", "labels.json", b"{}", "expected a list of class names"),
}


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
    assert "save a DatasetDict with the splits 'train', 'test', 'dev' instead" in str(refused.value)


@pytest.mark.parametrize(
    "more, expected",
    [
        ({"data": {"type": "parquet", "path": "x", "pair_column": "text"}}, "must differ"),
        ({"data": {"type": "parquet", "path": "x", "label_names": ["a", "a"]}}, "a name comes twice"),
        ({"data": {"type": "parket", "path": "x"}}, "did you mean 'parquet'"),
        (
            {"labelled": {"rows": 6}, "long_tail": {"head": 5, "imbalance": 2}},
            "labelled and long_tail exclude each other",
        ),
        ({"unlabelled": "anchor"}, "unlabelled: .*'ignore' or 'anchors'"),
    ],
)
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
