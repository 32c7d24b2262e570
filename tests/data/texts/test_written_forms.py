"""Files of texts as people have them: names of splits, shards, encodings, delimiters, quotes, labels."""

import gzip
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.text_files import task
from tgt_ray.core.errors import ConfigError

ROWS = {split: [(f"{split} {word} {n}", "bad" if n % 2 else "good") for n in range(6)] for split, word in
        (("train", "film"), ("test", "play"), ("validation", "song"))}  # fmt: skip
NAMES = {"label_names": ["bad", "good"]}


def write(folder, form="{},{}".format, head="text,label", kind="csv", encoding="utf-8", names=("validation",)):
    """A file for train, for test and for each of the other names."""
    folder.mkdir(exist_ok=True)
    for name in ("train", "test", *names):
        lines = [head] if head else []
        lines += [form(text, label) for text, label in ROWS[name if name in ROWS else "validation"]]
        (folder / f"{name}.{kind}").write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    return {"type": "csv" if kind == "tsv" else kind, "path": str(folder), **NAMES}


def refused(source, **more):
    with pytest.raises(ConfigError) as err:
        task(source, **more).scan()
    return str(err.value)


def texts(data, split="train"):
    return data.tables[split]["text"].to_pylist()


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_validation_has_several_names(tmp_path, name):
    data = task(write(tmp_path / "x", names=(name,))).scan()
    assert texts(data, "validation") == [text for text, _ in ROWS["validation"]] and len(texts(data)) == 6


def test_two_names_of_validation_are_refused(tmp_path):
    assert "has both valid and dev; keep one" in refused(write(tmp_path / "x", names=("dev", "valid")))


def test_what_is_not_read_is_counted_by_its_reason(tmp_path):
    source = write(tmp_path / "x")
    for name in ("._train.csv", ".DS_Store", "train_old.csv", "test.parquet"):
        (tmp_path / "x" / name).write_bytes(b"any")
    (tmp_path / "x" / "more").mkdir()
    (tmp_path / "x" / "labels.json").write_text('["bad", "good"]')
    data = task(source).scan()
    found = {each.what.split(" (")[0]: (each.count, each.first) for each in data.left_out}
    assert found == {
        "hidden files": (2, ".DS_Store"),
        "folders that are not entered": (1, "more"),
        "files that are no split's": (2, "test.parquet"),
    }


def shards(folder, kind):
    folder.mkdir()
    for split, rows in ROWS.items():
        for number in range(3):
            part = [{"text": text, "label": label} for text, label in rows[2 * number : 2 * number + 2]]
            file = folder / f"{split}-0000{number}-of-00003.{kind}"
            if kind == "parquet":
                pq.write_table(pa.Table.from_pylist(part), file)
            elif kind == "jsonl":
                file.write_text("".join(json.dumps(row) + "\n" for row in part))
            else:
                file.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in part))
    return {"type": kind, "path": str(folder), **NAMES}


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_shards_are_read_in_order_and_all_of_them(tmp_path, kind):
    source = shards(tmp_path / "x", kind)
    data = task(source).scan()
    for split, rows in ROWS.items():
        assert texts(data, split) == [text for text, _ in rows]
    assert data.left_out == ()
    (tmp_path / "x" / f"train-00001-of-00003.{kind}").unlink()
    said = refused(source)
    assert f"has 2 of 3 shards of train; the first that is missing is train-00001-of-00003.{kind}" in said
    (tmp_path / "x" / f"train.{kind}").write_bytes((tmp_path / "x" / f"train-00000-of-00003.{kind}").read_bytes())
    assert f"has both train.{kind} and train-00000-of-00003.{kind}; keep one" in refused(source)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_a_shard_that_is_there_twice_or_too_many_is_refused(tmp_path, kind):
    source = shards(tmp_path / "x", kind)
    first = (tmp_path / "x" / f"train-00000-of-00003.{kind}").read_bytes()
    (tmp_path / "x" / f"train-0-of-00003.{kind}").write_bytes(first)
    assert "has two files for shard 0 of train" in refused(source)
    (tmp_path / "x" / f"train-0-of-00003.{kind}").rename(tmp_path / "x" / f"train-00003-of-00003.{kind}")
    assert f"has 4 shards of train, which has 3: train-00003-of-00003.{kind} is too many" in refused(source)


