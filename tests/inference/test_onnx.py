"""Students as graphs of ONNX, which ONNX Runtime runs without torch and without this package."""

import importlib.util
import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tgt_ray
from tests.helpers import retrieval, text_runs
from tests.helpers.commands import command
from tests.helpers.experiments import TINY, changed
from tests.helpers.fresh import fresh
from tests.helpers.pictures import picture, write_pictures
from tests.helpers.places import ROOT
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.inference.export import export_student
from tgt_ray.inference.export.base import Options
from tgt_ray.inference.export.rows import Data
from tgt_ray.inference.export.traced import Graph

NEITHER = ("torch", "tgt_ray", "transformers", "ray")
QUICK = {"explorer.type": "none", "train.steps": 60, "train.eval_every": 30}

#: Answers texts of texts.json with tokenizers, NumPy and onnxruntime alone, as docs/student.md says.
ANSWER = """
import json, numpy as np, onnxruntime
from tokenizers import Tokenizer

known = json.load(open("out/labels.json"))
def cut(text):
    return text.encode()[:known["max_bytes"]].decode(errors="ignore")
texts = [cut(each) if isinstance(each, str) else tuple(each) for each in json.load(open("texts.json"))]
tokenizer = Tokenizer.from_file("out/tokenizer.json")
ids = np.array([each.ids for each in tokenizer.encode_batch(texts)])
session = onnxruntime.InferenceSession("out/model.onnx")
print(json.dumps([each.tolist() for each in session.run(None, {"ids": ids})]))
"""
TEXTS = [
    "the film was joy today",
    "  her new song gave us noise \n",
    "?",
    "naïve </s> 日本語 <s> <mask> 🙂 <extra_id_0>",
    "word " * 40,
    "a much longer text of long words " * 9,
]


def write(student, folder, name="onnx", **options):
    return export_student(student, name, folder, Storage(folder.parent / "storage"), Options(**options))


def page(*words: str) -> str:
    """The block of docs/student.md that has all these words."""
    found = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/student.md").read_text(), re.DOTALL | re.MULTILINE)
    (block,) = [each for each in found if all(word in each for word in words)]
    return block


def run_graph(file: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    import onnxruntime

    return onnxruntime.InferenceSession(str(file)).run(None, inputs)


def test_five_images_in_ten_lines_without_torch_and_this_package(of_digits, tmp_path):
    student = tgt_ray.load_student(of_digits.folder)
    record = write(student, tmp_path / "student-onnx")
    assert record["parity"]["rows"] == 269 and record["parity"]["same_top"] == 1
    assert record["parity"]["largest_difference"]["scores"] < 1e-4
    rng = np.random.default_rng(0)
    (tmp_path / "my_images").mkdir()
    for number, size in enumerate([(8, 8), (20, 24), (31, 9), (8, 8, 3), (40, 30, 3)]):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / f"my_images/{number}.png")
    for number, mode in enumerate(("LA", "RGBA", "P"), start=5):
        pixels = rng.integers(0, 256, (12, 12, 4), dtype=np.uint8)
        clear = Image.fromarray(pixels, "RGBA").convert(mode)
        clear.save(tmp_path / f"my_images/{number}.png", **({"transparency": 3} if mode == "P" else {}))
    block = page("onnxruntime", "PIL")
    assert len([line for line in block.splitlines() if line.strip()]) <= 12
    said = [line.split() for line in fresh(block, tmp_path, NEITHER).splitlines()]
    expected = student.predict(sorted((tmp_path / "my_images").iterdir()))
    assert [label for _, label, _ in said] == expected.label.tolist()
    np.testing.assert_allclose([float(each) for *_, each in said], expected.probability, atol=1e-5)


def test_deep_images_are_refused_by_the_same_lines_as_by_the_student(of_digits, tmp_path):
    student = tgt_ray.load_student(of_digits.folder)
    write(student, tmp_path / "student-onnx")
    (tmp_path / "my_images").mkdir()
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "my_images/deep.png")
    with pytest.raises(ConfigError, match="more than 8 bits a channel"):
        student.predict([tmp_path / "my_images/deep.png"])
    with pytest.raises(AssertionError, match=r"deep\.png: has more than 8 bits a channel"):
        fresh(page("onnxruntime", "PIL"), tmp_path, NEITHER)


