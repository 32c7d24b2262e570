"""Many inputs are predicted in numbered parts, here in one process: what `predict --ray` spreads over a cluster."""

import json
import os
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import tgt_ray
from tests.helpers import retrieval
from tgt_ray.core import kept
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage, host
from tgt_ray.entrypoints import cli
from tgt_ray.inference import loading, parts, prediction
from tgt_ray.inference.prediction import Asked

TEXTS = [f"a {word} day of {other}" for word in ("good", "bad", "long") for other in ("joy", "gloom", "rain")]


def prepared(folder: str, source: Path, out: Path | Storage, size: int = 4, **asked) -> tuple[object, parts.Job]:
    student = loading.load_student(folder)
    wanted = prediction.wanted(student, None, None)
    out = out if isinstance(out, Storage) else Storage(out)
    return student, parts.prepare(student, kept.find(folder), str(source), wanted, Asked(**asked), out, size=size)


def make_all(folder: str, source: Path, out: Path | Storage, **asked) -> list[parts.Done]:
    """All parts that aren't there yet, as the processes of a cluster would make them."""
    student, job = prepared(folder, source, out, **asked)
    done = list(parts.finished(job))
    made = [parts.predict_part(student, job, number) for number in parts.left(job, done)]
    assert parts.left(job, list(parts.finished(job))) == []
    parts.tidy(job)
    return made


def plain(monkeypatch, folder: str, source: Path, out: Path, *more: str) -> pd.DataFrame:
    """The same by one process without parts."""
    monkeypatch.setattr(sys, "argv", ["tgt_ray", "predict", folder, str(source), "--out", str(out), "--quiet", *more])
    with pytest.raises(SystemExit):
        cli.main()
    return pd.read_parquet(out)


def write(folder: Path, ending: str, values: list) -> Path:
    file = folder / f"rows.{ending}"
    frame = pd.DataFrame({"id": range(len(values)), "text": values})
    if ending == "parquet":
        pq.write_table(pa.Table.from_pandas(frame), file, row_group_size=3)
    elif ending == "jsonl":
        frame.to_json(file, orient="records", lines=True)
    elif ending == "csv":
        frame.to_csv(file, index=False)
    else:
        file.write_text("\n".join(values))
    return file


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl", "txt"])
def test_parts_have_the_rows_of_one_table(monkeypatch, of_sentences, tmp_path, ending):
    source = write(tmp_path, ending, TEXTS)
    made = make_all(of_sentences.folder, source, tmp_path / "out", top=2, probabilities=True, embedding=True)
    assert [(each.part, each.rows) for each in made] == [(0, 4), (1, 4), (2, 1)]
    options = ("--top", "2", "--probabilities", "--embedding")
    expected = plain(monkeypatch, of_sentences.folder, source, tmp_path / "plain.parquet", *options)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out"), expected, rtol=1e-4)
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
        "_predictions.json",
        *(f"part-0000{number}.parquet" for number in range(3)),
    ]


@pytest.mark.parametrize("kind", ["folder", "paths", "bytes"])
def test_images(monkeypatch, of_digits, tmp_path, kind):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(6):
        Image.new("L", (8, 8), 40 * number).save(pictures / f"{number}.png")
    (pictures / "3.png").write_bytes(b"torn")
    files = sorted(pictures.iterdir())
    if kind == "folder":
        source = pictures
    elif kind == "paths":
        source = tmp_path / "list.txt"
        source.write_text("".join(f"{file}\n" for file in files))
    else:
        source = tmp_path / "rows.parquet"
        pq.write_table(pa.table({"image": [file.read_bytes() for file in files]}), source, row_group_size=5)
    made = make_all(of_digits.folder, source, tmp_path / "out")
    expected = plain(monkeypatch, of_digits.folder, source, tmp_path / "plain.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out"), expected, rtol=1e-4)
    name = "row 3" if kind == "bytes" else str(pictures / "3.png")
    assert [where for each in made for where, _ in each.bad] == [name]