def test_names_of_splits_and_hashes_of_hubs_are_known(tmp_path):
    source = shards(tmp_path / "x", "csv")
    for file in list((tmp_path / "x").iterdir()):
        name = file.name.replace("train", "Training").replace(".csv", "-0123456789abcdef.csv")
        file.rename(tmp_path / "x" / name)
    (tmp_path / "x" / "Thumbs.db").write_bytes(b"any")
    data = task(source).scan()
    assert texts(data, "train") == [text for text, _ in ROWS["train"]]
    assert [(each.what, each.count) for each in data.left_out] == [("hidden files", 1)]


@pytest.mark.parametrize("inner", ["data", "plain_text"])
def test_the_one_folder_that_has_splits_is_entered(tmp_path, inner):
    """Hubs have the files in `data`, or in a folder with the name of a configuration."""
    write(tmp_path / inner)
    (tmp_path / "README.md").write_text("any")
    (tmp_path / inner / "more.csv").write_text("any")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "labels.json").write_text('["bad", "good"]')
    data = task({"type": "csv", "path": str(tmp_path)}).scan()
    assert texts(data) == [text for text, _ in ROWS["train"]] and data.class_names == ("bad", "good")
    found = {each.what.split(" (")[0]: (each.count, each.first) for each in data.left_out}
    assert found == {"folders that are not entered": (1, "pictures"), "files that are no split's": (2, "README.md")}


def test_two_folders_that_have_splits_are_refused(tmp_path):
    write(tmp_path / "french")
    write(tmp_path / "english")
    said = refused({"type": "csv", "path": str(tmp_path), **NAMES})
    assert "its folders english and french both have splits; give one of them" in said
    write(tmp_path / "german")
    (tmp_path / "german" / "test.csv").unlink()
    assert "no file test.csv in " in refused({"type": "csv", "path": str(tmp_path / "german"), **NAMES})


def in_folders(folder, kind, name, count=3):
    """A folder for each split, in the folder `default`, as in the branch of Parquet files that a hub makes."""
    for split, rows in ROWS.items():
        (folder / "default" / split).mkdir(parents=True)
        for number in range(count):
            part = [{"text": text, "label": label} for text, label in rows[2 * number : 2 * number + 2]]
            file = folder / "default" / split / f"{name.format(number, count)}.{kind}"
            if kind == "parquet":
                pq.write_table(pa.Table.from_pylist(part), file)
            else:
                file.write_text("".join(json.dumps(row) + "\n" for row in part))
    return {"type": kind, "path": str(folder), **NAMES}


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("name", ["{:04}", "part-{:05}-of-{:05}", "part-{:05}-8d2f3c"])
def test_the_files_in_the_folder_of_a_split_are_read_in_order(tmp_path, kind, name):
    data = task(in_folders(tmp_path / "x", kind, name)).scan()
    for split, rows in ROWS.items():
        assert texts(data, split) == [text for text, _ in rows]
    assert data.left_out == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda at: (at / "0001.jsonl").unlink(), "2 of 3 shards of train; the first that is missing is 0001.jsonl"),
        (lambda at: (at / "0000.jsonl").rename(at / "0004.jsonl"), "the first that is missing is 0003.jsonl"),
        (lambda at: (at / "0001.jsonl").rename(at / "0001.jsonl.gz"), "train has both 0000.jsonl and 0001.jsonl.gz"),
        (lambda at: (at / "x-0-of-2.jsonl").write_text("{}"), "train has both 0000.jsonl and x-0-of-2.jsonl"),
        (lambda at: (at.parent / "train.jsonl").write_text("{}"), "has both train and train.jsonl; keep one"),
        (lambda at: (at.parent / "Training").mkdir() or (at / "0000.jsonl").rename(at.parent / "Training/0.jsonl"), ""),
    ],
)
def test_folders_of_splits_that_are_not_whole_are_refused(tmp_path, change, says):
    source = in_folders(tmp_path / "x", "jsonl", "{:04}")
    change(tmp_path / "x" / "default" / "train")
    assert (says or "has both train and Training; keep one") in refused(source)


