"""`bank import` takes rows that somebody has made and labelled, and students learn from them."""

import errno
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.helpers.answers import logits_of, softmax, stored, write
from tests.helpers.commands import command
from tests.helpers.text_runs import sentences_of
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError, NotWritten
from tgt_ray.core.storage import Storage
from tgt_ray.core.texts import to_texts
from tgt_ray.entrypoints import api
from tgt_ray.entrypoints.inventory import things
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.bank.imported import ImportedRows

ROWS = 40
IMPORTED = {"type": "imported", "teacher": "gpt"}


def texts(rows: int = ROWS) -> tuple[dict, np.ndarray]:
    """Columns of synthetic texts, and their logits."""
    found, labels = sentences_of(np.random.default_rng(9), rows)
    logits = logits_of(labels, 9)
    p = softmax(logits)
    columns = {
        "text": [f"{text} new {row}" for row, text in enumerate(found)],
        "logits": logits.tolist(),
        "p": p.tolist(),
        **{f"p_{name}": p[:, place].tolist() for place, name in enumerate(("bad", "good"))},
    }
    return columns, logits


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with data, an experiment, and rows for it."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data")
    experiment = stored(Path("data"), explorer=IMPORTED)
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(experiment.model_dump(mode="json")))
    pq.write_table(pa.table(texts()[0]), tmp_path / "rows.parquet", row_group_size=16)
    return tmp_path


def bring(monkeypatch, *args: str, file: str = "rows.parquet") -> int:
    return command(monkeypatch, "bank", "import", file, "--experiment", "e.yaml", "--teacher", "gpt", *args)


def brought(size: int = ROWS, name: str = "gpt"):
    """All rows, in the order of their first logit."""
    block = ImportedRows(Storage("results"), name, size, 0).block(0)
    order = block.columns["logits"][:, 0].argsort()
    return block.inputs[order], block.columns["logits"][order]


@pytest.mark.parametrize(
    "how",
    [
        ("--logits", "logits"),
        ("--probabilities", "p"),
        ("--probabilities", "p_{class}"),
        ("--logits", "logits", "--class", "good", "--class", "bad"),
    ],
)
def test_texts_come_with_their_answers(folder, monkeypatch, capsys, how):
    assert bring(monkeypatch, *how) == 0
    out = capsys.readouterr().out
    assert out == "results/imported/gpt: 40 rows; use them by explorer: {type: imported, teacher: gpt}\n" or (
        out.endswith("imported/gpt: 40 rows; use them by explorer: {type: imported, teacher: gpt}\n")
    )
    columns, logits = texts()
    inputs, found = brought()
    order = np.array([columns["text"].index(text) for text in to_texts(inputs)])
    assert sorted(order) == list(range(ROWS))
    wanted = logits[:, ::-1] if "--class" in how else logits
    np.testing.assert_allclose(softmax(found), softmax(wanted)[order], atol=1e-5)
    assert bring(monkeypatch, *how) == 0, "the same again"


def test_a_student_learns_from_stored_answers_and_imported_rows_alone(folder, monkeypatch, capsys):
    """Nothing here has a model as a teacher; and the same experiment gives the same student after a stop."""
    assert bring(monkeypatch, "--logits", "logits") == 0
    assert command(monkeypatch, "train", "e.yaml", "--local", "--name", "a", "--set", "train.synthetic_ratio=0.5") == 0
    record = yaml.safe_load((folder / "results/a/record.json").read_text())
    assert record["teacher"]["generator"] is None and record["teacher"]["labeler"]["config"]["type"] == "stored"
    assert record["fingerprints"]["imported"]
    assert record["result"]["train_kl_synthetic"] > 0
    experiment = yaml.safe_load((folder / "results/a/experiment.yaml").read_text())
    again = api.run(validate(Experiment, experiment), name="b", local=True)
    assert again.record["result"]["train_loss"] == record["result"]["train_loss"]