def test_pairs_and_long_texts(of_pairs, tmp_path):
    frame = pd.DataFrame({"text": ["good " * 90, *TEXTS], "hypothesis": ["so", *TEXTS]})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    made = make_all(of_pairs.folder, tmp_path / "rows.csv", tmp_path / "out")
    pairs = list(zip(frame["text"], frame["hypothesis"], strict=True))
    student = tgt_ray.load_student(of_pairs.folder)
    assert pd.read_parquet(tmp_path / "out")["label"].tolist() == student.predict(pairs)["label"].tolist()
    cut = [rows.cut for rows in student.preprocess.batches(pairs, 4)]
    assert cut[0] and [each.cut for each in made] == cut


def test_queries(beir, encoder, tmp_path):
    config = retrieval.experiment(beir, encoder, explorer={"type": "none"})
    folder = tgt_ray.run(config, storage=str(tmp_path / "storage"), name="retrieval", local=True).folder
    source = write(tmp_path, "parquet", ["red car ?", None, "a lamp that is blue ?"])
    make_all(folder, source, tmp_path / "out", top=3)
    table = pd.read_parquet(tmp_path / "out")
    expected = tgt_ray.load_student(folder).search(["red car ?", "a lamp that is blue ?"], 3)
    assert table["id"].tolist() == expected["id"].tolist() and table["row"].tolist() == [0, 0, 0, 2, 2, 2]
    with pytest.raises(ConfigError, match="--probabilities: a student of retrieval has none"):
        prepared(folder, source, tmp_path / "other", probabilities=True)


@pytest.mark.parametrize("local", [True, False], ids=["folder", "other file system"])
def test_a_broken_job_goes_on(of_sentences, tmp_path, local, caplog):
    (tmp_path / "parts").mkdir()
    out = Storage(tmp_path / "parts")
    out.is_local = local
    source = write(tmp_path, "jsonl", [*TEXTS, None, "more", None])
    student, job = prepared(of_sentences.folder, source, out)
    for number in (0, 2):
        parts.predict_part(student, job, number)
    before = out.read(parts.name(0))
    out.fs.delete_file(out.path(parts.name(2)))
    with out.fs.open_output_stream(out.path(parts.name(2))) as torn:
        torn.write(b"PAR1 torn")
    made = make_all(of_sentences.folder, source, out)
    assert [each.part for each in made] == [1, 2] and out.read(parts.name(0)) == before
    assert "part-00002.parquet: is damaged" in caplog.text
    assert make_all(of_sentences.folder, source, out) == []
    _, job = prepared(of_sentences.folder, source, out)
    assert [len(each.bad) for each in parts.finished(job)] == [0, 0, 2]


def test_a_part_without_a_usable_row_has_the_same_columns(of_sentences, tmp_path):
    source = write(tmp_path, "parquet", [None, None, None, None, "good"])
    make_all(of_sentences.folder, source, tmp_path / "out", embedding=True)
    schemas = [pq.read_schema(file).remove_metadata() for file in sorted((tmp_path / "out").glob("part*"))]
    assert schemas[0].equals(schemas[1]) and pd.read_parquet(tmp_path / "out")["row"].tolist() == [4]


def test_strict_writes_no_part_with_a_bad_row(of_sentences, tmp_path):
    student, job = prepared(
        of_sentences.folder, write(tmp_path, "csv", ["a", "b", "c", "d", "e"]), tmp_path / "out", strict=True
    )
    parts.predict_part(student, job, 0)
    source = write(tmp_path, "parquet", [*TEXTS[:5], None])
    student, job = prepared(of_sentences.folder, source, tmp_path / "other", strict=True)
    with pytest.raises(ConfigError, match="INPUT row 5: no text; expected a text"):
        parts.predict_part(student, job, 1)
    assert not (tmp_path / "other" / parts.name(1)).exists()