def as_json(rows, indent=None) -> str:
    return json.dumps([{"text": text, "label": label} for text, label in rows], indent=indent)


@pytest.mark.parametrize("kind", ["csv.gz", "tsv.gz", "jsonl.gz", "json.gz", "json", "json of lines"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_packed_files_and_lists_are_read(tmp_path, kind, encoding):
    for split, rows in ROWS.items():
        content = as_json(rows, indent=2)
        if kind.startswith("jsonl") or kind.endswith("lines"):
            content = "\n".join(json.dumps({"text": text, "label": label}) for text, label in rows)
        elif "sv" in kind:
            between = "\t" if kind[0] == "t" else ","
            content = "\n".join(between.join(row) for row in [("text", "label"), *rows])
        packed = gzip.compress(content.encode(encoding)) if kind.endswith("gz") else content.encode(encoding)
        (tmp_path / f"{split}.{kind.split()[0]}").write_bytes(packed)
    source = {"type": "csv" if "sv" in kind else "jsonl", "path": str(tmp_path), **NAMES}
    data = task(source).scan()
    for split, rows in ROWS.items():
        assert texts(data, split) == [text for text, _ in rows]
        assert data.labels(split).tolist() == [["bad", "good"].index(label) for _, label in rows]
    assert data.left_out == ()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('[{"text": "a", "label": "bad"}, 3]', "entry 2 is not a JSON object: '3'"),
        ('[{"text": "a", "label": "bad"},\n {"text": 7, "label": "bad"}]', "entry 2: 'text' is a number"),
        ('[{"text": "a"', "not a readable JSON file ("),
        ('{\n"rows": []}', "is one JSON object over several lines; write a list of objects, or one a line"),
        ("[]", "holds no rows"),
    ],
)
def test_what_is_wrong_with_a_list_is_said(tmp_path, content, says):
    for split in ("train", "test", "dev"):
        (tmp_path / f"{split}.json").write_text(as_json(ROWS["train"]))
    (tmp_path / "train.json").write_text(content)
    assert says in refused({"type": "jsonl", "path": str(tmp_path), **NAMES})


def test_a_packed_file_that_is_cut_or_none_is_named(tmp_path):
    source = write(tmp_path / "x")
    whole = gzip.compress((tmp_path / "x" / "train.csv").read_bytes())
    (tmp_path / "x" / "train.csv").unlink()
    for content in (whole[:-10], b"text,label\n", whole[:20] + b"0" + whole[21:]):
        (tmp_path / "x" / "train.csv.gz").write_bytes(content)
        assert "train.csv.gz: cannot be unpacked (" in refused(source)


def test_names_of_classes_may_be_one_a_line(tmp_path):
    source = write(tmp_path / "x")
    del source["label_names"]
    (tmp_path / "x" / "classes.txt").write_text("bad\n\ngood\n")
    assert task(source).scan().class_names == ("bad", "good")
    (tmp_path / "x" / "labels.json").write_text('["bad", "good"]')
    assert "names the classes as well; keep one of the two" in refused(source)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_marks_at_the_beginning_say_the_encoding(tmp_path, encoding):
    source = write(tmp_path / "x", "{} é,{}".format, encoding=encoding)
    assert texts(task(source).scan())[0] == "train film 0 é"
    line = lambda text, label: json.dumps({"text": text, "label": label})  # noqa: E731
    source = write(tmp_path / "y", line, head="", kind="jsonl", encoding=encoding)
    (tmp_path / "y" / "labels.json").write_bytes('["bad", "good"]'.encode(encoding))
    assert texts(task({**source, "label_names": None}).scan())[0] == "train film 0"