@pytest.mark.slow
def test_colour_images_of_a_folder_by_the_same_lines(monkeypatch, tmp_path):
    monkeypatch.setattr("tgt_ray.inference.export.int8.SECONDS", 0.05)
    data = {"type": "folder", "path": str(write_pictures(tmp_path / "pictures")), "size": 12}
    changes = {
        **TINY,
        "task.data": data,
        "task.long_tail": None,
        "explorer.type": "none",
        "train.steps": 6,
        "train.eval_every": 3,
    }
    result = tgt_ray.run(changed(Experiment(), changes), storage=str(tmp_path / "runs"), name="colours", local=True)
    student = tgt_ray.load_student(result.folder)
    record = write(student, tmp_path / "student-onnx", int8=True)
    assert record["parity"]["rows"] == record["precisions"]["rows"] == 6
    (tmp_path / "my_images").mkdir()
    for label in range(3):
        picture(label, 50, (30, 20)).save(tmp_path / f"my_images/{label}.jpg")
    said = [line.split() for line in fresh(page("onnxruntime", "PIL"), tmp_path, NEITHER).splitlines()]
    expected = student.predict(sorted((tmp_path / "my_images").iterdir()))
    assert [label for _, label, _ in said] == expected.label.tolist()
    np.testing.assert_allclose([float(each) for *_, each in said], expected.probability, atol=1e-5)


def test_names_and_temperature_are_in_the_file_and_beside_it(of_digits, tmp_path):
    import onnxruntime

    student = tgt_ray.load_student(of_digits.folder)
    write(student, tmp_path / "out")
    known = json.loads((tmp_path / "out/labels.json").read_text())
    assert known == {"classes": list("0123456789"), "temperature": student.temperature, "input_shape": [1, 8, 8]}
    session = onnxruntime.InferenceSession(str(tmp_path / "out/model.onnx"))
    own = session.get_modelmeta().custom_metadata_map
    assert {key: json.loads(value) for key, value in own.items() if key in known} == known
    assert [(each.name, each.type) for each in session.get_inputs()] == [("images", "tensor(uint8)")]
    assert [each.name for each in session.get_outputs()] == ["scores", "embedding"]
    there = {each.name for each in (tmp_path / "out").iterdir()}
    assert there == {"README.md", "export.json", "labels.json", "model.onnx"}


def test_any_number_of_rows_is_a_batch(of_digits, tmp_path):
    student = tgt_ray.load_student(of_digits.folder)
    write(student, tmp_path / "out")
    for rows in (1, 2, 70):
        images = np.random.default_rng(rows).integers(0, 256, (rows, 1, 8, 8), dtype=np.uint8)
        scores, embedding = run_graph(tmp_path / "out/model.onnx", images=images)
        np.testing.assert_allclose(scores, student.scores(images), atol=1e-4)
        np.testing.assert_allclose(embedding, student.embed(images), atol=1e-4)


@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_the_graph_says_nothing_of_the_machine_that_has_made_it(of_digits, tmp_path, name):
    write(tgt_ray.load_student(of_digits.folder), tmp_path / "out", name)
    file = tmp_path / f"out/model.{name}"
    parts = [file.read_bytes()]
    if name == "pt2":
        with zipfile.ZipFile(file) as archive:
            parts = [archive.read(each) for each in archive.namelist()]
    assert not [each for each in parts if str(ROOT).encode() in each or b"site-packages" in each]


@pytest.mark.parametrize(
    "objective",
    [
        {"objective.type": "lelp", "objective.subclasses": 2},
        {"objective.label_loss.type": "ldam"},
        {"objective.posthoc_adjustment": 1.0},
    ],
    ids=["lelp", "ldam", "posthoc"],
)
@pytest.mark.parametrize("name", ["onnx", pytest.param("pt2", marks=pytest.mark.slow)])
def test_heads_that_are_no_linear_layer(prepared, storage, tmp_path, objective, name):
    config = changed(prepared.experiment, {**QUICK, **objective})
    result = tgt_ray.run(config, storage=storage.root, name=f"{name}-{tmp_path.name}", local=True)
    record = write(tgt_ray.load_student(result.folder), tmp_path / "out", name)
    assert record["parity"]["same_top"] == 1 and record["parity"]["largest_difference"]["scores"] < 1e-3