def test_other_rows_under_the_name_are_no_way_to_go_on(folder, monkeypatch, capsys):
    assert bring(monkeypatch, "--logits", "logits") == 0
    assert command(monkeypatch, "train", "e.yaml", "--local", "--name", "a") == 0
    for file in (folder / "results/imported/gpt").iterdir():
        file.unlink()
    assert bring(monkeypatch, "--probabilities", "p") == 0
    capsys.readouterr()
    assert command(monkeypatch, "train", "--local", "--name", "a", "--resume") == 2
    assert "what was imported for explorer.teacher has changed" in capsys.readouterr().err


def test_a_run_without_its_rows_ends_at_once(folder, monkeypatch, capsys):
    assert command(monkeypatch, "train", "e.yaml", "--local") == 2
    assert "explorer.teacher: no rows were imported under 'gpt' into" in capsys.readouterr().err


def test_rows_for_other_classes_or_inputs_are_refused(folder, monkeypatch, capsys):
    assert bring(monkeypatch, "--logits", "logits") == 0
    assert command(monkeypatch, "train", "e.yaml", "--local", "--set", "task.max_bytes=64") == 2
    assert "have other input shape than the task's: 128, not 64" in capsys.readouterr().err


def test_the_storage_knows_who_has_learnt_from_imported_rows(folder, monkeypatch, capsys):
    for name in ("gpt", "gpt-2"):
        args = ("--experiment", "e.yaml", "--teacher", name, "--logits", "logits")
        assert command(monkeypatch, "bank", "import", "rows.parquet", *args) == 0
    assert command(monkeypatch, "train", "e.yaml", "--local", "--name", "a") == 0
    there = {each.name: each for each in things(Storage("results"))}
    assert there["imported/gpt"].users == ["a"] and there["imported/gpt-2"].users == []
    assert command(monkeypatch, "storage", "gc", "results") == 0
    assert sorted(each.name for each in (folder / "results/imported").iterdir()) == ["gpt", "gpt-2"]
    assert command(monkeypatch, "storage", "rm", "results", "imported/gpt") == 2
    assert command(monkeypatch, "storage", "rm", "results", "imported/gpt-2") == 0
    assert [each.name for each in (folder / "results/imported").iterdir()] == ["gpt"]
    assert command(monkeypatch, "storage", "verify", "results") == 0


def put(**changes):
    columns = {**texts()[0], **changes}
    pq.write_table(pa.table({name: values for name, values in columns.items() if values is not None}), "rows.parquet")


def with_row(name: str, row: int, value) -> dict:
    values = list(texts()[0][name])
    values[row] = value
    return {name: values}


@pytest.mark.parametrize(
    ("changes", "args", "said"),
    [
        ({}, (), "--logits, --probabilities: give one of them"),
        ({}, ("--logits", "logits", "--probabilities", "p"), "--logits, --probabilities: give one of them"),
        ({}, ("--logits", "logits", "--floor", "0.01"), "--floor: has no effect on logits"),
        ({}, ("--probabilities", "p_{class}", "--class", "bad"), "--class: has no effect where {class}"),
        ({}, ("--logits", "logit"), "rows.parquet: has no column 'logit'; did you mean 'logits'?"),
        ({"text": None}, ("--logits", "logits"), "rows.parquet: has no column 'text'"),
        ({}, ("--logits", "text"), "--logits: row 0 of 'text' in rows.parquet is"),
        ({}, ("--inputs", "p", "--logits", "logits"), "column 'p' is list<element: double>, expected texts"),
        ({}, ("--logits", "logits", "--class", "bad"), "names 1 classes, and the data has 2; look at 'good'"),
        (with_row("logits", 21, [1.0, 2.0, 3.0]), ("--logits", "logits"), "row 21 of 'logits' in rows.parquet has 3"),
        (with_row("logits", 37, [1.0, float("nan")]), ("--logits", "logits"), "row 37 of 'logits' (1, nan) in"),
        (with_row("logits", 37, None), ("--logits", "logits"), "rows.parquet: row 37 has no answer in 'logits'"),
        (with_row("p", 2, [0.5, 0.6]), ("--probabilities", "p"), "row 2 of 'p' (0.5, 0.6) in rows.parquet has no pro"),
        (with_row("text", 5, "  "), ("--logits", "logits"), "rows.parquet: row 5 has an empty text in 'text'"),
    ],
)
def test_bad_rows_are_refused_in_one_line_and_leave_nothing(folder, monkeypatch, capsys, changes, args, said):
    put(**changes)
    assert bring(monkeypatch, *args) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in line
    assert not (folder / "results/imported").exists() or not list((folder / "results/imported").iterdir())


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"text,logits\na,1\n", "not a readable Parquet file"), (None, "rows.parquet: no such file")],
)
def test_files_that_are_no_parquet_are_refused(folder, monkeypatch, capsys, content, said):
    if content is None:
        (folder / "rows.parquet").unlink()
    else:
        (folder / "rows.parquet").write_bytes(content)
    assert bring(monkeypatch, "--logits", "logits") == 2
    assert said in capsys.readouterr().err


