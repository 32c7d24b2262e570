"""Tables and labels that are nearly right: each is read as it is meant, or refused in a line that names the fault."""

import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.retrieval import corpus, write
from tests.helpers.text_files import task
from tgt_ray.core.errors import ConfigError
from tgt_ray.data import BeirFolder, ImageLists
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


def texts(*labels):
    return [{"text": f"{label} {row}", "label": label} for row, label in enumerate(labels)]


def parquet_texts(folder, **files):
    """A source of Parquet files, in which these have other columns or another name."""
    folder.mkdir(exist_ok=True)
    for name, columns in {"train": None, "validation": None, "test": None, **files}.items():
        if columns is not False:
            table = pa.Table.from_pylist(texts(0, 1, 0, 1)) if columns is None else columns
            (folder / name).parent.mkdir(exist_ok=True)
            pq.write_table(table, folder / f"{name}.parquet")
    return {"type": "parquet", "path": str(folder)}


def test_a_shard_may_have_no_rows(tmp_path):
    rows, nothing = pa.Table.from_pylist(texts(1, 0, 1, 0)), pa.table({"text": pa.nulls(0), "label": pa.nulls(0)})
    shards = [f"train-0000{n}-of-00002" for n in range(2)]
    source = parquet_texts(tmp_path / "x", train=False, **{shards[0]: rows, shards[1]: nothing})
    assert task(source).load().labels("train").tolist() == [1, 0, 1, 0]
    for each in shards:
        pq.write_table(nothing, tmp_path / "x" / f"{each}.parquet")
    with pytest.raises(ConfigError, match=r"train-\*-of-00002.parquet: holds no rows"):
        task(source).load()
    lines = tmp_path / "lines"
    lines.mkdir()
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation", "test"):
        rows = "" if name == "train-00001-of-00002" else "".join(json.dumps(row) + "\n" for row in texts(0, 1, 0, 1))
        (lines / f"{name}.jsonl").write_text(rows)
    assert len(task({"type": "jsonl", "path": str(lines)}).load().tables["train"]) == 4
    for kind, content in (("csv", "text,label\n"), ("json", "[]")):
        folder = tmp_path / f"{kind} {len(content)}"
        csv_texts(folder, "0101")
        if kind == "json":
            for file in folder.iterdir():
                rows = [dict(zip(("text", "label"), line.split(","), strict=True)) for line in file.open()][1:]
                file.write_text(json.dumps(rows))
                file.rename(file.with_suffix(".json"))
        (folder / f"train.{kind}").rename(folder / f"train-00000-of-00002.{kind}")
        (folder / f"train-00001-of-00002.{kind}").write_text(content)
        source = {"type": kind.replace("json", "jsonl"), "path": str(folder)}
        assert task(source).load().labels("train").tolist() == [0, 1, 0, 1]
    (lines / "test.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"test\.jsonl: holds no rows"):
        task({"type": "jsonl", "path": str(lines)}).load()


def test_folders_that_spark_writes(tmp_path):
    rows, name = pa.Table.from_pylist(texts(1, 0, 1, 0)), "train.parquet/part-0000{}-5f3a-c000.snappy"
    source = parquet_texts(tmp_path / "x", train=False, **{name.format(n): rows for n in range(2)})
    (tmp_path / "x" / "train.parquet" / "_SUCCESS").write_text("")
    assert task(source).load().labels("train").tolist() == [1, 0, 1, 0] * 2
    for file in (tmp_path / "x" / "train.parquet").glob("part*"):
        file.unlink()
    with pytest.raises(ConfigError, match=r"train\.parquet is a folder without files of this kind"):
        task(source).load()


ODD = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n", "a pointer of Git LFS"),
    "page": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "a web page"),
    "gzip": (gzip.compress(b"text,label\na,0\n"), r"packed by gzip; call it .*\.gz"),
    "zip": (b"PK\x03\x04\x14\x00\x06\x00", "a zip archive, as Excel"),
}


