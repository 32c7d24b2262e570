"""A small sweep end to end: files, controls, a failing trial, dashboards' inputs."""

import contextlib
import logging
from pathlib import Path
from typing import ClassVar

import optuna
import pandas as pd
import pytest
import safetensors.torch
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.helpers.retrieval import experiment
from tgt_ray.core.loading import with_overrides
from tgt_ray.entrypoints import api
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps.config import SweepConfig

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def result(ray_cluster, prepared, storage) -> api.SweepResult:
    """Grid over a learning rate that trains and one that makes the loss NaN, and the one-hot control."""
    values = [("explorer.type", "none"), ("train.optimizer", "sgd"), ("train.steps", 120), ("train.eval_every", 60)]
    config = SweepConfig.model_validate(
        {
            "experiment": with_overrides(prepared.experiment.model_dump(mode="json"), values),
            "space": {"train.learning_rate": {"choice": [0.05, 1e30]}},
            "search": {"algorithm": "grid", "controls": ["one_hot"], "scheduler": "none"},
        }
    )
    # As a URI: what a cluster's storage is, on a file system that every machine has.
    with heard("ray.tune"), heard("tgt_ray"):
        return api.run_sweep(config, storage=f"file://{storage.root}", name="small-sweep")


class Told(logging.Handler):
    """What Tune and the project say."""

    messages: ClassVar[list[str]] = []

    def emit(self, record):
        self.messages.append(self.format(record))


@contextlib.contextmanager
def heard(name):
    """Keep what a logger says, as a program that has set up logging does."""
    logger, told = logging.getLogger(name), Told()
    level = logger.level
    logger.addHandler(told)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(told)
        logger.setLevel(level)


def test_a_failed_trial_prints_its_reason_and_no_traceback(result):
    assert not [message for message in Told.messages if "Traceback" in message]
    (line,) = [message for message in Told.messages if " failed, " in message]
    assert "not finite" in line and "learning_rate" in line


def test_a_trial_with_nan_fails_with_its_reason_and_the_sweep_goes_on(result):
    by_status = result.trials.groupby("status").size().to_dict()
    assert by_status == {"finished": 2, "failed": 1}
    (reason,) = result.trials[result.trials.status == "failed"].reason
    assert "not finite" in reason and "learning_rate" in reason


def test_the_best_trial_is_kept_with_config_metrics_and_weights(result, storage):
    assert result.best is not None and result.best["train.learning_rate"] == 0.05
    best = Experiment.model_validate(yaml.safe_load(storage.read("small-sweep", "best", "experiment.yaml")))
    assert best.train.learning_rate == 0.05
    weights = safetensors.torch.load(storage.read("small-sweep", "best", "student.safetensors"))
    assert "criterion.head.weight" in weights


def test_tables_study_and_tensorboard_logs_are_there(result, storage):
    table = pd.read_csv(storage.path("small-sweep", "trials.csv"), dtype={"trial": str})
    pd.testing.assert_series_equal(
        table["trial"], pd.read_parquet(storage.path("small-sweep", "trials.parquet"))["trial"], check_dtype=False
    )
    assert list(table["control"].dropna()) == ["one_hot"]
    study = optuna.load_study(
        study_name="small-sweep",
        storage=JournalStorage(JournalFileBackend(storage.path("small-sweep", "optuna_journal.log"))),
    )
    assert sorted(trial.state.name for trial in study.trials) == ["COMPLETE", "FAIL"]
    events = list(Path(storage.path("small-sweep", "tensorboard")).glob("curves/*/events.out.tfevents.*"))
    assert {file.parent.name for file in events} >= {"01 control one_hot", "02 learning_rate 0.05"}
    assert not storage.exists("small-sweep", "tune"), "nothing of Tune's own"
    scores = list(Path(storage.path("small-sweep", "tensorboard")).glob("hparams/02*/events.out.tfevents.*"))
    assert all(key.encode() in scores[0].read_bytes() for key in result.config.space), "the columns of the HParams tab"


def test_the_record_says_what_was_run(result):
    assert result.record["kind"] == "sweep" and result.record["config"]["search"]["seed"] == 0
    assert result.record["environment"]["packages"]["ray"]
    assert result.record["teacher"]["labeler"]["reused"] is True


def test_the_best_student_is_measured_at_the_end(result):
    found = result.record["speed"]
    assert found["trial"] == result.best.trial and found["student"]["parameters"] > 100
    assert set(found["against_teacher"]) >= {"bytes", "latency", "rows_per_second"}
    assert [line for line in repr(result).splitlines() if line.startswith("student: ") and "its teacher is" in line]


@pytest.mark.slow
def test_anchors_as_they_are_are_streamed_to_a_control_on_the_lane_of_other_trials(ray_cluster, prepared, storage):
    values = [("explorer.type", "random"), ("train.steps", 60), ("train.eval_every", 30)]
    config = SweepConfig.model_validate(
        {
            "experiment": with_overrides(prepared.experiment.model_dump(mode="json"), values),
            "space": {"train.learning_rate": {"choice": [0.01]}},
            "search": {"algorithm": "grid", "controls": ["anchors"], "scheduler": "none", "concurrent": 1},
        }
    )
    table = api.run_sweep(config, storage=str(storage.root), name="anchors").trials
    assert table.status.tolist() == ["finished", "finished"] and table.control.dropna().tolist() == ["anchors"]
    assert (table.test_balanced_accuracy > 30).all(), "10 by chance"


@pytest.mark.slow
def test_a_stopped_trial_gives_its_place_back(ray_cluster, prepared, storage):
    from ray.util.placement_group import placement_group_table

    values = [("explorer.type", "none"), ("train.steps", 400), ("train.eval_every", 40)]
    config = SweepConfig.model_validate(
        {
            "experiment": with_overrides(prepared.experiment.model_dump(mode="json"), values),
            # The first is good, so that asha stops the ones that hardly learn.
            "space": {"train.learning_rate": {"choice": [0.01, 1e-7, 2e-7]}},
            "search": {
                "algorithm": "grid",
                "controls": [],
                "grace_evaluations": 1,
                "reduction_factor": 2,
                "concurrent": 1,
            },
        }
    )
    result = api.run_sweep(config, storage=storage.root, name="asha")
    assert "stopped early" in set(result.trials.status), "nothing was stopped, so nothing was tested"
    assert [g for g in placement_group_table().values() if g["state"] != "REMOVED"] == []


@pytest.mark.slow
def test_a_sweep_goes_by_the_first_metric_of_its_task(ray_cluster, beir, encoder, tmp_path):
    config = experiment(beir, encoder).model_dump(mode="json")
    space = {"train.synthetic_ratio": {"uniform": [0.2, 0.8]}, "objective.embedding_weight": {"choice": [0.0, 1.0]}}
    found = api.run_sweep(
        {"experiment": config, "space": space, "search": {"trials": 2, "concurrent": 1}},
        storage=str(tmp_path),
        name="sweep",
    )
    assert found.config.search.metric == "ndcg_at_10"
    assert set(found.trials.status) <= {"finished", "stopped early"}
    assert set(found.trials.control.dropna()) == {"one_hot", "distillation"}
    assert found.best is not None