@pytest.fixture(scope="module")
def students(sentences, text_models, tmp_path_factory):
    """(kind) -> the folder of a student of sentences, trained when it is first asked for."""
    root, done = tmp_path_factory.mktemp("students"), {}
    other = {kind: {"type": "text_encoder", "path": str(text_models / kind)} for kind in ("encoder", "classifier")}
    own = {"type": "text_transformer", **text_runs.SIZE}

    def make(kind: str) -> str:
        if kind not in done:
            data = {"pair_column": "hypothesis"} if kind == "pairs" else {}
            config = text_runs.experiment(
                sentences, data=data, explorer={"type": "none"}, student=other.get(kind, own),
                train={"steps": 24, "batch_size": 16, "learning_rate": 5e-3, "eval_every": 12},
            )  # fmt: skip
            done[kind] = tgt_ray.run(config, storage=str(root), name=kind, local=True).folder
        return done[kind]

    return make


@pytest.mark.parametrize(
    "kind",
    ["transformer", "pairs", *(pytest.param(each, marks=pytest.mark.slow) for each in ("encoder", "classifier"))],
)
def test_texts_without_torch_and_this_package(students, tmp_path, kind):
    student = tgt_ray.load_student(students(kind))
    write(student, tmp_path / "out")
    texts = list(zip(TEXTS[:5], TEXTS[4::-1], strict=True)) if kind == "pairs" else TEXTS
    texts = [each for each in texts if kind != "pairs" or sum(len(part.encode()) for part in each) < 127]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    scores, embedding = json.loads(fresh(ANSWER, tmp_path, NEITHER))
    np.testing.assert_allclose(scores, student.scores(texts), atol=1e-4)
    np.testing.assert_allclose(embedding, student.embed(texts), atol=1e-4)


def test_the_lines_of_the_page_for_texts(students, tmp_path):
    student = tgt_ray.load_student(students("transformer"))
    write(student, tmp_path / "student-onnx")
    block = page("onnxruntime", "tokenizers") + "print(scores.tolist())"
    expected = student.scores(["send my money back", "where is my card"])
    np.testing.assert_allclose(json.loads(fresh(block, tmp_path, NEITHER)), expected, atol=1e-4)


@pytest.mark.parametrize("documents", ["teacher", pytest.param("student", marks=pytest.mark.slow)])
def test_queries_find_the_same_documents(beir, encoder, tmp_path, documents):
    config = retrieval.experiment(
        beir, encoder, objective={"document_encoder": documents}, explorer={"type": "none"}, student={"max_tokens": 24}
    )
    result = tgt_ray.run(config, storage=str(tmp_path), name="queries", local=True)
    student = tgt_ray.load_student(result.folder)
    record = write(student, tmp_path / "out")
    assert record["parity"]["same_top"] == 1
    queries = [each["text"] for each in retrieval.queries()[::5]]
    (tmp_path / "texts.json").write_text(json.dumps(queries))
    (embedding,) = json.loads(fresh(ANSWER, tmp_path, NEITHER))
    np.testing.assert_allclose(embedding, student.encode_queries(queries), atol=1e-4)
    import pandas as pd

    there = pd.read_parquet(tmp_path / "out/documents.parquet")
    best = (np.array(embedding) @ np.stack(there["embedding"]).T).argmax(axis=1)
    assert there["id"].iloc[best].tolist() == student.search(queries, k=1)["id"].tolist()
    known = json.loads((tmp_path / "out/labels.json").read_text())
    assert known == {"max_bytes": 64, "max_tokens": 24, "document_bytes": 96}


@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_a_graph_with_other_answers_is_refused_and_nothing_is_left(of_digits, monkeypatch, tmp_path, name):
    right = Graph.forward

    def wrong(self, inputs):
        out = right(self, inputs)
        return {**out, "scores": 1.01 * out["scores"]}

    monkeypatch.setattr(Graph, "forward", wrong)
    with pytest.raises(ConfigError, match=rf"--format {name}: gives other answers .* 269 validation rows 'scores'"):
        write(tgt_ray.load_student(of_digits.folder), tmp_path / "out", name)
    assert [each.name for each in tmp_path.iterdir()] in (["storage"], [])


