"""What a sweep will ask for and take, without running it."""

import pytest

from tests.helpers.pictures import write_pictures
from tests.helpers.retrieval import experiment as retrieval
from tests.helpers.text_runs import experiment as texts
from tgt_ray.core.config import validate
from tgt_ray.core.loading import with_overrides
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps import dry_run, forecast
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.forecast import Step


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)


def plan(experiment=None, *sets: tuple[str, object], space=None, **search) -> list[str]:
    base = experiment.model_dump(mode="json") if experiment is not None else {}
    data = {"experiment": with_overrides(base, list(sets)), "search": search}
    return list(dry_run.plan(validate(SweepConfig, data | ({"space": space} if space else {}))))


def starting(lines: list[str], word: str) -> str:
    (line,) = [line for line in lines if line.startswith(word)]
    return line


def test_it_says_what_is_asked_kept_and_sent_and_how_long_it_takes(monkeypatch):
    monkeypatch.setattr(forecast, "measure", lambda *args: Step(0.01, 10_000, 5))
    space = {"train.synthetic_ratio": {"choice": [0.25, 0.5]}}
    lines = plan(None, space=space, algorithm="grid", controls=["one_hot"], concurrent=1)
    assert starting(lines, "teacher: labels 272 rows once for all trials (train 272); with logits of 10 classes")
    assert "about 12,000 a trial, 24,000 in all" in starting(lines, "synthetic rows:"), "500 steps of 64 rows"
    # Weights and AdamW's two moments, of the last two states, and the student: 7 times 40 kB.
    assert starting(lines, "checkpoints:") == "checkpoints: about 280 kB a trial, 840 kB in all"
    assert "256 bytes each, 6.14 MB in all" in starting(lines, "messages:"), "8 x 8 numbers"
    assert "about 5 s a trial and 15 s in all, 1 at once; measured here: a step of 10 ms" in starting(lines, "time:")
    assert starting(lines, "  assumed:") and lines[-1] == "nothing was trained or written (--dry-run)"


def test_a_step_is_measured_with_the_student_and_the_batch():
    time = starting(plan(), "time:")
    assert "5,944 weights, 64 rows, median of" in time


def test_images_of_no_set_size_are_not_decoded(tmp_path):
    write_pictures(tmp_path)
    data = {"type": "folder", "path": str(tmp_path)}
    without = plan(None, ("task", {"type": "image_classification", "data": data}))
    assert "task.data.size isn't set" in starting(without, "bytes and time: not known")
    sized = plan(None, ("task", {"type": "image_classification", "data": {**data, "size": 8}}))
    assert "measured here" in starting(sized, "time:") and "768 bytes" in starting(sized, "messages:")


def test_a_gpu_that_is_not_here_is_not_measured(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(dry_run, "_nodes", lambda sweep: ([{"CPU": 4.0, "GPU": 1.0}], "the cluster"))
    assert "not measured" in starting(plan(None, ("train.gpus_per_worker", 0.5)), "time:")


def test_texts_are_measured_as_they_are(sentences):
    lines = plan(texts(sentences), space={"train.synthetic_ratio": {"uniform": [0.1, 0.9]}})
    assert "measured here" in starting(lines, "time:") and starting(lines, "teacher: labels")


def test_documents_are_counted(beir, encoder):
    lines = plan(retrieval(beir, encoder), space={"train.synthetic_ratio": {"uniform": [0.1, 0.9]}})
    assert "documents once" in starting(lines, "teacher: labels") and "measured here" in starting(lines, "time:")


def test_rows_that_are_held_out_for_calibration_are_asked_about_too(monkeypatch):
    monkeypatch.setattr(forecast, "measure", lambda *args: Step(0.01, 10_000, 5))
    lines = plan(Experiment(), ("objective.conformal.gamma", 2))
    assert "(train 272, calibration 67)" in starting(lines, "teacher: labels 339 rows")
