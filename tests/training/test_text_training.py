"""Runs on texts with the built-in models, all from scratch: explorers, objectives, pairs, and going on after a stop."""

import logging

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from tgt_ray import run, run_sweep
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.advice import warn_of_cut_texts, warn_of_odd_settings
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.space import Distribution

GOOD, BAD = ("joy", "delight", "wonder"), ("boredom", "noise", "gloom")


def sentences_of(rng, count):
    """Sentences with a good or a bad word in them, and which it is."""
    labels = rng.integers(0, 2, count)
    subjects, verbs = ("the film", "this book", "my evening", "her new song"), ("was", "is", "brings", "gave us")
    texts = [
        f"{rng.choice(subjects)} {rng.choice(verbs)} {rng.choice(GOOD if label else BAD)} today" for label in labels
    ]
    return texts, labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("texts"), np.random.default_rng(0)
    for split, count in (("train", 160), ("validation", 40), ("test", 60)):
        texts, labels = sentences_of(rng, count)
        hypotheses, _ = sentences_of(rng, count)
        pq.write_table(pa.table({"text": texts, "hypothesis": hypotheses, "label": labels}), root / f"{split}.parquet")
    return root


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    return str(tmp_path_factory.mktemp("storage"))


SIZE = {"layers": 1, "width": 16, "heads": 2, "max_tokens": 24}
GENERATORS = {
    "masked_lm": {"type": "masked_lm", **SIZE, "pretrain": {"steps": 40, "batch_size": 32}},
    "seq2seq": {"type": "seq2seq", **SIZE, "pretrain": {"steps": 40, "batch_size": 32}},
}


def experiment(folder, generator="masked_lm", **changes):
    data = {
        "task": {
            "type": "text_classification",
            "data": {"type": "parquet", "path": str(folder), **changes.pop("data", {})},
            "max_bytes": 128,
            "vocabulary": 400,
            **changes.pop("task", {}),
        },
        "teacher": {
            "labeler": {"type": "text_transformer", **SIZE, "pretrain": {"steps": 60, "learning_rate": 5e-3}},
            "generator": GENERATORS[generator],
        },
        "student": {"type": "text_transformer", **SIZE},
        "explorer": {"type": "random", "sigma": 0.5},
        "train": {"steps": 24, "batch_size": 16, "learning_rate": 5e-3, "eval_every": 12},
        "pool": {"rows_per_request": 16, "window": 4},
        "fit_check": {"rows": 30, "minimum": 0},
        **changes,
    }
    return validate(Experiment, data)


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("explorer", ["random", "gradient", "random-matched"])
def test_each_explorer_trains_a_student(folder, storage, generator, explorer):
    config = experiment(folder, generator, explorer={"type": explorer, "sigma": 0.5})
    done = run(config, storage=storage, local=True)
    last = done.metrics.iloc[-1]
    assert last.test_balanced_accuracy > 60
    assert ("lag_max" in done.metrics) == (explorer == "gradient")
    rows = pd.read_parquet(f"{done.folder}/gallery.parquet")
    assert (rows.anchor_text != rows.explored).any()
    tokenizer = Tokenizer.from_file(f"{done.folder}/tokenizer.json")
    assert tokenizer.decode(tokenizer.encode("the film was joy").ids).strip() == "the film was joy"
    assert "<table" in Storage(done.folder).read("gallery.html").decode()


def test_a_student_learns_from_subclasses_of_texts(folder, storage):
    train = {"steps": 60, "batch_size": 16, "learning_rate": 5e-3, "eval_every": 30}
    config = experiment(folder, objective={"type": "lelp", "subclasses": 3}, train=train)
    done = run(config, storage=storage, local=True)
    assert done.metrics.iloc[-1].test_balanced_accuracy > 60


def test_a_student_learns_to_be_consistent(folder, storage):
    train = {"steps": 80, "batch_size": 16, "learning_rate": 5e-3, "eval_every": 40}
    explorer, task = {"type": "random", "sigma": 0}, {"labelled": {"rows": 40}}
    config = experiment(
        folder, objective={"type": "consistency", "threshold": 0.5}, task=task, explorer=explorer, train=train
    )
    last = run(config, storage=storage, local=True).metrics.iloc[-1]
    assert 0 < last.train_sure <= 1
    assert last.test_balanced_accuracy > 60


def test_pairs_stay_pairs(folder, storage):
    done = run(experiment(folder, data={"pair_column": "hypothesis"}), storage=storage, local=True)
    rows = pd.read_parquet(f"{done.folder}/gallery.parquet")
    assert all(text.count("\x1f") == 1 for text in [*rows.anchor_text, *rows.explored])


def test_unlabelled_texts_are_anchors(folder, storage):
    config = experiment(folder, task={"labelled": {"rows": 20}})
    done = run(config, storage=storage, local=True)
    rows = pd.read_parquet(f"{done.folder}/gallery.parquet")
    assert rows.anchor_class.isna().any(), "most anchors have no label"


def test_texts_that_never_had_a_label_are_anchors(folder, storage, tmp_path):
    """The generator learns from them, the labeler, which is trained on `full` as well, doesn't."""
    for split in ("train", "validation", "test"):
        table = pq.read_table(folder / f"{split}.parquet")
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