def test_a_network_that_cannot_be_followed_is_refused(of_digits, monkeypatch, tmp_path):
    monkeypatch.setattr(Graph, "forward", lambda self, inputs: {"scores": inputs[: int(inputs.sum())]})
    with pytest.raises(ConfigError, match=r"--format onnx: torch\.export can't follow the student's network"):
        write(tgt_ray.load_student(of_digits.folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_its_extra(of_digits, monkeypatch, tmp_path):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else there(name))
    with pytest.raises(ConfigError, match=r'onnxruntime: pip install "tgt-ray\[onnx\]"'):
        write(tgt_ray.load_student(of_digits.folder), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_eight_bits_of_images_are_measured_beside_float(of_digits, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tgt_ray.inference.export.int8.SECONDS", 0.05)
    folder = tmp_path / "out"
    assert command(monkeypatch, "export", of_digits.folder, "--format", "onnx", "--int8", "--out", folder) == 0
    found = json.loads((folder / "export.json").read_text())["precisions"]
    for name, file in (("float32", "model.onnx"), ("int8", "model.int8.onnx")):
        assert found[name]["file"] == file and found[name]["bytes"] == (folder / file).stat().st_size
        assert set(found[name]["latency_ms"]) == {"1", "64"} and min(found[name]["latency_ms"].values()) > 0
    student = tgt_ray.load_student(of_digits.folder)
    data = Data(student, Storage(tmp_path))
    scores = student.scores(data.inputs("validation").numpy())
    measured = data.metrics("validation", scores)
    assert found["rows"] == 269 and found["float32"]["metrics"] == pytest.approx(measured, abs=2)
    assert found["int8"]["metrics"]["accuracy"] == pytest.approx(measured["accuracy"], abs=8)
    assert found["same_top"] > 0.9
    ops = node_types(folder / "model.int8.onnx")
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= ops
    out = capsys.readouterr().out
    assert (
        "float32" in out
        and "ms at batch 64" in out
        and "balanced_accuracy" in out
        and out.rstrip().endswith(str(folder))
    )


def node_types(file: Path) -> set[str]:
    import onnx

    return {each.op_type for each in onnx.load(file).graph.node}


@pytest.mark.slow
def test_eight_bits_of_texts_have_ranges_of_each_call(students, monkeypatch, tmp_path):
    monkeypatch.setattr("tgt_ray.inference.export.int8.SECONDS", 0.05)
    student = tgt_ray.load_student(students("transformer"))
    record = write(student, tmp_path / "out", int8=True)
    found = record["precisions"]
    assert found["int8"]["bytes"] < found["float32"]["bytes"] and found["same_top"] > 0.9
    assert "DynamicQuantizeLinear" in node_types(tmp_path / "out/model.int8.onnx")
    assert found["int8"]["metrics"]["accuracy"] == pytest.approx(found["float32"]["metrics"]["accuracy"], abs=8)


@pytest.mark.slow
def test_eight_bits_of_queries_are_measured_by_their_rankings(beir, encoder, monkeypatch, tmp_path):
    monkeypatch.setattr("tgt_ray.inference.export.int8.SECONDS", 0.05)
    config = retrieval.experiment(beir, encoder, explorer={"type": "none"})
    result = tgt_ray.run(config, storage=str(tmp_path), name="queries", local=True)
    found = write(tgt_ray.load_student(result.folder), tmp_path / "out", int8=True)["precisions"]
    assert {"ndcg_at_10"} <= set(found["int8"]["metrics"]) and found["rows"] > 0


def test_eight_bits_are_refused_for_other_formats(of_digits, tmp_path):
    with pytest.raises(ConfigError, match="--int8: has no effect on --format pt2"):
        write(tgt_ray.load_student(of_digits.folder), tmp_path / "out", "pt2", int8=True)


def test_some_rows_are_of_all_classes_where_rows_are_sorted(of_digits, tmp_path):
    data = Data(tgt_ray.load_student(of_digits.folder), Storage(tmp_path))
    table = data._read.tables["train"]
    order = np.argsort(data.labels("train"), kind="stable")
    data._read.tables["train"] = table.take(order)
    assert set(data.labels("train", 90)) == set(range(10))
    assert data.inputs("train", 90).shape == (90, 1, 8, 8)
    np.testing.assert_array_equal(data.inputs("train")[-1], data.inputs("train", 90)[-1])


def test_data_that_has_changed_since_is_refused(of_digits, tmp_path):
    student = tgt_ray.load_student(of_digits.folder)
    other = replace(student, classes=tuple("abcdefghij"))
    with pytest.raises(ConfigError, match="the data has other classes than the student was trained with"):
        write(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()
