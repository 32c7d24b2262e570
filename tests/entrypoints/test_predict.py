"""`python -m tgt_ray predict` and `evaluate`."""

import io
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import tgt_ray
from tests.helpers.commands import command


@pytest.fixture
def pictures(digits, tmp_path) -> Path:
    """Ten test images as files of their classes, a file that is no image and a hidden one."""
    table = digits.tables["test"]
    for row in range(10):
        folder = tmp_path / "pictures" / str(table["label"][row])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.frombuffer(table["image"][row].as_py(), np.uint8).reshape(8, 8)
        Image.fromarray(pixels).save(folder / f"{row:02d}.png")
    (tmp_path / "pictures" / "notes.txt").write_text("mine")
    (tmp_path / "pictures" / ".hidden.png").write_text("no")
    return tmp_path / "pictures"


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_a_folder_of_images(monkeypatch, capsys, caplog, of_digits, pictures, tmp_path, ending):
    caplog.set_level("INFO")
    out = tmp_path / f"out.{ending}"
    assert command(monkeypatch, "predict", of_digits.folder, pictures, "--out", out, "--top", 3) == 0
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "jsonl": lambda file: pd.read_json(file, lines=True)}
    table = read[ending](out)
    files = sorted(pictures.rglob("??.png"))
    assert table["file"].tolist() == [str(file) for file in files] and table["row"].tolist() == list(range(10))
    expected = tgt_ray.load_student(of_digits.folder).predict(files, top=3)
    assert table["label_3"].astype(str).tolist() == expected["label_3"].tolist()
    np.testing.assert_allclose(table["probability"], expected["probability"], rtol=1e-5)
    assert "files that are no images are left out: 1 .txt" in caplog.text and "10 rows predicted" in caplog.text
    assert capsys.readouterr().out == "" and not list(tmp_path.glob(".*draft"))


def test_bad_rows_are_named_and_counted_and_strict_ends(monkeypatch, capsys, caplog, of_digits, pictures, tmp_path):
    caplog.set_level("INFO")
    (tmp_path / "torn.png").write_bytes(b"\x89PNG torn")
    (tmp_path / "list.txt").write_text(
        "".join(f"{file}\n" for file in [*pictures.rglob("0*.png"), "gone.png", "", tmp_path / "torn.png"])
    )
    assert command(monkeypatch, "predict", of_digits.folder, tmp_path / "list.txt") == 0
    said = caplog.text
    assert len(capsys.readouterr().out.splitlines()) == 11  # a head and ten rows
    assert "gone.png: cannot be read (No such file or directory); it is left out" in said
    assert "torn.png: not a readable image" in said and "10 rows predicted; 3 can't be used and are left out" in said
    out = tmp_path / "strict.csv"
    assert command(monkeypatch, "predict", of_digits.folder, tmp_path / "list.txt", "--strict", "--out", out) == 2
    assert "error: INPUT gone.png: cannot be read" in capsys.readouterr().err and not out.exists()


def test_nothing_usable_is_a_failure(monkeypatch, capsys, of_digits, tmp_path):
    (tmp_path / "list.txt").write_text("gone.png\n")
    out = tmp_path / "out.parquet"
    assert command(monkeypatch, "predict", of_digits.folder, tmp_path / "list.txt", "--out", out) == 1
    assert "none of 1 inputs can be used" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("form", ["bytes", "struct", "path"])
def test_images_in_a_table(monkeypatch, capsys, of_digits, pictures, tmp_path, form):
    files = sorted(pictures.rglob("??.png"))
    values = {
        "bytes": [file.read_bytes() for file in files],
        "struct": [{"bytes": file.read_bytes(), "path": None} for file in files],
        "path": [str(file) for file in files],
    }
    pq.write_table(pa.table({"image": values[form], "id": range(10)}), tmp_path / "rows.parquet")
    assert command(monkeypatch, "predict", of_digits.folder, tmp_path / "rows.parquet") == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out), dtype={"label": str})
    assert table["label"].tolist() == tgt_ray.load_student(of_digits.folder).predict(files)["label"].tolist()


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv", "jsonl", "txt", "-"])
def test_texts(monkeypatch, capsys, of_sentences, sentences, tmp_path, ending):
    texts = pq.read_table(sentences / "test.parquet")["text"].to_pylist()
    frame, source = pd.DataFrame({"text": texts, "n": range(len(texts))}), tmp_path / f"rows.{ending}"
    if ending == "-":
        source = "-"
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(texts)))
    elif ending == "parquet":
        frame.to_parquet(source)
    elif ending in ("csv", "tsv"):
        frame.to_csv(source, index=False, sep="," if ending == "csv" else "\t")
    elif ending == "jsonl":
        frame.to_json(source, orient="records", lines=True)
    else:
        source.write_text("\n".join(texts))
    assert command(monkeypatch, "predict", of_sentences.folder, source, "--probabilities") == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out), dtype={"label": str})
    student = tgt_ray.load_student(of_sentences.folder)
    assert table["label"].tolist() == student.predict(texts)["label"].tolist()
    np.testing.assert_allclose(table[["probability of 0", "probability of 1"]], student.probabilities(texts), rtol=1e-4)