def test_parts_of_something_else_are_refused(of_sentences, of_pairs, of_digits, tmp_path):
    source, out = write(tmp_path, "csv", TEXTS), tmp_path / "out"
    make_all(of_sentences.folder, source, out)
    for asked, said in (
        ({"top": 2}, r"another option \(top 1 there, 2 now\)"),
        ({"size": 5}, r"another option \(rows_per_part 4 there, 5 now\)"),
    ):
        with pytest.raises(ConfigError, match=said):
            prepared(of_sentences.folder, source, out, **asked)
    copy = tmp_path / "student"
    copy.mkdir()
    for file in Path(of_sentences.folder).iterdir():
        if file.name in parts.STUDENT:
            (copy / file.name).write_bytes(file.read_bytes())
    prepared(str(copy), source, out)  # the same student elsewhere
    about = json.loads((copy / "student.json").read_text())
    about.pop("checksum")
    (copy / "student.json").write_text(json.dumps({**about, "mine": 1}))
    with pytest.raises(ConfigError, match="another student"):
        prepared(str(copy), source, out)
    source.write_text(source.read_text() + "9,more\n")
    with pytest.raises(ConfigError, match=r"another input \(bytes \d+ there, \d+ now\)"):
        prepared(of_sentences.folder, source, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"has other files, such as mine\.txt; give a new folder"):
        prepared(of_sentences.folder, source, tmp_path / "full")


def test_a_folder_of_images_that_has_changed_is_another_input(of_digits, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("L", (8, 8)).save(pictures / "a.png")
    prepared(of_digits.folder, pictures, tmp_path / "out")
    (pictures / "b.png").write_bytes((pictures / "a.png").read_bytes())
    with pytest.raises(ConfigError, match=r"another input \(files 1 there, 2 now\)"):
        prepared(of_digits.folder, pictures, tmp_path / "out")


def test_a_part_of_another_program_is_refused(of_sentences, tmp_path):
    source, out = write(tmp_path, "csv", TEXTS), tmp_path / "out"
    _, job = prepared(of_sentences.folder, source, out)
    pq.write_table(pa.table({"row": [0]}), out / parts.name(0))
    with pytest.raises(ConfigError, match=r"part-00000\.parquet: was written by another program"):
        list(parts.finished(job))


def test_drafts_of_processes_that_are_gone_are_removed(of_sentences, tmp_path):
    source, out = write(tmp_path, "csv", TEXTS), tmp_path / "out"
    out.mkdir()
    gone, running = (out / f"part-00000.parquet.{host()}.{pid}.0a1b2c3d.tmp" for pid in (2**22 + 1, os.getpid()))
    for draft in (gone, running):
        draft.write_bytes(b"half")
    prepared(of_sentences.folder, source, out)
    assert not gone.exists() and running.exists()


@pytest.mark.parametrize(
    "options, said",
    [
        (("--ray",), "--ray: writes numbered files; give a folder for them by --out"),
        (("--ray", "--out", "out.parquet"), "with --ray it is a folder of numbered files; give a name without"),
        (("--ray", "--out", "taken"), "--out taken: is a file; with --ray it is a folder of numbered files"),
        (("--ray", "--out", "new", "--device", "cuda:1"), "--device cuda:1: expected cpu, cuda or mps"),
        (("--rows-per-part", "5"), "--rows-per-part: has no effect without --ray"),
    ],
)
def test_options_that_do_not_fit(monkeypatch, capsys, of_sentences, tmp_path, options, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    monkeypatch.setattr(sys, "argv", ["tgt_ray", "predict", of_sentences.folder, "rows.csv", *options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2 and said in capsys.readouterr().err


def test_standard_input_and_no_rows_are_refused(of_sentences, tmp_path):
    with pytest.raises(ConfigError, match="INPUT -: --ray reads inputs from several machines"):
        prepared(of_sentences.folder, "-", tmp_path / "out")
    with pytest.raises(ConfigError, match="has no rows"):
        prepared(of_sentences.folder, write(tmp_path, "parquet", []), tmp_path / "out")
