"""The lines of Python on the card of a graph run as they stand, without this package."""

import re

import numpy as np
import pytest
from PIL import Image

import tgt_ray
from tests.helpers.fresh import fresh
from tgt_ray.core.storage import Storage
from tgt_ray.inference.export import export_student


def lines_of_card(folder) -> str:
    card = (folder / "README.md").read_text(encoding="utf-8")
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


@pytest.mark.parametrize("name, without", [("onnx", ("tgt_ray", "torch")), ("pt2", ("tgt_ray",))])
def test_the_card_of_a_graph_of_images(of_digits, tmp_path, name, without):
    student = tgt_ray.load_student(of_digits.folder)
    export_student(student, name, tmp_path / "out", Storage(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    said = fresh(lines_of_card(tmp_path / "out"), tmp_path, without)
    assert said.strip() == str(student.predict([tmp_path / "picture.png"])["label"].tolist())


@pytest.mark.parametrize(
    "kind, name, without",
    [
        ("single", "onnx", ("tgt_ray", "torch")),
        ("pairs", "onnx", ("tgt_ray", "torch")),
        ("single", "pt2", ("tgt_ray",)),
    ],
)
def test_the_card_of_a_graph_of_texts(of_sentences, of_pairs, tmp_path, kind, name, without):
    student = tgt_ray.load_student((of_sentences if kind == "single" else of_pairs).folder)
    export_student(student, name, tmp_path / "out", Storage(tmp_path))
    said = fresh(lines_of_card(tmp_path / "out"), tmp_path, without)
    given = ["a text"] if kind == "single" else [("a text", "another one")]
    assert said.strip() == str(student.predict(given)["label"].tolist())
