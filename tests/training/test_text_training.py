"""Runs on texts with the built-in models, all from scratch: explorers, objectives, pairs, and going on after a stop."""

import logging

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from tests.helpers.text_runs import GENERATORS, SIZE, experiment
from tgt_ray import run
from tgt_ray.core.storage import Storage
from tgt_ray.results.ledger import SUMMED
from tgt_ray.training import local


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    return str(tmp_path_factory.mktemp("storage"))


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("explorer", ["random", "gradient", "random-matched"])
def test_each_explorer_trains_a_student(sentences, storage, generator, explorer):
    config = experiment(sentences, generator, explorer={"type": explorer, "sigma": 0.5})
    done = run(config, storage=storage, local=True)
    last = done.metrics.iloc[-1]
    assert last.test_balanced_accuracy > 60
    assert ("lag_max" in done.metrics) == (explorer == "gradient")
    rows = pd.read_parquet(f"{done.folder}/gallery.parquet")
    assert (rows.anchor_text != rows.explored).any()
    tokenizer = Tokenizer.from_file(f"{done.folder}/tokenizer.json")
    assert tokenizer.decode(tokenizer.encode("the film was joy").ids).strip() == "the film was joy"
    assert "<table" in Storage(done.folder).read("gallery.html").decode()


def test_a_student_learns_from_subclasses_of_texts(sentences, storage):
    train = {"steps": 60, "batch_size": 16, "learning_rate": 5e-3, "eval_every": 30}
    config = experiment(sentences, objective={"type": "lelp", "subclasses": 3}, train=train)
    done = run(config, storage=storage, local=True)
    assert done.metrics.iloc[-1].test_balanced_accuracy > 60


def test_a_student_learns_to_be_consistent(sentences, storage):
    train = {"steps": 80, "batch_size": 16, "learning_rate": 5e-3, "eval_every": 40}
    explorer, task = {"type": "random", "sigma": 0}, {"labelled": {"rows": 40}}
    config = experiment(
        sentences, objective={"type": "consistency", "threshold": 0.5}, task=task, explorer=explorer, train=train
    )
    last = run(config, storage=storage, local=True).metrics.iloc[-1]
    assert 0 < last.train_sure <= 1
    assert last.test_balanced_accuracy > 60


def test_pairs_stay_pairs(sentences, storage):
    done = run(experiment(sentences, data={"pair_column": "hypothesis"}), storage=storage, local=True)
    rows = pd.read_parquet(f"{done.folder}/gallery.parquet")
    assert all(text.count("\x1f") == 1 for text in [*rows.anchor_text, *rows.explored])


def test_unlabelled_texts_are_anchors(sentences, storage):
    config = experiment(sentences, task={"labelled": {"rows": 20}})
    done = run(config, storage=storage, local=True)
    rows = pd.read_parquet(f"{done.folder}/gallery.parquet")
    assert rows.anchor_class.isna().any(), "most anchors have no label"


def test_texts_that_never_had_a_label_are_anchors(sentences, storage, tmp_path):
    """The generator learns from them, the labeler, which is trained on `full` as well, doesn't."""
    for split in ("train", "validation", "test"):
        table = pq.read_table(sentences / f"{split}.parquet")
        labels = [
            label if split != "train" or row % 4 == 0 else None for row, label in enumerate(table["label"].to_pylist())
        ]
        pq.write_table(table.set_column(2, "label", pa.array(labels)), tmp_path / f"{split}.parquet")
    for more in ({}, {"labelled": {"rows": 20}}):
        config = experiment(tmp_path, task={"unlabelled": "anchors", **more})
        done = run(config, storage=storage, local=True)
        data = config.task.load()
        assert [len(data.tables[name]) for name in ("full", "train")] == [160, 20 if more else 40]
        rows = pd.read_parquet(f"{done.folder}/gallery.parquet")
        assert rows.anchor_class.isna().any(), "most anchors have no label"
        assert set(rows.anchor_class.dropna()) <= {0, 1}
        assert done.metrics.iloc[-1].test_balanced_accuracy > 60


@pytest.mark.parametrize(
    "explorer, generator, rows",
    [("random", "masked_lm", 16), ("gradient", "masked_lm", 20), ("gradient", "seq2seq", 20)],
)
def test_a_run_goes_on_exactly(sentences, tmp_path, monkeypatch, explorer, generator, rows):
    """Of 20 rows in a request, 16 of the last one are used at the checkpoint."""
    storage = str(tmp_path)
    config = experiment(
        sentences,
        generator,
        explorer={"type": explorer, "sigma": 0.5},
        pool={"rows_per_request": rows, "window": 4},
        objective={"type": "lelp", "subclasses": 2},
    )
    whole = run(config, storage=storage, name="whole", local=True)
    steps = iter(range(18))
    train_step = local.StudentRun.train_step

    def stops(self, reader):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        train_step(self, reader)

    monkeypatch.setattr(local.StudentRun, "train_step", stops)
    with pytest.raises(KeyboardInterrupt):
        run(config, storage=storage, name="cut", local=True)
    monkeypatch.undo()
    cut = run(config, storage=storage, name="cut", local=True, resume=True)
    ends = ("_s", "wait_share", *SUMMED, "bank_bytes")
    timed = [name for name in whole.metrics if name.endswith(ends)]
    pd.testing.assert_frame_equal(cut.metrics.drop(columns=timed), whole.metrics.drop(columns=timed))
    for name in ("student.safetensors", "gallery.parquet", "per_class.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_texts_longer_than_a_model_s_tokens_are_said_once(sentences, storage, caplog):
    config = experiment(sentences, student={"type": "text_transformer", **SIZE, "max_tokens": 6})
    with caplog.at_level(logging.WARNING):
        run(config, storage=storage, local=True)
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("student: cuts")]
    assert len(said) == 1
    assert "of 160 train texts to its 6 tokens" in said[0]