def test_a_run_goes_on_exactly(folder, storage, monkeypatch):
    from tgt_ray.training import local

    config = experiment(folder)
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
    for name in ("train_loss", "balanced_accuracy", "test_balanced_accuracy"):
        assert cut.metrics.iloc[-1][name] == whole.metrics.iloc[-1][name]


def test_texts_longer_than_a_model_s_tokens_are_said_once(folder, storage, caplog):
    config = experiment(folder, student={"type": "text_transformer", **SIZE, "max_tokens": 6})
    with caplog.at_level(logging.WARNING):
        run(config, storage=storage, local=True)
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("student: cuts")]
    assert len(said) == 1
    assert "of 160 train texts to its 6 tokens" in said[0]


def test_texts_without_labels_that_are_cut_are_counted(folder, caplog):
    """Most of what a generator reads, where few rows have labels; nothing reads them where nothing is generated."""
    generator, labeler = GENERATORS["masked_lm"] | {"max_tokens": 6}, {"type": "text_transformer", **SIZE}
    teacher = {"labeler": labeler, "generator": generator}
    for explorer, parts, there in (("random", ("teacher.generator", "student"), 160), ("none", ("student",), 20)):
        config = experiment(
            folder,
            teacher=teacher,
            task={"labelled": {"rows": 20}},
            student={"type": "text_transformer", **SIZE, "max_tokens": 6},
            explorer={"type": explorer},
        )
        caplog.clear()
        data = config.task.load()
        warn_of_cut_texts(config, data)
        said = [record.getMessage() for record in caplog.records if ": cuts " in record.getMessage()]
        assert [line.partition(":")[0] for line in said] == list(parts)
        assert all(f" of {there} train texts to its 6 tokens" in line for line in said)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"explorer": {"type": "interpolation"}},
            "explorer.type: 'interpolation' goes between the latents of two anchors, and teacher.generator.type 'masked_lm'",
        ),
        (
            {
                "data": {"pair_column": "hypothesis"},
                "teacher": {"generator": {"type": "seq2seq", "decoding": "sample"}},
            },
            "task.data.pair_column: 'hypothesis', but teacher.generator.type 'seq2seq' writes one text for a pair",
        ),
        (
            {"explorer": {"type": "gradient"}, "teacher": {"generator": {"type": "causal_lm", "path": "x/y"}}},
            "'gradient' needs gradients through the generator, and teacher.generator.type 'causal_lm' gives none",
        ),
        (
            {"explorer": {"type": "random-matched"}, "teacher": {"generator": {"type": "causal_lm", "path": "x/y"}}},
            "explorer.type: 'random-matched' moves latents, and teacher.generator.type 'causal_lm' has none; use random",
        ),
    ],
)
def test_what_a_generator_can_not_serve_is_refused(folder, changes, says):
    labeler = {"labeler": {"type": "text_transformer"}}
    if "teacher" in changes:
        changes = {**changes, "teacher": {**labeler, **changes["teacher"]}}
    with pytest.raises(ConfigError, match=says):
        experiment(folder, **changes)


def test_gradients_need_one_vocabulary(folder, storage):
    student = {"type": "text_encoder", "path": "some/hub-name"}
    config = experiment(folder, explorer={"type": "gradient"}, student=student)
    with pytest.raises(
        ConfigError, match=r"teacher\.generator and student differ \(the task's own and some/hub-name\)"
    ):
        run(config, storage=storage, local=True)
    trials = {"experiment": config.model_dump(mode="json"), "search": {"trials": 1}}
    trials["experiment"]["explorer"] = {"type": "random"}
    trials["space"] = {"explorer.type": {"choice": ["random", "gradient"]}}
    with pytest.raises(
        ConfigError, match=r"space\.explorer\.type = 'gradient': .*teacher\.generator and student differ"
    ):
        run_sweep(trials, storage=storage)


SPACE = {"objective.temperature": Distribution(uniform=(1, 2))}


@pytest.mark.parametrize(
    ("changes", "space", "warned"),
    [
        ({"train": {"learning_rate": 1e-2}}, {}, "train.learning_rate: 0.01 is likely to undo"),
        ({"train": {"learning_rate": 3e-5}}, {}, ""),
        ({"train": {"learning_rate": 1e-2}}, {"train.learning_rate": [1e-5, 1e-4]}, ""),
        ({"train": {"learning_rate": 3e-5}}, {"train.learning_rate": [1e-5, 2e-2]}, "train.learning_rate: 0.02 is"),
        (
            {"objective": {"type": "distillation", "label_loss": {"type": "ldam"}}},
            {},
            "objective.label_loss: 'ldam' is weighted by 1 - alpha",
        ),
        ({"objective": {"type": "distillation", "label_loss": {"type": "ldam"}, "alpha": 0.5}}, {}, ""),
        ({"objective": {"type": "distillation", "label_loss": {"type": "ldam"}}}, {"objective.alpha": [0.1, 0.9]}, ""),
    ],
)
def test_what_is_hardly_ever_meant_is_warned_of(folder, caplog, changes, space, warned):
    student = {"type": "text_encoder", "path": "some/hub-name"}
    config = experiment(folder, student=student, **{"train": {"learning_rate": 3e-5}, **changes})
    sweep = SweepConfig(
        experiment=config, space={key: Distribution(uniform=ends) for key, ends in space.items()} or SPACE
    )
    warn_of_odd_settings(config, sweep.largest_values())
    assert (warned in caplog.text) if warned else not caplog.text