@pytest.mark.parametrize("what", ODD)
def test_files_of_another_kind_are_named(tmp_path, what):
    content, said = ODD[what]
    for kind in ("csv", "jsonl", "parquet"):
        folder = tmp_path / kind
        folder.mkdir()
        for split in ("train", "test"):
            (folder / f"{split}.{kind}").write_bytes(content)
        with pytest.raises(ConfigError, match=rf"train\.{kind}: .*is {said}"):
            task({"type": kind, "path": str(folder)}).load()
    beir = write(tmp_path / "beir")
    (beir / "corpus.parquet").unlink()
    (beir / "corpus.jsonl").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"corpus\.jsonl: is {said}"):
        BeirFolder(path=str(beir)).scan()


def test_rows_may_be_web_pages(tmp_path):
    source = csv_texts(tmp_path / "x", "0101", columns=["text", "label"])
    for file in (tmp_path / "x").iterdir():
        file.write_text("".join(f"<html> {file.stem} {n},{n % 2}\n" for n in range(4)))
    assert task(source).load().tables["test"]["text"][0].as_py() == "<html> test 0"


def test_packed_files_and_lines_may_be_of_another_kind(tmp_path):
    source = csv_texts(tmp_path / "x", "0101")
    (tmp_path / "x" / "unlabelled.txt").write_text("<html> is a tag\n<b> as well\n")
    assert len(task(source, unlabelled="anchors").load().tables["unlabelled"]) == 2
    (tmp_path / "x" / "train.csv").rename(tmp_path / "x" / "train.csv.gz")
    (tmp_path / "x" / "train.csv.gz").write_bytes(ODD["lfs"][0])
    with pytest.raises(ConfigError, match=r"train\.csv\.gz: is a pointer of Git LFS"):
        task(source).load()


def test_lists_of_images_have_labels_of_one_form(tmp_path):
    lists = {"train": "train.csv", "test": "train.csv"}
    for labels, names, said in (
        (("0", "00", "1", "1"), None, "has the labels '0' and '00', which are one number"),
        ("0101", ("1", "2"), "label '0' in row 0 .* none of the class names"),
    ):
        rows = [f"{n}.png,{label}\n" for n, label in enumerate(labels)]
        (tmp_path / "train.csv").write_text("file_name,label\n" + "".join(rows))
        with pytest.raises(ConfigError, match=said):
            ImageLists(path=str(tmp_path), label_names=names, **lists).scan()
    (tmp_path / "train.txt").write_text("0.png 0\n1.png 1\n")
    with pytest.raises(ConfigError, match=r"label '0' in row 0 .* none of the class names"):
        ImageLists(path=str(tmp_path), label_names=("1", "2"), train="train.txt", test="train.txt").scan()


def test_a_parquet_file_with_another_suffix(tmp_path):
    source = parquet_texts(tmp_path / "x")
    for file in (tmp_path / "x").iterdir():
        file.rename(file.with_suffix(".csv"))
    with pytest.raises(ConfigError, match=r"train\.csv: is a Parquet file; give it the suffix"):
        task({**source, "type": "csv"}).load()


def test_the_line_for_excel_is_named(tmp_path):
    source = csv_texts(tmp_path / "x", "0101")
    for file in (tmp_path / "x").iterdir():
        file.write_text("sep=;\n" + file.read_text().replace(",", ";"))
    with pytest.raises(ConfigError, match="begins with the line 'sep=;', which is for Excel alone; remove it"):
        task(source).load()
    with pytest.raises(ConfigError, match="for Excel alone"):
        task({**source, "delimiter": ";", "columns": ["text", "label"]}).load()


