"""Students as timm's own checkpoints."""

import json

import numpy as np
import pytest
import torch

import tgt_ray
from tests.helpers.experiments import changed
from tests.helpers.pretrained import NAME, timm_file
from tests.helpers.students import answers, export, refuse, write_student
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.inference.export import timm

#: With all that timm's own model has no layer for: norms of each source, factors of classes, a shift by their counts.
ADORNED = {
    "student": {"type": "timm", "name": NAME},
    "train.batch_norm": "per_source",
    "train.second_phase": {"type": "lws", "share": 0.5},
    "objective.posthoc_adjustment": 1.0,
}
#: Opens a folder in both ways, with pictures of Pillow and with the weights alone.
PROGRAM = """
import timm, torch
from PIL import Image

@torch.no_grad()
def answer(folder, images):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert tuple(model.pretrained_cfg["label_names"]) == tuple("0123456789")
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    colours = "RGB" if model.pretrained_cfg["input_size"][0] == 3 else "L"
    prepared = torch.stack([transform(Image.fromarray(each).convert(colours)) for each in images])
    call = json.load(open(f"{folder}/export.json"))["create_model"]
    again = timm.create_model(**call, checkpoint_path=f"{folder}/model.safetensors").eval()
    return torch.stack([model(prepared), again(prepared)])
"""


def pictures(count=6, size=8):
    return np.random.default_rng(0).integers(0, 256, (count, size, size), np.uint8)


def test_a_student_is_opened_by_timm_alone_in_both_ways(tmp_path):
    file, _ = timm_file(tmp_path, 4)
    pretrained = {"type": "timm", "name": NAME, "weights": str(file), "img_size": 8}
    kinds = {"adorned": ADORNED, "of three channels": {"student": pretrained}}
    folders = {name: write_student(changed(Experiment(), each), tmp_path / name) for name, each in kinds.items()}
    made = [export(folder, "timm", tmp_path / f"{name} out") for name, folder in folders.items()]
    jobs = [(tmp_path / f"{name} out", pictures()) for name in folders]
    for (student, _), found in zip(made, answers(PROGRAM, jobs, tmp_path / "alone"), strict=True):
        np.testing.assert_allclose(found, [student.scores(pictures())] * 2, atol=1e-4)
    record = made[0][1]
    assert record["create_model"] == {"model_name": NAME, "num_classes": 10, "in_chans": 1}
    assert record["student_size"] == [1, 8, 8] and record["temperature"] == 1.0
    said = json.loads((tmp_path / "adorned out" / "config.json").read_text())
    assert said["label_names"] == list("0123456789") and said["pretrained_cfg"]["input_size"] == [1, 8, 8]
    assert made[1][1]["create_model"]["in_chans"] == 3


def test_norms_of_each_source_become_plain_ones(tmp_path):
    folder = write_student(changed(Experiment(), ADORNED), tmp_path / "student")
    assert any(".norm." in name for name in tgt_ray.load_student(folder).module.state_dict())
    export(folder, "timm", tmp_path / "out")


@pytest.mark.parametrize(
    "student",
    [
        {"name": "test_vit", "img_size": 32},  # a fixed size, and embeddings of positions
        {"name": "test_convnext", "img_size": 64},  # a norm between pooling and head, images that are enlarged
        {"name": "test_efficientnet.r160_in1k", "options": {"drop_rate": 0.1}},  # a tag, and an argument
        {"name": "deit_tiny_distilled_patch16_224", "img_size": 32, "options": {"depth": 1}},  # two heads
    ],
    ids=lambda each: each["name"],
)
def test_other_architectures(student, tmp_path):
    folder = write_student(changed(Experiment(), student={"type": "timm", **student}), tmp_path / "student")
    _, record = export(folder, "timm", tmp_path / "out")
    assert record["create_model"].items() >= student.get("options", {}).items()
    cfg = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert cfg["input_size"] == [1, *[student.get("img_size", 8)] * 2] and cfg["crop_pct"] == 1.0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "--format timm: is for students of type 'timm', and this one is of type 'conv'; take safetensors, onnx"),
        ({"student": {"type": "timm", "name": NAME}, "objective": {"type": "lelp"}}, r"\(objective 'lelp'\) are"),
        (
            {"student": {"type": "timm", "name": NAME}, "objective.label_loss": {"type": "ldam"}},
            "--format timm: has one linear layer behind the embedding, and the scores of this student",
        ),
        (
            {"student": {"type": "timm", "name": "levit_128s", "img_size": 32, "options": {"depth": [1, 1, 1]}}},
            "timm's 'levit_128s' has a head of other layers than one linear one; take safetensors",
        ),
    ],
)
def test_what_it_cannot_express_is_refused(values, said, tmp_path):
    refuse(write_student(changed(Experiment(), values), tmp_path / "student"), "timm", said, tmp_path)


def test_other_answers_are_refused(tmp_path, monkeypatch):
    folder = write_student(changed(Experiment(), ADORNED), tmp_path / "student")
    head = torch.nn.Linear(tgt_ray.load_student(folder).module.backbone.dim, 10)
    monkeypatch.setattr(timm, "linear_head", lambda *_: head)
    refuse(folder, "timm", "its library gives other scores than the student for what was written, by up to", tmp_path)