def test_files_without_rows_are_refused(folder, monkeypatch, capsys):
    pq.write_table(pa.table(texts()[0]).slice(0, 0), "rows.parquet")
    assert bring(monkeypatch, "--logits", "logits") == 2
    assert "rows.parquet: holds no rows" in capsys.readouterr().err


def test_a_storage_that_can_only_be_read_is_said(folder, monkeypatch, capsys):
    def refuse(self, *args, **more):
        raise NotWritten("x: cannot be written") from OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Storage, "write", refuse)
    assert bring(monkeypatch, "--logits", "logits") == 2
    assert "results: cannot write there (Read-only file system)" in capsys.readouterr().err


def test_a_storage_that_is_a_file_is_said(folder, monkeypatch, capsys):
    (folder / "results").write_text("")
    assert bring(monkeypatch, "--logits", "logits") == 2
    assert "is a file; give a folder" in capsys.readouterr().err


def test_texts_that_are_cut_are_counted(folder, monkeypatch, caplog):
    put(**with_row("text", 3, "word " * 60))
    assert bring(monkeypatch, "--logits", "logits") == 0
    said = "40 rows were read; left out: 1 ends of texts longer than task.max_bytes 128 (rows.parquet row 3)"
    assert said in caplog.messages


def test_many_files_are_one_set_of_rows(folder, monkeypatch):
    whole = pa.table(texts()[0])
    pq.write_table(whole.slice(0, 15), "rows-a.parquet")
    pq.write_table(whole.slice(15), "rows-b.parquet")
    assert bring(monkeypatch, "rows-b.parquet", "--logits", "logits", file="rows-a.parquet") == 0
    first = brought()
    assert (
        command(
            monkeypatch,
            "bank",
            "import",
            "rows.parquet",
            "--experiment",
            "e.yaml",
            "--teacher",
            "x",
            "--logits",
            "logits",
        )
        == 0
    )
    for mine, its in zip(first, brought(name="x"), strict=True):
        np.testing.assert_array_equal(mine, its)


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


FORMS = {
    "encoded": lambda pixels: [png(each) for each in pixels],
    "as Hugging Face has them": lambda pixels: [{"bytes": png(each), "path": None} for each in pixels],
    "raw": lambda pixels: [each.tobytes() for each in pixels],
    "lists": lambda pixels: [[each.tolist()] for each in pixels],
    "flat": lambda pixels: [each.ravel().tolist() for each in pixels],
    "numbers up to 1": lambda pixels: [(each / 255).ravel().tolist() for each in pixels],
}


@pytest.fixture
def digits_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = {"explorer": IMPORTED, "train": {"steps": 20, "batch_size": 32, "eval_every": 10}}
    experiment["teacher"] = {"labeler": {"type": "conv", "pretrain": {"steps": 30}}}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(experiment))
    return tmp_path


def write_images(values: list, logits: np.ndarray) -> None:
    pq.write_table(pa.table({"image": values, "logits": logits.tolist()}), "rows.parquet")