def corpus_lines(folder, *rows):
    beir = write(folder)
    (beir / "corpus.parquet").unlink()
    (beir / "corpus.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in (*corpus(), *rows)))
    return BeirFolder(path=str(beir))


def test_values_of_json_lines_are_refused_with_their_line(tmp_path):
    rows = corpus()
    with pytest.raises(ConfigError, match=rf"line {len(rows) + 1}: 'title' is a number \(2020\), expected a text"):
        corpus_lines(tmp_path / "a", {"_id": "x", "title": 2020, "text": "y"}).scan()
    with pytest.raises(ConfigError, match=rf"line {len(rows) + 1}: 'text' has .*, the first is '.ud800'"):
        corpus_lines(tmp_path / "b", {"_id": "x", "title": "", "text": "\ud800"}).scan()
    assert len(corpus_lines(tmp_path / "c", {"_id": 2**64, "text": "y"}).scan().documents) == len(rows) + 1
    for kind in ("jsonl", "json"):
        folder = tmp_path / kind
        folder.mkdir()
        lines = [json.dumps(row) for row in texts(0, 1, 0, 1)]
        for split in ("train", "validation", "test"):
            rows = [*lines, '{"text": "a", "label": 1, "more": 1, "more": 2}']
            (folder / f"{split}.{kind}").write_text("\n".join(rows) if kind == "jsonl" else f"[{','.join(rows)}]")
        source = {"type": "jsonl", "path": str(folder)}
        assert len(task(source).load().tables["train"]) == 5
        rows = [*lines, '{"text": "a", "text": "b", "label": 1}']
        (folder / f"train.{kind}").write_text("\n".join(rows) if kind == "jsonl" else f"[{','.join(rows)}]")
        with pytest.raises(ConfigError, match=r"(line|entry) 5: the key 'text' is given twice"):
            task(source).load()
        rows = [*lines, f'{{"text": "a", "label": {2**64}}}']
        (folder / f"train.{kind}").write_text("\n".join(rows) if kind == "jsonl" else f"[{','.join(rows)}]")
        with pytest.raises(ConfigError, match=rf"(line|entry) 5: 'label' has .*, the first is {2**64}"):
            task(source).load()


def test_data_sets_that_were_not_saved_or_fetched_are_named(tmp_path):
    folder = tmp_path / "hf"
    rows = datasets.Dataset.from_list(texts(0, 1, 0, 1))
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(folder)
    source = {"type": "huggingface", "path": str(folder)}
    arrow, state, splits = (
        next(folder.glob(name)) for name in ("train/*.arrow", "train/state.json", "dataset_dict.json")
    )
    for file, content, said in (
        (splits, b"{}", r"dataset_dict\.json has no list 'splits'; save the data set again"),
        (state, b"{}", r"state\.json has no list '_data_files'; save"),
        (arrow, ODD["lfs"][0], r"\.arrow is a pointer of Git LFS"),
    ):
        before = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=f"cannot load the data set .*{said}"):
            task(source).load()
        file.write_bytes(before)
    assert len(task(source).load().tables["test"]) == 4


def test_judgements_with_another_suffix_are_named(tmp_path):
    beir = write(tmp_path / "beir")
    (beir / "qrels" / "test.parquet").rename(beir / "qrels" / "test.csv")
    with pytest.raises(ConfigError, match=r"no file qrels/test .* in .*; there is test\.csv, which is not read"):
        BeirFolder(path=str(beir)).scan()


def test_a_text_with_two_labels_is_said(tmp_path, caplog):
    source = csv_texts(tmp_path / "x", "0101")
    task(source).load()
    assert "more than one label" not in caplog.text
    (tmp_path / "x" / "train.csv").write_text("text,label\na,0\nb,1\na,1\nb,0\nc,0\nc,0\n")
    assert len(task(source).load().tables["train"]) == 6
    assert "train.csv: 2 texts come with more than one label, the first in row 0, 'a'" in caplog.text


def test_one_class_is_none(tmp_path):
    for labels, names in (("00", None), ("aa", ["a"])):
        with pytest.raises(ConfigError, match=r"train\.csv: column 'label' .* has one class alone; at least 2"):
            task(csv_texts(tmp_path / "x", labels, labels, label_names=names)).load()
