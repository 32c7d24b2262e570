"""How small and fast students are, beside their teachers."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import tgt_ray
from tgt_ray.core.storage import Storage
from tgt_ray.inference import speed
from tgt_ray.inference.export.rows import Data
from tgt_ray.inference.origin import origin_of


def test_a_run_records_it_and_says_it(of_digits):
    found, teacher = of_digits.record["speed"], of_digits.record["teacher"]["labeler"]["speed"]
    student = found["student"]
    assert student["bytes"] == (Path(of_digits.folder) / "student.safetensors").stat().st_size
    assert student["parameters"] == tgt_ray.load_student(of_digits.folder).parameters
    assert found["against_teacher"]["bytes"] == pytest.approx(teacher["bytes"] / student["bytes"])
    assert student["threads"][0]["threads"] == 1
    stored = json.loads((Path(of_digits.folder) / "record.json").read_text())
    assert stored["speed"] == found
    (line,) = [line for line in repr(of_digits).splitlines() if line.startswith("student: ")]
    assert f"{student['parameters']:,} parameters" in line and "its teacher is" in line
    page = (Path(of_digits.folder) / "report.html").read_text()
    assert "Size and speed" in page and "teacher&#39;s labeler" in page


def test_a_fault_of_the_measurement_costs_no_result(of_digits, tmp_path):
    def rows():
        raise OSError("the disk is gone")

    assert speed.measured(of_digits.folder, rows, {"labeler": {}}) == {"lacking": "OSError: the disk is gone"}
    (found,) = speed.measured(str(tmp_path), lambda: torch.rand(4, 1, 8, 8), {"labeler": {}}).values()
    assert "has no student.safetensors" in found


def compared(folder: str) -> dict:
    student = tgt_ray.load_student(folder)
    return speed.compared(student, origin_of(student.storage), Data(student, Storage(Path(folder).parent)))


def test_an_export_measures_the_teacher_where_its_weights_are(of_digits, monkeypatch):
    loaded = []
    monkeypatch.setattr(speed, "load_teacher", lambda *args: loaded.append(args) or load(*args))
    load = load_teacher()
    found = compared(of_digits.folder)
    assert loaded and found["inputs"] == "random pixels"
    assert found["teacher"]["parameters"] == of_digits.record["teacher"]["labeler"]["speed"]["parameters"]
    assert set(found["against_teacher"]) == {"bytes", "parameters", "latency", "latency_p95", "rows_per_second"}


def load_teacher():
    from tgt_ray.teacher.store import load_teacher

    return load_teacher


def test_a_copied_folder_compares_with_nothing_and_a_moved_run_with_what_it_recorded(of_digits, tmp_path):
    shutil.copytree(of_digits.folder, tmp_path / "run")
    found = compared(str(tmp_path / "run"))
    assert found["teacher"] == of_digits.record["teacher"]["labeler"]["speed"], "as the record has it"
    (tmp_path / "run" / "record.json").unlink()
    found = compared(str(tmp_path / "run"))
    assert "teacher" not in found and found["against_teacher"] == {}


def test_a_teacher_that_cannot_be_loaded_is_said(of_digits, monkeypatch, caplog):
    def damaged(*args):
        raise tgt_ray.ConfigError("its weights are damaged")

    monkeypatch.setattr(speed, "load_teacher", damaged)
    found = compared(of_digits.folder)
    assert found["teacher"] == of_digits.record["teacher"]["labeler"]["speed"]
    assert "teacher: can't be loaded to be timed beside the student (its weights are damaged)" in caplog.text


@pytest.mark.parametrize("run", ["of_sentences", "of_pairs"])
def test_texts_are_those_of_the_data_or_made_up(run, request, monkeypatch):
    run = request.getfixturevalue(run)
    assert compared(run.folder)["inputs"] == "rows of the validation split"

    def gone(*args):
        raise tgt_ray.ConfigError("the data is gone")

    monkeypatch.setattr(Data, "inputs", gone)
    found = compared(run.folder)
    assert found["inputs"] == "made-up texts" and found["teacher"]["threads"]


def test_made_up_texts_have_several_lengths():
    texts = speed.made_up(64, pairs=False)
    assert len(set(map(len, texts))) > 20 and all(4 <= len(text.split()) <= 24 for text in texts)
    assert all(text.count("\x1f") == 1 for text in speed.made_up(8, pairs=True))
