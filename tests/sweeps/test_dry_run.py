"""What a sweep will ask for and take, without running it."""

import pytest
from PIL import Image

from tests.helpers.pictures import write_pictures
from tests.helpers.retrieval import experiment as retrieval
from tests.helpers.text_runs import experiment as texts
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps import dry_run, forecast
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.forecast import Step
from tgt_ray.teacher.store import prepare_teacher


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)


@pytest.fixture
def no_request(monkeypatch):
    """The default autoencoder is slow for images of a few colours, and what is tested here isn't its time."""
    monkeypatch.setattr(forecast, "measure_request", lambda *args: None)


def plan(experiment=None, *sets: tuple[str, object], space=None, storage=None, **search) -> list[str]:
    base = experiment.model_dump(mode="json") if experiment is not None else {}
    data = {"experiment": with_overrides(base, list(sets)), "search": search}
    return list(dry_run.plan(validate(SweepConfig, data | ({"space": space} if space else {})), storage))


def starting(lines: list[str], word: str) -> str:
    (line,) = [line for line in lines if line.startswith(word)]
    return line


def test_it_says_what_is_asked_kept_and_sent_and_how_long_it_takes(monkeypatch, no_request):
    monkeypatch.setattr(forecast, "measure", lambda *args: Step(0.01, 10_000, 5))
    space = {"train.synthetic_ratio": {"choice": [0.25, 0.5]}}
    lines = plan(None, space=space, algorithm="grid", controls=["one_hot"], concurrent=1)
    assert starting(lines, "teacher: labels 272 rows once for all trials (train 272); with logits of 10 classes")
    assert "about 12,000 a trial, 24,000 in all" in starting(lines, "synthetic rows:"), "500 steps of 64 rows"
    # Weights and AdamW's two moments, of the last two states, and the student: 7 times 40 kB.
    assert starting(lines, "checkpoints:") == "checkpoints: about 280 kB a trial, 840 kB in all"
    assert "256 bytes each, 6.14 MB in all" in starting(lines, "messages:"), "8 x 8 numbers"
    assert "about 5 s a trial and 15 s in all, 1 at once; measured here: a step of 10 ms" in starting(lines, "time:")
    assert starting(lines, "bank: rows that gradient explores for a trial's student are made for it alone")
    assert starting(lines, "  assumed:") and lines[-1] == "nothing was trained or written (--dry-run)"


def test_a_step_is_measured_with_the_student_and_the_batch():
    time = starting(plan(), "time:")
    assert "5,944 weights, 64 rows, median of" in time


def test_images_are_counted_and_a_few_of_them_tell_their_size(tmp_path, no_request):
    write_pictures(tmp_path)
    data = {"type": "folder", "path": str(tmp_path)}
    without = plan(None, ("task", {"type": "image_classification", "data": data}))
    assert "measured here" in starting(without, "time:") and "1.73 kB" in starting(without, "messages:"), "3 x 12 x 12"
    assert "(train 24)" in starting(without, "teacher: labels 24 rows")
    sized = plan(None, ("task", {"type": "image_classification", "data": {**data, "size": 8}}))
    assert "measured here" in starting(sized, "time:") and "768 bytes" in starting(sized, "messages:")


def test_images_of_several_sizes_are_refused_as_a_sweep_would(tmp_path):
    write_pictures(tmp_path)
    Image.new("RGB", (20, 10)).save(tmp_path / "test" / "blue" / "00.png")
    data = {"type": "folder", "path": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"task\.data\.size: images differ in size"):
        plan(None, ("task", {"type": "image_classification", "data": data}))


def test_where_the_first_images_can_t_be_read_and_are_skipped_nothing_is_guessed(tmp_path, no_request):
    write_pictures(tmp_path)
    for file in tmp_path.glob("*/*/*.png"):
        file.write_bytes(b"no picture")
    data = {"type": "folder", "path": str(tmp_path), "on_bad_rows": "skip"}
    lines = plan(None, ("task", {"type": "image_classification", "data": data}))
    assert "doesn't tell the shape" in starting(lines, "bytes and time: not known")


def test_a_request_is_measured_with_a_generator_of_the_right_shape(monkeypatch):
    monkeypatch.setattr(forecast, "measure", lambda *args: Step(1e-4, 10_000, 5))
    lines = plan(None, ("pool.rows_per_request", 20))
    assert starting(lines, "request: 20 synthetic rows take a generator about ")
    assert "an untrained generator of the same shape" in starting(lines, "request:")
    assert "its generators are slower" in starting(lines, "time:"), "320,000 rows/s are none's"


def test_a_request_that_takes_long_is_measured_in_part(monkeypatch):
    monkeypatch.setattr("tgt_ray.sweeps.request._seconds", lambda work, device: 3.0)
    lines = plan(None, ("pool.rows_per_request", 40))
    assert "about 30 s (1 rows/s, from 4 of them)" in starting(lines, "request: 40 synthetic rows")


def test_a_stored_teacher_is_measured_and_nothing_is_written(tmp_path):
    few = [(f"teacher.{part}.pretrain.steps", 2) for part in ("labeler", "generator")]
    experiment = validate(Experiment, with_overrides(Experiment().model_dump(mode="json"), few))
    storage = Storage(tmp_path)
    record = prepare_teacher(experiment.teacher, experiment.task, experiment.task.load(), storage)[1]
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    lines = plan(experiment, ("pool.rows_per_request", 8), storage=storage)
    assert f"the stored labeler {record['labeler']['identity']}" in starting(lines, "request:")
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_rows_that_no_generator_makes_are_measured_with_the_labeler_alone():
    lines = plan(None, ("explorer", {"type": "augment"}))
    request = starting(lines, "request: 2,048 synthetic rows")
    assert "measured here: an untrained labeler of the same shape" in request and "generator of" not in request
    assert "generators work beside students" in starting(lines, "  assumed:")


def test_unchanged_anchors_need_no_request():
    lines = plan(None, ("explorer", {"type": "identity"}), space={"train.synthetic_ratio": {"uniform": [0.1, 0.9]}})
    assert not [line for line in lines if line.startswith("request:")] and starting(lines, "time:")


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


def test_rows_that_are_held_out_for_calibration_are_asked_about_too(monkeypatch, no_request):
    monkeypatch.setattr(forecast, "measure", lambda *args: Step(0.01, 10_000, 5))
    lines = plan(Experiment(), ("objective.conformal.gamma", 2))
    assert "(train 272, calibration 67)" in starting(lines, "teacher: labels 339 rows")
