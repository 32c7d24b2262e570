"""Students as graphs of torch.export, which torch opens without this package."""

import json

import numpy as np
import pytest

import tgt_ray
from tests.helpers import retrieval
from tests.helpers.fresh import fresh
from tests.inference.test_onnx import TEXTS, page, students, write

__all__ = ["students"]

OTHERS = ("tgt_ray", "transformers", "timm", "ray", "onnx")

IMAGES = """
import json, numpy as np, torch
model = torch.export.load("out/model.pt2").module()
for rows in (1, 2, 70):
    images = torch.from_numpy(np.load("images.npy")[:rows])
    print(json.dumps({name: each.tolist() for name, each in model(images).items()}))
"""
ANSWER = """
import json, torch
from tokenizers import Tokenizer

known = json.load(open("out/labels.json"))
texts = [each.encode()[:known["max_bytes"]].decode(errors="ignore") for each in json.load(open("texts.json"))]
ids = [each.ids for each in Tokenizer.from_file("out/tokenizer.json").encode_batch(texts)]
model = torch.export.load("out/model.pt2").module()
print(json.dumps({name: each.tolist() for name, each in model(torch.tensor(ids)).items()}))
"""


def test_images_in_any_number_without_this_package(of_digits, tmp_path):
    student = tgt_ray.load_student(of_digits.folder)
    record = write(student, tmp_path / "out", "pt2")
    assert record["parity"]["same_top"] == 1 and record["export"] == "pt2"
    there = {each.name for each in (tmp_path / "out").iterdir()}
    assert there == {"README.md", "export.json", "labels.json", "model.pt2"}
    images = np.random.default_rng(0).random((70, 1, 8, 8), np.float32)
    np.save(tmp_path / "images.npy", images)
    for rows, line in zip((1, 2, 70), fresh(IMAGES, tmp_path, OTHERS).splitlines(), strict=True):
        found = json.loads(line)
        np.testing.assert_allclose(found["scores"], student.scores(images[:rows]), atol=1e-4)
        np.testing.assert_allclose(found["embedding"], student.embed(images[:rows]), atol=1e-4)


def test_the_lines_of_the_page(of_digits, tmp_path):
    write(tgt_ray.load_student(of_digits.folder), tmp_path / "student-pt2", "pt2")
    block = page("torch.export.load") + 'print(tuple(model(torch.rand(5, 1, 8, 8))["scores"].shape))'
    assert fresh(block, tmp_path, OTHERS) == "(5, 10)\n"


@pytest.mark.parametrize(
    "kind", ["transformer", *(pytest.param(each, marks=pytest.mark.slow) for each in ("encoder", "classifier"))]
)
def test_texts_without_this_package(students, tmp_path, kind):
    student = tgt_ray.load_student(students(kind))
    write(student, tmp_path / "out", "pt2")
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    found = json.loads(fresh(ANSWER, tmp_path, OTHERS))
    np.testing.assert_allclose(found["scores"], student.scores(TEXTS), atol=1e-4)
    np.testing.assert_allclose(found["embedding"], student.embed(TEXTS), atol=1e-4)


@pytest.mark.slow
def test_queries_without_this_package(beir, encoder, tmp_path):
    config = retrieval.experiment(beir, encoder, explorer={"type": "none"})
    result = tgt_ray.run(config, storage=str(tmp_path), name="queries", local=True)
    student = tgt_ray.load_student(result.folder)
    write(student, tmp_path / "out", "pt2")
    queries = [each["text"] for each in retrieval.queries()[:7]]
    (tmp_path / "texts.json").write_text(json.dumps(queries))
    found = json.loads(fresh(ANSWER, tmp_path, OTHERS))
    assert set(found) == {"embedding"}
    np.testing.assert_allclose(found["embedding"], student.encode_queries(queries), atol=1e-4)