@pytest.mark.parametrize(
    "name, content",
    [
        ("rows.csv", 'text,n\n"joy\nand, more ""joy""",1\ngloom,2\n\nnoise,3'),
        ("rows.tsv", "text\tn\njoy\t1\ngloom\t2\nnoise\t3\n"),
        ("rows.jsonl", '{"text": "joy\\n"}\n{"text": "gloom"}\n{"text": "noise"}'),
        ("rows.txt", "joy\ngloom\nnoise"),
    ],
)
def test_progress_knows_how_many_rows_there_are(monkeypatch, of_sentences, tmp_path, name, content):
    phases = []
    monkeypatch.setattr("tgt_ray.core.progress.FIRST_S", 0.0)
    update = "tgt_ray.core.progress.Lines.update"
    monkeypatch.setattr(update, lambda self, phase: phases.append((phase.done, phase.total)))
    (tmp_path / name).write_text(content)
    assert command(monkeypatch, "predict", of_sentences.folder, tmp_path / name, "--batch-size", 2) == 0
    assert phases == [(2, 3), (3, 3)]


def test_rows_from_a_pipe_are_read_once(monkeypatch, capsys, of_sentences, tmp_path):
    os.mkfifo(tmp_path / "rows.jsonl")
    with ThreadPoolExecutor() as pool:
        writing = pool.submit((tmp_path / "rows.jsonl").write_text, '{"text": "joy"}\n{"text": "gloom"}\n')
        code = command(monkeypatch, "predict", of_sentences.folder, tmp_path / "rows.jsonl")
        writing.result()
    assert (code, len(capsys.readouterr().out.splitlines())) == (0, 3)


@pytest.mark.parametrize(
    "words, said",
    [
        (("predict", "--out", "out.csv"), "interrupted: nothing was written to out.csv"),
        (("predict", "--out", "out.parquet"), "interrupted: nothing was written to out.parquet"),
        (("predict",), "interrupted: standard output has the first rows alone"),
        (("predict", "--ray", "--out", "out"), "interrupted: what is done stays in out, and the same command goes on"),
        (("evaluate", "--out", "out.json"), "interrupted: nothing was written to out.json"),
    ],
)
def test_ctrl_c_is_one_line_that_says_what_is_left(monkeypatch, caplog, of_sentences, tmp_path, words, said):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"text": ["joy", "gloom"], "label": [0, 1]}).to_json("rows.jsonl", orient="records", lines=True)
    before = sorted(tmp_path.iterdir())

    def pressed(self, table=None):
        raise KeyboardInterrupt

    monkeypatch.setattr("tgt_ray.inference.sources.Inputs.taken", pressed)
    monkeypatch.setattr("tgt_ray.inference.parts.finished", pressed)
    name, *options = words
    assert command(monkeypatch, name, of_sentences.folder, "rows.jsonl", *options, "--quiet") == 130
    assert caplog.messages[-1] == said
    assert [each for each in sorted(tmp_path.iterdir()) if each.name != "out"] == before


def test_pairs_need_both_columns(monkeypatch, capsys, of_pairs, sentences, tmp_path):
    assert command(monkeypatch, "predict", of_pairs.folder, sentences / "test.parquet") == 0
    assert len(capsys.readouterr().out.splitlines()) == 61
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "one.parquet")
    assert command(monkeypatch, "predict", of_pairs.folder, tmp_path / "one.parquet") == 2
    assert "has no column 'hypothesis'; it has text" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("gone.csv", None, "there is no such file or folder"),
        ("rows.csv", "other\na\n", "has no column 'text'; it has other"),
        ("rows.jsonl", '{"text": "a"}\n[1]\n', "line 2 is not a JSON object"),
        ("rows.jsonl", '{"text": "a"}\n{"text\n', "line 2 is not JSON"),
        ("rows.parquet", "no table", "not a readable Parquet file"),
        ("rows.bin", b"\xff\xfe\x00\x01", "nor lines of UTF-8 text"),
    ],
)
def test_inputs_that_are_none(monkeypatch, capsys, of_sentences, tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert command(monkeypatch, "predict", of_sentences.folder, tmp_path / name, "--out", tmp_path / "out.csv") == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    "options, said",
    [
        (("--out", "out.xlsx"), "ends with '.xlsx'; expected .parquet, .csv, .jsonl"),
        (("--out", "nowhere/out.csv"), "there is no folder nowhere; make it first"),
        (("--ray", "--out", "nowhere/out"), "there is no folder nowhere; make it first"),
        (("--out", "."), "ends with ''"),
        (("--top", 11), "top: 11; expected a number from 1 to 10"),
        (("--pair-column", "b"), "the student was trained on single texts"),
        (("--device", "abacus"), "device: 'abacus' can't be used"),
    ],
)
def test_options_that_do_not_fit(monkeypatch, capsys, of_digits, pictures, options, said):
    assert command(monkeypatch, "predict", of_digits.folder, pictures, *options) == 2
    assert said in capsys.readouterr().err