@pytest.mark.parametrize("form", FORMS)
def test_images_come_in_many_forms(digits_folder, monkeypatch, form):
    rng = np.random.default_rng(0)
    pixels, logits = rng.integers(0, 256, (ROWS, 8, 8), np.uint8), rng.normal(size=(ROWS, 10))
    write_images(FORMS[form](pixels), logits)
    assert bring(monkeypatch, "--logits", "logits") == 0
    inputs, found = brought()
    order = logits[:, 0].argsort()
    np.testing.assert_allclose(found, logits[order], rtol=1e-6)
    np.testing.assert_array_equal(inputs, pixels[order][:, None].astype(np.float32) / np.float32(255))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (png(np.zeros((9, 8), np.uint8)), "row 3 of 'image' has shape 1x9x8, the task's are 1x8x8"),
        (b"abc", "row 3 of 'image' is no image (no image that Pillow can read)"),
        (None, "row 3 of 'image' is no image"),
    ],
    ids=["another shape", "no image", "nothing"],
)
def test_what_is_no_image_of_the_task_is_refused(digits_folder, monkeypatch, capsys, value, said):
    values = FORMS["encoded"](np.zeros((6, 8, 8), np.uint8))
    values[3] = value
    write_images(values, np.zeros((6, 10)))
    assert bring(monkeypatch, "--logits", "logits") == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("value", [[0.5] * 63 + [1.5], [-1.0] * 64, [float("nan")] * 64])
def test_numbers_that_are_no_pixels_are_refused(digits_folder, monkeypatch, capsys, value):
    write_images([[0.5] * 64, value], np.zeros((2, 10)))
    assert bring(monkeypatch, "--logits", "logits") == 2
    assert "row 1 of 'image' is no image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pool": {"bank": {"mode": "reuse"}}}, "pool.bank.mode: reuse has no effect"),
        ({"explorer": {**IMPORTED, "anchors": "balanced"}}, "anchors: has no effect, since the rows have no anchors"),
        ({"explorer": {"type": "imported"}}, "explorer.teacher"),
        ({"explorer": {"type": "imported", "teacher": "a/b"}}, "explorer.teacher"),
        ({"objective": {"type": "lelp"}}, "needs the signal '.*' of synthetic rows, and those of explorer.type"),
    ],
)
def test_settings_that_do_not_go_with_imported_rows_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        validate(Experiment, {"explorer": IMPORTED, **changes})


@pytest.mark.slow
@pytest.mark.ray
def test_on_ray_no_pool_is_started_and_training_is_the_same(folder, monkeypatch, ray_cluster):
    """Also with paths that count from the folder in which the command was started."""
    assert bring(monkeypatch, "--logits", "logits") == 0
    local = api.run("e.yaml", name="local", local=True)
    assert bring(monkeypatch, "--logits", "logits", "--storage", "on_ray") == 0
    on_ray = api.run("e.yaml", name="ray", storage="on_ray")
    for column in ("step", "train_loss", "train_kl_synthetic"):
        np.testing.assert_allclose(local.metrics[column], on_ray.metrics[column], rtol=0.01, err_msg=column)
    assert "generator_utilisation" not in on_ray.metrics


def test_a_sweep_over_whose_rows_are_taken_is_planned(folder, monkeypatch, capsys):
    experiment = yaml.safe_load((folder / "e.yaml").read_text())
    space = {"explorer.teacher": {"choice": ["gpt", "other"]}, "train.synthetic_ratio": {"uniform": [0.1, 0.9]}}
    (folder / "s.yaml").write_text(yaml.safe_dump({"experiment": experiment, "space": space}))
    assert command(monkeypatch, "sweep", "s.yaml", "--dry-run") == 0
    assert "14 trials: 12 by tpe, and 2 controls" in capsys.readouterr().out
    (folder / "e.yaml").unlink()
    (folder / "s.yaml").rename("e.yaml")
    assert bring(monkeypatch, "--logits", "logits") == 0, "a sweep has a task as well"
