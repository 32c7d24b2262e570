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
def test_the_card_of_a_graph_of_images(of_digits, digits, tmp_path, name, without):
    student = tgt_ray.load_student(of_digits.folder)
    export_student(student, name, tmp_path / "out", Storage(tmp_path))
    lines = lines_of_card(tmp_path / "out")
    files = [tmp_path / f"{number}.png" for number in range(8)]
    for number, file in enumerate(files):
        pixels = np.frombuffer(digits.tables["test"]["image"][number].as_py(), np.uint8).reshape(8, 8)
        # Black ink that lets white paper through where the digit is; without its transparency it is black all over.
        clear = np.concatenate([np.zeros((8, 8, 3), np.uint8), 255 - pixels[:, :, None]], axis=2)
        Image.fromarray(clear if number else pixels).save(file)
    said = fresh(lines.replace('["picture.png"]', str([file.name for file in files])), tmp_path, without)
    labels = student.predict(files)["label"].tolist()
    assert said.strip() == str(labels) and len(set(labels)) > 3
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "picture.png")
    with pytest.raises(AssertionError, match="more than 8 bits a channel"):
        fresh(lines, tmp_path, without)


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