LATIN = {
    "a value": ("{} é,{}".format, "text,label", "csv", "train.csv: line 2 is not UTF-8 at byte 0xe9"),
    "a name": ("{},{},1".format, "text,label,catégorie", "csv", "line 1 is not UTF-8 at byte 0xe9, which is in the na"),
    "a key": ('{{"text": "{}", "label": "{}", "é": 1}}'.format, "", "jsonl", "line 1 is not UTF-8 at byte 0xe9, which"),
}


@pytest.mark.parametrize(("form", "head", "kind", "says"), LATIN.values(), ids=LATIN)
def test_other_encodings_are_refused_with_their_line(tmp_path, form, head, kind, says):
    said = refused(write(tmp_path / "x", form, head, kind, "latin-1"))
    assert says in said and said.endswith("save the file as UTF-8") and len(said) < 500
    assert kind != "jsonl" or "the key 'é'" in said


def test_utf16_without_its_mark_is_recognised(tmp_path):
    assert "looks like UTF-16" in refused(write(tmp_path / "x", encoding="utf-16-le"))


def test_class_names_in_another_encoding_are_refused(tmp_path):
    source = write(tmp_path / "x")
    (tmp_path / "x" / "labels.json").write_bytes('["bad", "café"]'.encode("latin-1"))
    assert "labels.json: line 1 is not UTF-8" in refused(source)


@pytest.mark.parametrize(("mark", "kind"), [(";", "csv"), ("\t", "csv"), ("|", "csv"), (",", "tsv")])
def test_another_delimiter_is_recognised(tmp_path, mark, kind):
    source = write(tmp_path / "x", f"{{}}{mark}{{}}".format, f"text{mark}label", kind)
    said = refused(source)
    assert f"train.{kind} has the columns text, label" in said
    assert f"set task.data.delimiter to {json.dumps(mark)}" in said
    assert len(texts(task({**source, "delimiter": mark}).scan())) == 6


def test_a_missing_line_of_names_is_recognised(tmp_path):
    source = write(tmp_path / "x", lambda text, label: f'"{label}","{text}"', "")
    said = refused(source)
    assert "first line looks like a row" in said and "set task.data.columns" in said and "pair_column" not in said
    # Without names of classes a label that comes again says so.
    assert "first line looks like a row" in refused({**source, "label_names": None})
    data = task({**source, "columns": ["label", "text"]}).scan()
    assert texts(data) == [text for text, _ in ROWS["train"]]
    assert "leave columns out" in refused({**write(tmp_path / "y"), "columns": ["text", "label"]})


@pytest.mark.parametrize("form", ['"say \\"{}\\" ok",{}', '"say ""{}"" ok",{}'])
def test_quotes_inside_of_values(tmp_path, form, caplog):
    with caplog.at_level(logging.INFO):
        data = task(write(tmp_path / "x", form.format)).scan()
    assert texts(data)[0] == 'say "train film 0" ok'
    assert ("after a backslash" in caplog.text) == ("\\" in form)


def test_backslashes_beside_escaped_quotes(tmp_path):
    form = '"C:\\\\{} \\d \\"x\\"",{}'.format
    assert texts(task(write(tmp_path / "x", form)).scan())[0] == 'C:\\train film 0 \\d "x"'
    plain = write(tmp_path / "y", '"{} C:\\",{}'.format)
    assert texts(task(plain).scan())[0] == "train film 0 C:\\", "no escape where the file can be read as it stands"


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_quotes_that_are_not_doubled_are_refused(tmp_path, kind):
    mark = {"csv": ",", "tsv": "\t"}[kind]
    source = write(tmp_path / "x", f'"{{}}" he said{mark}{{}}'.format, f"text{mark}label", kind)
    said = refused(source)
    assert f"train.{kind}: line 2: " in said and "set task.data.quoted: false" in said
    assert texts(task({**source, "quoted": False}).scan())[0] == '"train film 0" he said'


def test_unused_keys_may_hold_anything(tmp_path):
    metas = ("web", {"source": "web"}, [1], None, 3, True)
    lines = [json.dumps({"text": text, "label": label, "meta": metas[n]}) for n, (text, label) in
             enumerate(ROWS["train"])]  # fmt: skip
    source = write(tmp_path / "x", lambda *row: json.dumps(dict(zip(("text", "label"), row, strict=True))), "", "jsonl")
    (tmp_path / "x" / "train.jsonl").write_text("\n".join(lines))
    assert texts(task(source).scan()) == [text for text, _ in ROWS["train"]]


