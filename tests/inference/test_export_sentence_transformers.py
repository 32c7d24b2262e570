"""Text students as encoders that sentence-transformers opens."""

import json
import sys

import numpy as np
import pytest

import tgt_ray
from tests.helpers import retrieval
from tests.helpers.students import answers, export, refuse, write_student
from tests.helpers.text_runs import experiment
from tgt_ray.entrypoints import cli
from tgt_ray.experiment.experiment import Experiment

NAME = "sentence-transformers"
#: Gives embeddings, and behind them scores where there is a head.
PROGRAM = """
import torch
from pathlib import Path
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense

@torch.no_grad()
def answer(folder, texts):
    model = SentenceTransformer(folder, device="cpu")
    found = model.encode(texts)
    assert model.get_embedding_dimension() == found.shape[1]
    if not Path(folder, "head").exists():
        assert model.max_seq_length == 20
        return found
    assert model.max_seq_length == 24
    scored = Dense.load(f"{folder}/head")({"sentence_embedding": torch.from_numpy(found)})["sentence_embedding"]
    return np.concatenate([found, scored], axis=1)
"""
TEXTS = [
    "the film was joy today",
    "  her new song brings noise \n",
    "gloom",
    "this <s> book </s> today",
    "?",
    "joy " * 30,
]
PAIRS = [(each, "it was <mask> noise") for each in TEXTS]
QUERIES = ["a red car ?", "lamp", "black shirt " * 4]


def of_classes(sentences, text_models, folder, kind, pairs=False):
    path = str(text_models / "encoder")
    student = {"type": "text_encoder", "path": path, "pooling": kind, "max_tokens": 24}
    data = {"data": {"pair_column": "hypothesis"}} if pairs else {}
    config = experiment(sentences, **({} if kind == "scratch" else {"student": student}), **data)
    return write_student(config, folder)


@pytest.mark.slow
def test_students_are_opened_by_sentence_transformers_alone(sentences, text_models, beir, encoder, tmp_path):
    plain = np.random.default_rng(0).normal(size=(48, 32)).astype(np.float32)
    unit = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    config = retrieval.experiment(beir, encoder)
    kinds = {
        "scratch": (of_classes(sentences, text_models, tmp_path / "1", "scratch"), TEXTS),
        "scratch, pairs": (of_classes(sentences, text_models, tmp_path / "2", "scratch", pairs=True), PAIRS),
        "first token": (of_classes(sentences, text_models, tmp_path / "3", "cls"), TEXTS),
        "mean, pairs": (of_classes(sentences, text_models, tmp_path / "4", "mean", pairs=True), PAIRS),
        "queries": (write_student(config, tmp_path / "5", plain), QUERIES),
        "queries of length 1": (write_student(config, tmp_path / "6", unit), QUERIES),
    }
    made = {name: export(folder, NAME, tmp_path / f"{name} out") for name, (folder, _) in kinds.items()}
    jobs = [(tmp_path / f"{name} out", texts) for name, (_, texts) in kinds.items()]
    for (name, (_, texts)), found in zip(kinds.items(), answers(PROGRAM, jobs, tmp_path / "alone"), strict=True):
        student, record = made[name]
        if "queries" in name:
            expected = student.encode_queries(texts)
            assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4) == ("length 1" in name)
            assert record["documents"] == "documents.parquet"
            said = json.loads((tmp_path / f"{name} out" / "config_sentence_transformers.json").read_text())
            assert said["similarity_fn_name"] == "dot"
        else:
            expected = np.concatenate(student.found(texts), axis=1)
            assert record["head"] == "head" and record["classes"] == ["0", "1"]
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=name)


def test_the_command_exports_a_run_of_retrieval_with_documents(beir, encoder, tmp_path, monkeypatch, capsys):
    config = retrieval.experiment(beir, encoder, train={"steps": 4, "eval_every": 2}, explorer={"type": "none"})
    run, out = tgt_ray.run(config, storage=str(tmp_path), name="queries", local=True), tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["tgt_ray", "export", run.folder, "--format", NAME, "--out", str(out)])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    said = capsys.readouterr()
    assert said.out == f"{out}\n" and "%|" not in said.err and "longer than" not in said.err
    assert (out / "documents.parquet").read_bytes()
    assert json.loads((out / "export.json").read_text())["compared"]["largest_difference"] < 1e-5


def test_what_it_cannot_express_is_refused(sentences, text_models, tmp_path):
    conv = write_student(Experiment(), tmp_path / "conv")
    refuse(conv, NAME, "is for students of texts, and this one is of type 'conv'", tmp_path)
    student = {"type": "text_encoder", "path": str(text_models / "classifier"), "pooling": "model"}
    model = write_student(experiment(sentences, student=student), tmp_path / "model")
    said = r"gives its embedding itself \(pooling: model\); take transformers, onnx or safetensors"
    refuse(model, NAME, said, tmp_path)
    lelp = write_student(experiment(sentences, objective={"type": "lelp"}), tmp_path / "lelp")
    refuse(lelp, NAME, r"\(objective 'lelp'\) are something else", tmp_path)


def test_without_the_package_it_says_what_to_install(sentences, tmp_path, monkeypatch):
    folder = write_student(experiment(sentences), tmp_path / "student")
    monkeypatch.setitem(sys.modules, "sentence_transformers.sentence_transformer", None)
    refuse(folder, NAME, r'pip install "tgt-ray\[sentence-transformers\]"', tmp_path)
