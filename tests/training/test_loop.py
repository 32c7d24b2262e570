"""The training loop: what it reports, what it computes, and how it ends."""

import shutil

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.helpers.experiments import short
from tests.helpers.stops import Killed, kill_at, weights_of
from tgt_ray.core import progress
from tgt_ray.core.storage import Storage
from tgt_ray.training.evaluation import Evaluation
from tgt_ray.training.local import train_local
from tgt_ray.training.run import Diverged, StudentRun


def test_runs_repeat_exactly_and_follow_their_seed(prepared, storage):
    first, again, other = (
        weights_of(train_local(short(prepared.experiment, train__seed=seed), prepared.prepared, storage))
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_a_diverging_run_is_stopped_with_the_reason(prepared, storage):
    config = short(prepared.experiment, explorer__type="none", train__learning_rate=1e30, train__optimizer="sgd")
    with pytest.raises(Diverged, match=r"not finite by step \d+; lower train\.learning_rate"):
        train_local(config, prepared.prepared, storage)


def spied_splits(monkeypatch) -> list[tuple[int, str]]:
    seen, scores, steps = [], Evaluation.scores, []
    train_step = StudentRun.train_step

    def counted(self, reader):
        train_step(self, reader)
        steps.append(self.step)

    def spy(self, split):
        seen.append((steps[-1], split))
        return scores(self, split)

    monkeypatch.setattr(StudentRun, "train_step", counted)
    monkeypatch.setattr(Evaluation, "scores", spy)
    return seen


def test_validation_is_measured_at_each_report_and_test_once_at_the_end(prepared, digits, storage, monkeypatch):
    seen = spied_splits(monkeypatch)
    reports = []
    train_local(short(prepared.experiment, train__eval_every=5), prepared.prepared, storage, report=reports.append)
    assert seen == [(5, "validation"), (10, "validation"), (12, "validation"), (12, "test")]
    assert [row["step"] for row in reports] == [5, 10, 12]
    metrics = prepared.experiment.task.metrics_of(digits)
    assert all(metric in row for row in reports for metric in metrics)
    assert [f"test_{metrics[0]}" in row for row in reports] == [False, False, True]
    assert all({"train_loss", "train_ce", "train_kl_real", "train_kl_synthetic"} <= row.keys() for row in reports)


def test_a_run_that_diverges_never_sees_the_test_split(prepared, storage, monkeypatch):
    seen = spied_splits(monkeypatch)
    config = short(prepared.experiment, explorer__type="none", train__learning_rate=1e30, train__optimizer="sgd")
    with pytest.raises(Diverged):
        train_local(config, prepared.prepared, storage)
    assert "test" not in {split for _, split in seen}


@pytest.mark.parametrize("explorer, lag", [("gradient", True), ("random", False), ("interpolation", False)])
def test_lag_is_reported_where_the_explorer_looks_at_the_student(prepared, storage, explorer, lag):
    history = train_local(short(prepared.experiment, explorer__type=explorer), prepared.prepared, storage).history
    assert ("lag_max" in history[-1]) is lag
    assert "wait_share" in history[-1]
    if lag:
        rows_per_step = 16 * 0.5
        assert 0 <= history[-1]["lag_p50"] <= history[-1]["lag_max"] <= 24 / rows_per_step


def test_without_synthetic_rows_there_is_no_stream_to_report_on(prepared, storage):
    for overrides in ({"explorer__type": "none"}, {"train__synthetic_ratio": 0.0}):
        history = train_local(short(prepared.experiment, **overrides), prepared.prepared, storage).history
        assert not {"wait_share", "lag_max"} & history[-1].keys()
        assert history[-1]["train_kl_synthetic"] == 0


def test_training_teaches(prepared, storage):
    config = short(
        prepared.experiment, train__steps=120, train__eval_every=120, explorer__type="random", train__batch_size=32
    )
    untrained = StudentRun(config, prepared.prepared.student).evaluation.metrics("validation")["balanced_accuracy"]
    trained = train_local(config, prepared.prepared, storage).history[-1]["balanced_accuracy"]
    assert trained > max(40, untrained + 20)


def test_scores_do_not_depend_on_the_rows_beside_them_and_training_goes_on(prepared):
    run = StudentRun(short(prepared.experiment), prepared.prepared.student)
    scores = run.evaluation.scores("validation")
    assert run.student.training
    with torch.no_grad():
        first = run.student.eval().scores(
            run.experiment.task.inputs(run.data.tables["validation"].slice(0, 1), (1, 8, 8))
        )
    np.testing.assert_allclose(scores[:1], first, atol=1e-5)


def test_the_memory_layout_changes_nothing_but_speed(prepared, storage):
    runs = [
        train_local(short(prepared.experiment, train__channels_last=on), prepared.prepared, storage)
        for on in (True, False)
    ]
    layouts = [next(p for p in run.student.parameters() if p.ndim == 4 and p.shape[1] > 1) for run in runs]
    assert [p.is_contiguous(memory_format=torch.channels_last) for p in layouts] == [True, False]
    assert runs[0].history[-1]["train_loss"] == pytest.approx(runs[1].history[-1]["train_loss"], rel=1e-3)


@pytest.mark.slow
def test_a_compiled_student_trains_alike(prepared, storage):
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    runs = [
        train_local(short(prepared.experiment, train__compile=on), prepared.prepared, storage) for on in (True, False)
    ]
    assert runs[0].history[-1]["train_loss"] == pytest.approx(runs[1].history[-1]["train_loss"], rel=1e-3)
    assert set(safetensors.torch.load(weights_of(runs[0]))) == set(safetensors.torch.load(weights_of(runs[1])))


class Recorded:
    """Takes the phases of a process."""

    def __init__(self):
        self.updates: list[tuple[str, int, int]] = []
        self.ends: list[tuple[str, int, int | None]] = []

    def update(self, phase):
        self.updates.append((phase.what, phase.before, phase.done))

    def end(self, phase):
        self.ends.append((phase.what, phase.done, phase.total))


def test_training_and_evaluation_say_how_far_they_are(prepared, storage, tmp_path, monkeypatch, digits):
    monkeypatch.setattr(progress, "FIRST_S", 0.0)
    config, checkpoints, seen = short(prepared.experiment), Storage(tmp_path), Recorded()
    with progress.shown_by(seen), pytest.raises(Killed):
        train_local(config, prepared.prepared, storage, checkpoints, kill_at(4))
    assert [each for each in seen.updates if each[0] == "training"] == [("training", 0, step) for step in (1, 2, 3, 4)]
    rows = len(digits.tables["validation"])
    assert seen.ends == [("evaluation", rows, rows), ("training", 4, 12)]
    seen = Recorded()
    with progress.shown_by(seen):
        train_local(config, prepared.prepared, storage, checkpoints)
    steps = [each for each in seen.updates if each[0] == "training"]
    assert steps == [("training", 4, step) for step in range(5, 13)], "steps before the stop count for no speed"


def test_a_short_run_says_nothing_of_its_progress(prepared, storage, caplog):
    caplog.set_level("INFO", "tgt_ray.core.progress")
    train_local(short(prepared.experiment, explorer__type="none", train__steps=4), prepared.prepared, storage)
    assert [each for each in caplog.records if each.name == "tgt_ray.core.progress"] == []