BAD_LINES = {
    "text": ('{"text": 3, "label": "bad"}', "line 2: 'text' is a number (3), expected a text"),
    "list": ('{"text": "a", "label": ["bad"]}', "line 2: 'label' is a list (['bad']), expected a text or"),
    "two kinds": ('{"text": "a", "label": 1}', "line 2: 'label' is a number (1), in line 1 it is a text"),
    "surrogate": ('{"text": "\\ud800", "label": "bad"}', "'text' has values that are no texts"),
    "deep": ("[" * 100000, "line 2 is not a JSON object"),
}


@pytest.mark.parametrize(("line", "says"), BAD_LINES.values(), ids=BAD_LINES)
def test_bad_lines_of_json_are_named(tmp_path, line, says):
    source = write(tmp_path / "x", lambda *row: json.dumps(dict(zip(("text", "label"), row, strict=True))), "", "jsonl")
    good = '{"text": "a", "label": "good"}\n'
    (tmp_path / "x" / "train.jsonl").write_text(f"{good}{line}\n{good}")
    said = refused(source)
    assert "train.jsonl: " in said and says in said and len(said) < 400


def numbered(folder, of):
    return {**write(folder, lambda text, label: f"{text},{of[label]}"), "label_names": None}


def test_labels_with_gaps_are_classes_by_their_names(tmp_path):
    source = numbered(tmp_path / "x", {"bad": 0, "good": 4})
    said = refused(source)
    assert "task.data.label_names: labels of" in said and "train.csv are 0, 4" in said and "such as [0, 4]" in said
    assert task({**source, "label_names": [0, 4]}).scan().labels("train").tolist() == [1, 0] * 3


@pytest.mark.parametrize(
    ("bad", "good", "says"), [("True", "False", "give label_names"), ("0.0", "1.0", "pandas makes")]
)
def test_booleans_and_floats_need_names(tmp_path, bad, good, says):
    source = numbered(tmp_path / "x", {"bad": bad, "good": good})
    assert says in refused(source)
    assert task({**source, "label_names": [bad, good]}).scan().labels("test").tolist() == [1, 0] * 3


def test_names_are_compared_in_one_form(tmp_path):
    source = numbered(tmp_path / "x", {"bad": "cafe\u0301", "good": "bar"})
    data = task({**source, "label_names": ["caf\u00e9", "bar "]}).scan()
    assert data.labels("train").tolist() == [1, 0] * 3
    assert "comes twice" in refused({**source, "label_names": ["caf\u00e9", "cafe\u0301", "bar"]})


def test_a_class_without_rows_is_said_by_its_name(tmp_path):
    said = refused({**write(tmp_path / "x"), "label_names": ["bad", "fair", "good"]})
    assert "train.csv: class 1 has no row in the train split ('fair'" in said


@pytest.mark.parametrize(
    ("names", "says"),
    [(["a", "b", "a"], "the name 'a' comes twice"), (["a", None], "entry 1 is null"), ([True, "a"], "entry 0 is true")],
)
def test_lists_of_names_are_checked(tmp_path, names, says):
    source = write(tmp_path / "x")
    (tmp_path / "x" / "labels.json").write_text(json.dumps(names))
    assert f"labels.json: {says}" in refused(source)


def test_rows_that_are_left_out_are_counted(tmp_path):
    source = write(tmp_path / "x")
    with open(tmp_path / "x" / "train.csv", "a") as file:
        file.write("no label,\n,bad\n")
    data = task({**source, "on_empty": "skip"}, unlabelled="ignore").scan()
    assert [(each.what, each.count) for each in data.left_out] == [
        ("rows without a label", 1),
        ("rows with an empty text", 1),
    ]
    assert [each.first.split("/")[-1] for each in data.left_out] == ["train.csv row 6", "train.csv row 7"]
