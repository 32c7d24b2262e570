"""Runs of retrieval in one process."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.helpers.retrieval import corpus, doc2query, experiment, judged, queries, write
from tests.helpers.stops import Killed, kill_at, weights_of
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.signals.values import Ragged
from tgt_ray.core.storage import Storage, check_name
from tgt_ray.entrypoints import api
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.tasks import Retrieval
from tgt_ray.tasks.metrics import ranking
from tgt_ray.teacher.module import Teacher
from tgt_ray.teacher.store import prepare_teacher
from tgt_ray.training.evaluation import Evaluation
from tgt_ray.training.files import STATE_FILE
from tgt_ray.training.local import prepare_local, train_local
from tgt_ray.training.run import StudentRun


@pytest.mark.parametrize("longest", [30, 300])  # 300: more than a query's row can have, or a document's
def test_a_dual_encoder_ranks_its_own_documents(beir, encoder, tmp_path, longest):
    student = {"type": "text_transformer", "layers": 0, "width": 24, "max_tokens": longest}
    objective = {"type": "embed_distill", "document_encoder": "student"}
    config = experiment(beir, encoder, student=student, objective=objective, train={"steps": 200, "eval_every": 100})
    found = api.run(config, storage=str(tmp_path), name="both", local=True)
    last = found.metrics.iloc[-1]
    assert last.test_recall_at_20 > 60
    assert last.train_distance_documents < found.metrics.iloc[0].train_distance_documents
    import safetensors.numpy

    # The weights are the student's alone: documents are embedded by them.
    weights = safetensors.numpy.load((tmp_path / "both/student.safetensors").read_bytes())
    assert not any("documents" in name for name in weights)


def test_documents_are_embedded_once_for_each_student(beir, encoder, tmp_path, monkeypatch):
    """At the last step validation and test are measured of the same student."""
    embedded, steps, embed = [], [], Evaluation._embed
    train_step = StudentRun.train_step

    def stepped(self, reader):
        train_step(self, reader)
        steps.append(self.step)

    def spied(self, table):
        embedded.append((steps[-1], table))
        embed(self, table)

    monkeypatch.setattr(StudentRun, "train_step", stepped)
    monkeypatch.setattr(Evaluation, "_embed", spied)
    config = experiment(
        beir,
        encoder,
        student={"type": "text_transformer", "layers": 0, "width": 24, "max_tokens": 30},
        objective={"type": "embed_distill", "document_encoder": "student"},
        train={"steps": 8, "eval_every": 4},
    )
    run = train_local(config, prepare_local(config, config.task.load(), Storage(tmp_path)), Storage(tmp_path))
    assert embedded == [(4, "documents"), (8, "documents")]
    alone = run.evaluation.metrics("test")
    assert len(embedded) == 3, "outside of a report the student may have changed"
    assert {f"test_{name}": value for name, value in alone.items()}.items() <= run.history[-1].items()


def test_a_batch_knows_all_answers_of_its_queries(encoder, tmp_path):
    """Two queries have two answers; the one with the higher grade is their label."""
    more = [{"query-id": f"q0{c}0", "corpus-id": f"d{c}5", "score": 2} for c in (1, 4)]
    path = write(tmp_path / "data", train=[*judged("train"), *more])
    config = experiment(path, encoder, explorer={"type": "none"}, train={"steps": 4, "batch_size": 48})
    run = StudentRun(config, prepare_local(config, config.task.load(), Storage(str(tmp_path))).student)
    batch = run.batches.batch(0, None)
    table = run.data.tables["train"]
    wanted = zip(table["label"].to_pylist(), map(sorted, table["relevant"].to_pylist()), strict=True)
    lists = Ragged(*(each.numpy() for each in (batch.teacher["answers"].values, batch.teacher["answers"].lengths)))
    found = [(int(label), sorted(each.tolist())) for label, each in zip(batch.labels, lists.lists(), strict=True)]
    assert sorted(found) == sorted(wanted)
    assert sorted(len(each) for _, each in found)[-3:] == [1, 2, 2]


@pytest.fixture(scope="module")
def done(beir, encoder, tmp_path_factory):
    storage = str(tmp_path_factory.mktemp("runs"))
    return api.run(
        experiment(beir, encoder, train={"steps": 200, "eval_every": 100}), storage=storage, name="run", local=True
    )


def test_a_run_learns_to_rank_and_leaves_what_it_should(done, beir):
    last = done.metrics.iloc[-1]
    ceiling = done.record["teacher"]["labeler"]["quality"]["test"]
    assert set(ranking.NAMES) <= set(ceiling)
    # By chance 20 of 48 documents are 42 %.
    assert last.test_recall_at_20 > 60
    assert last.test_ndcg_at_10 > 0.7 * ceiling["ndcg_at_10"]
    assert 0 < last.train_distance_synthetic < 1.5
    folder = Path(done.folder)
    assert {"student.safetensors", "tokenizer.json", "gallery.html", "gallery.parquet", "fit_check.html"} <= {
        each.name for each in folder.iterdir()
    }
    scan = Retrieval(data={"type": "beir", "path": str(beir)}).scan()
    each = pd.read_csv(folder / "per_query.csv")
    assert each["query_text"].tolist() == scan.tables["test"]["text"].to_pylist()
    # They are found again in the files that they are from.
    asked = pd.DataFrame(queries()).set_index("_id").loc[each["query_id"]]
    assert each["query_text"].tolist() == asked["text"].tolist()
    answers = pd.DataFrame(judged("test")).set_index("query-id")["corpus-id"]
    assert each["best_answer_id"].tolist() == answers[each["query_id"]].tolist()
    titles = pd.DataFrame(corpus()).set_index("_id")["title"]
    for which in ("first", "best_answer"):
        said = each[f"{which}_text"].str.partition(".")[0]
        assert said.tolist() == titles[each[f"{which}_id"]].tolist()
    assert ((each["rank"] == 1) == (each["first_id"] == each["best_answer_id"])).all()
    for name in ranking.NAMES:
        assert each[name].mean() == pytest.approx(last[f"test_{name}"])
    found = each[each["rank"].notna()]
    assert np.allclose(found.mrr_at_10, np.where(found["rank"] <= 10, 100 / found["rank"], 0))
    assert (found[found["rank"] == 1].mrr_at_10 == 100).all()
    shown = pd.read_parquet(folder / "gallery.parquet")
    assert ((shown.teacher_p > 0) & (shown.teacher_p <= 1)).all()
    assert "red car" in (folder / "gallery.html").read_text()


def test_no_run_is_called_as_a_folder_that_the_storage_keeps(done):
    kept = {each.name for each in Path(done.folder).parent.iterdir()} - {"run"}
    assert {"documents", "teachers", "vocabularies"} <= kept
    for name in kept:
        with pytest.raises(ConfigError, match="the storage keeps its own files there"):
            check_name(name)


def test_the_teacher_cache_has_no_scores_of_all_documents(done):
    import safetensors.numpy

    cache = Path(done.folder).parent / "teacher_cache"
    shapes = [{n: v.shape for n, v in safetensors.numpy.load(file.read_bytes()).items()} for file in cache.iterdir()]
    assert shapes == [{"embedding": (48, 32)}]


def test_documents_are_embedded_again_only_where_they_would_differ(beir, encoder, tmp_path):
    def prepared(**changes):
        config = experiment(beir, encoder, **changes)
        data = config.task.load()
        return prepare_teacher(config.teacher, config.task, data, Storage(str(tmp_path)))[1]["labeler"]

    def files():
        return {each.name for each in (tmp_path / "documents").iterdir()}

    first, there = prepared(), files()
    assert len(there) == 1
    # Queries that are cut elsewhere are others for the teacher's quality, and documents stay as they are.
    cut = prepared(task={"max_bytes": 8, "vocabulary": 350})
    assert cut["identity"] == first["identity"]
    assert cut["quality"]["test"] != first["quality"]["test"]
    assert files() == there
    labeler = {"type": "dual_encoder", "path": str(encoder), "max_tokens": 24}
    prepared(teacher={"labeler": {**labeler, "temperature": 0.1, "query_prefix": "ask: "}})
    assert files() == there
    prepared(teacher={"labeler": {**labeler, "document_prefix": "find: "}})
    prepared(teacher={"labeler": {**labeler, "normalize": False}})
    assert len(files()) == 3


def test_queries_as_they_are_come_with_what_the_teacher_says(beir, encoder, tmp_path):
    config = experiment(beir, encoder, task={"labelled": {"rows": 8}}, explorer={"type": "identity"})
    found = api.run(config, storage=str(tmp_path), name="identity", local=True)
    shown = pd.read_parquet(tmp_path / "identity/gallery.parquet")
    assert (shown.explored == shown.anchor_text).all() and shown.anchor_class.isna().any()
    assert found.record["teacher"]["generator"] is None, "no row is made"
    with pytest.raises(ConfigError, match="'identity' takes anchors as they are, and"):
        experiment(beir, encoder, explorer={"type": "identity"}, teacher={"generator": {"type": "spans"}})
    # Before a sweep starts, and not when the control's turn has come.
    spans = experiment(beir, encoder, task={"labelled": {"rows": 8}}, teacher={"generator": {"type": "spans"}})
    sweep = {"experiment": spans.model_dump(mode="json"), "space": {"train.learning_rate": {"choice": [0.1]}}}
    assert validate(SweepConfig, sweep).search.controls == ["one_hot", "distillation"]
    with pytest.raises(ConfigError, match=r"search\.controls: 'anchors': .*'identity' takes anchors as they are"):
        validate(SweepConfig, sweep | {"search": {"controls": ["anchors"]}})


def test_queries_are_made_from_documents(beir, encoder, tmp_path):
    config = experiment(
        beir, encoder, task={"labelled": {"rows": 8}}, teacher={"generator": {"type": "spans", "most_words": 6}}
    )
    found = api.run(config, storage=str(tmp_path), name="spans", local=True)
    shown = pd.read_parquet(tmp_path / "spans/gallery.parquet")
    assert all(row.explored in row.anchor_text for row in shown.itertuples())
    assert (shown.anchor_class == shown.anchor).all()
    assert found.record["teacher"]["fit_check"]["agreement_explored"] > 20
    assert "coverage_explored" not in found.record["teacher"]["fit_check"], "classes are documents"
    assert "no trained query generator was used" in found.record["teacher"]["generator"]["queries"]


def test_a_trained_model_writes_queries_of_documents(beir, encoder, writer, tmp_path):
    config = experiment(beir, encoder, task={"labelled": {"rows": 8}}, teacher={"generator": doc2query(writer)})
    found = api.run(config, storage=str(tmp_path), name="written", local=True)
    shown = pd.read_parquet(tmp_path / "written/gallery.parquet")
    assert (shown.anchor_class == shown.anchor).all()
    begins = [text.startswith(query.split()[0]) for text, query in zip(shown.anchor_text, shown.explored, strict=True)]
    assert np.mean(begins) > 0.8
    assert found.record["teacher"]["fit_check"]["agreement_explored"] > 20
    assert found.record["teacher"]["generator"]["weights"].endswith("writer")


def test_rows_without_answers_are_anchors_of_what_the_teacher_finds(beir, encoder, tmp_path):
    config = experiment(beir, encoder, task={"labelled": {"rows": 8}})
    data = config.task.load()
    prepared = prepare_local(config, data, Storage(str(tmp_path)))
    assert len(prepared.anchors.ids) == 48
    assert (prepared.anchors.labels[:8] == data.labels("train")).all()
    # The teacher finds most of them.
    texts = data.tables["unlabelled"]["text"].to_pylist()
    documents = data.tables["documents"]["document"].to_pylist()
    right = [
        documents[label].split(".")[0] in text for label, text in zip(prepared.anchors.labels[8:], texts, strict=True)
    ]
    assert np.mean(right) > 0.5


def moved_by_gradients(beir, encoder, folder, **train):
    """An experiment with 100 rows in a request, and a masked language model that is written to a folder."""
    import transformers as t

    tokenizer = t.AutoTokenizer.from_pretrained(encoder)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    t.BertForMaskedLM(t.BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(folder / "masked")
    tokenizer.save_pretrained(folder / "masked")
    return experiment(
        beir,
        encoder,
        explorer={"type": "gradient"},
        teacher={"generator": {"type": "masked_lm", "path": str(folder / "masked"), "max_tokens": 20}},
        student={"type": "text_encoder", "path": str(encoder), "max_tokens": 20},
        train={"learning_rate": 1e-3, **train},
        pool={"rows_per_request": 100},
    )


def test_gradients_move_queries_a_few_at_a_time(beir, encoder, tmp_path, monkeypatch):
    sizes, relax = [], Teacher.relax

    def noted(self, latents, *more):
        sizes.append(len(latents))
        return relax(self, latents, *more)

    monkeypatch.setattr(Teacher, "relax", noted)
    config = moved_by_gradients(beir, encoder, tmp_path, steps=20, eval_every=20)
    found = api.run(config, storage=str(tmp_path), name="gradient", local=True)
    assert found.metrics.iloc[-1].test_recall_at_20 > 0
    assert {64, 36} <= set(sizes) and max(sizes) == 64, "of a request of 100 rows"


def test_queries_that_gradients_moved_go_on_exactly(beir, encoder, tmp_path):
    """Their lists of answers differ in length, and are in the checkpoint as well."""
    config, storage = moved_by_gradients(beir, encoder, tmp_path, steps=12, eval_every=6), Storage(str(tmp_path))
    prepared, checkpoints = prepare_local(config, config.task.load(), storage), storage.within("cut")
    whole = train_local(config, prepared, storage)
    with pytest.raises(Killed):
        train_local(config, prepared, storage, checkpoints, kill_at(6))
    state = torch.load(io.BytesIO(checkpoints.read(STATE_FILE)), weights_only=True)
    (rest,) = state["reading"]["rests"]
    assert "answers.lengths" in rest["columns"] and 0 < len(rest["inputs"]) < 100
    assert weights_of(train_local(config, prepared, storage, checkpoints)) == weights_of(whole)
