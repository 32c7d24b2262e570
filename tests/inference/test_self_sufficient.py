"""A student's folder needs neither data, teacher nor the models that it began with."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest

import tgt_ray
from tests.helpers import retrieval
from tests.helpers.text_runs import experiment
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.inference.export import export_student
from tgt_ray.inference.export.base import Options
from tgt_ray.inference.index import Approximate, Exact, make_index
from tgt_ray.inference.students import LoadedRetriever, LoadedStudent


def moved(result: tgt_ray.RunResult, tmp_path, *gone) -> str:
    """A copy of a run's folder, somewhere else, without what it was made from."""
    shutil.copytree(result.folder, tmp_path / "copy")
    for path in gone:
        shutil.rmtree(path)
    return str(tmp_path / "copy")


@pytest.mark.parametrize("kind", ["encoder", "classifier"])
@pytest.mark.parametrize("pooling", ["auto", "mean", "cls"])
def test_a_student_that_began_as_a_model_of_transformers(sentences, text_models, tmp_path, kind, pooling):
    model = tmp_path / "model"
    shutil.copytree(text_models / kind, model)
    student = {"type": "text_encoder", "path": str(model), "pooling": pooling}
    config = experiment(sentences, explorer={"type": "none"}, student=student)
    result = tgt_ray.run(config, storage=str(tmp_path / "storage"), name="a", local=True)
    texts = ["the film was joy today", "a", "my evening is gloom " * 20]
    before = tgt_ray.load_student(result.folder).scores(texts)
    after = tgt_ray.load_student(moved(result, tmp_path, model, tmp_path / "storage")).scores(texts)
    np.testing.assert_array_equal(before, after)


@pytest.fixture(scope="module")
def of_queries(beir, encoder, tmp_path_factory) -> tgt_ray.RunResult:
    config = retrieval.experiment(beir, encoder, train={"steps": 300, "eval_every": 300})
    return tgt_ray.run(config, storage=str(tmp_path_factory.mktemp("storage")), name="queries", local=True)


def test_a_student_of_retrieval_finds_what_its_run_has_measured(of_queries, tmp_path):
    student = tgt_ray.load_student(moved(of_queries, tmp_path))
    assert isinstance(student, LoadedRetriever) and len(student.documents) == 48
    test = pd.read_csv(f"{of_queries.folder}/per_query.csv")
    found = student.search(test["query_text"].tolist(), k=3)
    assert found.columns.tolist() == ["query", "rank", "id", "text", "score"]
    assert found[found["rank"] == 1]["id"].tolist() == test["first_id"].tolist()
    assert (found.groupby("query")["score"].diff().dropna() <= 0).all()
    embedded = student.encode_queries(test["query_text"].tolist())
    assert embedded.shape == (len(test), student.document_embeddings.shape[1])
    with pytest.raises(ConfigError, match="its student embeds queries alone"):
        student.encode_documents(["a text"])
    with pytest.raises(ConfigError, match="k: 49; expected a number from 1 to 48"):
        student.search(["red car"], k=49)


def test_a_student_that_embeds_documents_itself_takes_new_ones(beir, encoder, tmp_path):
    objective = {"type": "embed_distill", "document_encoder": "student"}
    config = retrieval.experiment(beir, encoder, objective=objective, train={"steps": 100, "eval_every": 100})
    student = tgt_ray.load_student(tgt_ray.run(config, storage=str(tmp_path), name="both", local=True).folder)
    texts = [f"{each['title']}. {each['text']}" for each in retrieval.corpus()]
    own = student.encode_documents(student.documents["text"].tolist())
    assert own.shape == (48, student.document_embeddings.shape[1])
    index = make_index(student.encode_documents(texts))
    found = student.search(["red car ?"], k=5, index=index)
    assert found.columns.tolist() == ["query", "rank", "document", "score"] and found["document"].between(0, 47).all()


def test_an_export_with_the_document_tower_embeds_new_documents(of_queries, encoder, tmp_path, caplog):
    student = tgt_ray.load_student(of_queries.folder)
    out, options = tmp_path / "out", Options(with_document_tower=True)
    record = export_student(student, "safetensors", out, Storage(tmp_path), options)
    assert record["document_tower"]["largest_difference"] < 1e-3
    exported = tgt_ray.load_student(str(out))
    texts = [f"{each['title']}. {each['text']}" for each in retrieval.corpus()]
    again = exported.encode_documents(texts)
    # The documents as the data has them, which are joined with their titles in the same way.
    assert again.shape == exported.document_embeddings.shape
    np.testing.assert_allclose(np.sort(again.sum(axis=1)), np.sort(student.document_embeddings.sum(axis=1)), atol=0.05)
    assert "longer than the student reads" not in caplog.text
    exported.encode_documents(["red car " * 40])
    assert "1 of 1 texts are longer than the student reads, and are cut" in caplog.text
    export_student(exported, "safetensors", tmp_path / "again", Storage(tmp_path))
    assert tgt_ray.load_student(str(tmp_path / "again")).tower is not None, "an export of an export has it, too"
    best = exported.search(["red car ?"], k=1, index=make_index(again))["document"][0]
    assert retrieval.corpus()[best]["_id"] == student.search(["red car ?"], k=1)["id"][0]


