"""How large and fast a labeler is: measured where it is loaded, and kept with its weights."""

import json

import pytest
import torch
from torch import nn

from tests.helpers.pictures import write_pictures
from tgt_ray.core.environment import cpu_model
from tgt_ray.core.storage import Storage
from tgt_ray.data import ImageFolder
from tgt_ray.tasks import ImageClassification
from tgt_ray.teacher import speed
from tgt_ray.teacher.fingerprints import stem
from tgt_ray.teacher.labelers.image import ConvLabeler
from tgt_ray.training.local import prepare_local


def test_a_prepared_teacher_has_it_and_keeps_it(prepared, storage, digits, monkeypatch):
    record = prepared.prepared.teacher["labeler"]
    name = f"{stem('labeler', record)}.json"
    found = record["speed"]
    assert found["cpu"] == cpu_model() and found["rows"] == 64
    assert found["bytes"] == len(storage.read("teachers", name.replace(".json", ".safetensors")))
    assert json.loads(storage.read("teachers", name))["speed"] == found
    monkeypatch.setattr(speed, "speed_of_labeler", None)
    again = prepare_local(prepared.experiment, digits, storage).teacher["labeler"]
    assert again["reused"] and again["speed"] == found, "it isn't measured again"


def test_on_another_processor_it_is_measured_again(prepared, storage, teacher, monkeypatch):
    monkeypatch.setattr(speed, "cpu_model", lambda: "another")
    monkeypatch.setattr(speed, "speed_of_labeler", lambda *args: {"cpu": "another"})
    monkeypatch.setattr(speed.records, "write_json", lambda *args: None)
    record = prepared.prepared.teacher["labeler"]
    out = speed.with_speed(prepared.experiment.teacher.labeler, teacher.labeler, record, lambda: None, storage)
    assert out == {**record, "speed": {"cpu": "another"}}


def test_a_fault_of_the_measurement_costs_no_teacher(prepared, storage, teacher, caplog):
    record = {name: each for name, each in prepared.prepared.teacher["labeler"].items() if name != "speed"}

    def rows():
        raise OSError("the disk is gone")

    out = speed.with_speed(prepared.experiment.teacher.labeler, teacher.labeler, record, rows, storage)
    assert out == record
    assert "labeler: how fast it is, is not measured (OSError: the disk is gone)" in caplog.text


def test_a_labeler_that_only_knows_stored_answers_is_not_measured(prepared, storage, teacher):
    class Stored(ConvLabeler):
        live = False

    record = {"identity": "x"}
    assert speed.with_speed(Stored(), teacher.labeler, record, lambda: None, storage) is record


def test_a_huge_model_on_a_gpu_is_not_brought_to_the_cpu(monkeypatch):
    monkeypatch.setattr(speed, "MOST_WEIGHTS", 5)
    with pytest.raises(ValueError, match="its 6 weights are on a GPU, and too many"):
        speed.speed_of_labeler(nn.Linear(3, 2, bias=False, device="meta"), torch.rand(4, 3))


@pytest.mark.parametrize(
    "shape, rows", [((1, 8, 8), 64), ((3, 224, 224), 27), ((3, 512, 512), 5), ((3, 2048, 2048), 1)]
)
def test_large_images_are_fewer_at_once(shape, rows):
    assert speed.together(shape, nn.Linear(1, 1)) == rows


def test_rows_in_files_are_taken_as_well(tmp_path):
    write_pictures(tmp_path / "pictures")
    task = ImageClassification(data=ImageFolder(path=tmp_path / "pictures", size=8))
    data = task.load(Storage(tmp_path / "storage"))
    rows = speed.rows_to_time(task, data.tables["validation"], data.input_shape)
    assert rows.shape == (min(64, len(data.tables["validation"])), *data.input_shape) and rows.max() <= 1