def test_long_texts_and_gaps_are_counted(monkeypatch, caplog, of_sentences, tmp_path):
    pd.DataFrame({"text": ["good " * 60, None, "joy"]}).to_parquet(tmp_path / "rows.parquet")
    assert command(monkeypatch, "predict", of_sentences.folder, tmp_path / "rows.parquet") == 0
    said = caplog.text
    assert "1 of 2 texts are longer than the student reads, and are cut" in said
    assert "row 1: no text; expected a text; it is left out" in said


def test_evaluate_says_what_the_run_has_measured(monkeypatch, capsys, of_digits, digits, tmp_path):
    table = digits.tables["test"]
    for row in range(len(table)):
        folder = tmp_path / "data" / str(table["label"][row])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.frombuffer(table["image"][row].as_py(), np.uint8).reshape(8, 8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
    assert command(monkeypatch, "evaluate", of_digits.folder, tmp_path / "data", "--out", tmp_path / "found.json") == 0
    found = json.loads((tmp_path / "found.json").read_text())
    result = of_digits.record["result"]
    for name, value in found["metrics"].items():
        assert value == pytest.approx(result[f"test_{name}"]), name
    assert np.trace(found["confusion"]) == pytest.approx(found["rows"] * found["metrics"]["accuracy"] / 100)
    assert found["calibration"]["temperature"] == pytest.approx(result["calibrated_temperature"])
    shown = capsys.readouterr().out
    assert "balanced_accuracy" in shown and "expected calibration error" in shown and "rows: true classes" in shown


@pytest.mark.parametrize("out, said", [("nowhere/a.json", "there is no folder nowhere"), (".", "is a folder")])
def test_evaluate_refuses_a_place_where_it_cannot_write(monkeypatch, capsys, of_digits, pictures, out, said):
    assert command(monkeypatch, "evaluate", of_digits.folder, pictures, "--out", out) == 2
    assert said in capsys.readouterr().err


def test_evaluate_on_a_table_with_another_column(monkeypatch, capsys, of_sentences, sentences, tmp_path):
    table = pq.read_table(sentences / "test.parquet").rename_columns(["text", "hypothesis", "kind"])
    pq.write_table(table, tmp_path / "rows.parquet")
    assert command(monkeypatch, "evaluate", of_sentences.folder, tmp_path / "rows.parquet") == 2
    assert "has no column 'label' with the classes" in capsys.readouterr().err
    rows = ("evaluate", of_sentences.folder, tmp_path / "rows.parquet", "--label-column", "kind")
    assert command(monkeypatch, *rows) == 0
    assert f"accuracy {of_sentences.record['result']['test_accuracy']:20.2f}" in capsys.readouterr().out


def test_evaluate_leaves_rows_without_a_label_out(monkeypatch, capsys, caplog, of_sentences, tmp_path):
    pd.DataFrame({"text": ["joy", "gloom", "noise"], "label": ["1", None, "0"]}).to_parquet(tmp_path / "rows.parquet")
    out = tmp_path / "found.json"
    assert command(monkeypatch, "evaluate", of_sentences.folder, tmp_path / "rows.parquet", "--out", out) == 0
    assert "row 1: has no label; it is left out" in caplog.text and "2 rows, 1 left out" in capsys.readouterr().out
    found = json.loads(out.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert {each["class"] for each in found["per_class"]} == {"0", "1"}
    rows = ("evaluate", of_sentences.folder, tmp_path / "rows.parquet", "--strict")
    assert command(monkeypatch, *rows) == 2 and "INPUT row 1: has no label" in capsys.readouterr().err


def test_evaluate_refuses_an_unknown_class_and_data_without_labels(
    monkeypatch, capsys, of_sentences, of_digits, pictures, tmp_path
):
    pd.DataFrame({"text": ["joy", "gloom"], "label": ["0", "bad"]}).to_csv(tmp_path / "rows.csv", index=False)
    assert command(monkeypatch, "evaluate", of_sentences.folder, tmp_path / "rows.csv") == 2
    assert "DATA row 1: the student knows no class 'bad'; legal: 0, 1" in capsys.readouterr().err
    (tmp_path / "rows.txt").write_text("joy\n")
    assert command(monkeypatch, "evaluate", of_sentences.folder, tmp_path / "rows.txt") == 2
    assert "has no labels; expected" in capsys.readouterr().err
    Image.new("L", (8, 8)).save(pictures / "alone.png")
    assert command(monkeypatch, "evaluate", of_digits.folder, pictures) == 2
    assert "lies in no folder of a class" in capsys.readouterr().err