def test_a_document_tower_that_is_another_one_is_noticed(of_queries, encoder, tmp_path, monkeypatch):
    student = tgt_ray.load_student(of_queries.folder)
    shifted = student.document_embeddings + 0.01
    other = dataclasses.replace(student, document_embeddings=shifted)
    with pytest.raises(ConfigError, match="embeds documents otherwise than in training"):
        export_student(other, "safetensors", tmp_path / "out", Storage(tmp_path), Options(with_document_tower=True))
    assert not (tmp_path / "out").exists()


def test_students_of_classes_have_no_document_tower(of_digits, tmp_path):
    student = tgt_ray.load_student(of_digits.folder)
    with pytest.raises(ConfigError, match="--with-document-tower: is for students of retrieval"):
        export_student(student, "safetensors", tmp_path / "out", Storage(tmp_path), Options(with_document_tower=True))


def test_an_export_is_opened_and_says_the_same(of_digits, digits, tmp_path):
    student = tgt_ray.load_student(of_digits.folder)
    export_student(student, "safetensors", tmp_path / "out", Storage(tmp_path))
    images = np.frombuffer(digits.tables["test"]["image"].combine_chunks().buffers()[1], np.uint8)[: 64 * 5]
    rows = images.reshape(5, 1, 8, 8)
    moved = tgt_ray.load_student(str(tmp_path / "out"))
    np.testing.assert_array_equal(moved.probabilities(rows), student.probabilities(rows))
    with pytest.raises(ConfigError, match="is there already; give a new folder"):
        export_student(student, "safetensors", tmp_path / "out", Storage(tmp_path))
    with pytest.raises(ConfigError, match="--int8: has no effect on --format safetensors"):
        export_student(student, "safetensors", tmp_path / "other", Storage(tmp_path), Options(int8=True))


def test_documents_of_a_run_that_has_not_finished_are_missing(of_queries, tmp_path):
    folder = moved(of_queries, tmp_path)
    (tmp_path / "copy" / "documents.parquet").unlink()
    with pytest.raises(ConfigError, match=r"has no documents\.parquet, which a student of retrieval needs"):
        tgt_ray.load_student(folder)


def test_changed_documents_are_noticed(of_queries, tmp_path):
    folder = moved(of_queries, tmp_path)
    file = tmp_path / "copy" / "documents.parquet"
    file.write_bytes(file.read_bytes()[:-40] + bytes(40))
    with pytest.raises(ConfigError, match=r"documents\.parquet: is damaged"):
        tgt_ray.load_student(folder)


def test_many_documents_are_searched_by_faiss(monkeypatch):
    monkeypatch.setattr("tgt_ray.inference.index.MANY", 5000)
    rng = np.random.default_rng(0)
    # In groups, as embeddings of real documents are.
    centres = rng.normal(size=(200, 16))
    rows = (centres[rng.integers(0, 200, 40000)] + 0.2 * rng.normal(size=(40000, 16))).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries = rows[:50] + 0.05 * rng.normal(size=(50, 16)).astype(np.float32)
    exact, fast = Exact(rows), make_index(rows)
    assert isinstance(fast, Approximate) and len(fast) == len(exact) == 40000
    (best, scores), (near, _) = exact.search(queries, 10), fast.search(queries, 10)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(best, near, strict=True)]) > 0.9


def test_probabilities_are_calibrated_on_validation(of_digits):
    student = tgt_ray.load_student(of_digits.folder)
    assert isinstance(student, LoadedStudent)
    assert student.temperature == of_digits.record["result"]["calibrated_temperature"] != 1.0
    assert student.about["calibration"]["split"] == "validation" and student.about["finished"] is True


def test_a_run_that_still_trains_is_opened_with_a_word(of_digits, tmp_path, caplog):
    import json

    folder = moved(of_digits, tmp_path)
    known = json.loads((tmp_path / "copy" / "student.json").read_text())
    known.pop("checksum", None)
    (tmp_path / "copy" / "student.json").write_text(json.dumps({**known, "finished": False}))
    tgt_ray.load_student(folder)
    assert "its run hasn't finished" in caplog.text
