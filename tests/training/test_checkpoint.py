"""Runs that go on from a checkpoint."""

import contextlib
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.helpers.experiments import short
from tests.helpers.stops import Killed, kill_at, weights_of
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.results.ledger import SUMMED
from tgt_ray.tasks import with_calibration
from tgt_ray.training import checkpoint
from tgt_ray.training.files import PREVIOUS_FILE, STATE_FILE, WEIGHTS_FILE
from tgt_ray.training.local import prepare_local, train_local
from tgt_ray.training.reader import SyntheticReader
from tgt_ray.training.run import StudentRun

#: Ends of names of what depends on how long something took, and on what the bank had already.
TIMES = ("_s", "wait_share", *SUMMED, "bank_bytes")


def without_times(history):
    return [{k: v for k, v in row.items() if not k.endswith(TIMES)} for row in history]


CASES = {
    "random, within a request": ({"explorer__type": "random", "train__synthetic_ratio": 0.37}, False),
    "random, at a request's end": ({"explorer__type": "random", "train__synthetic_ratio": 0.75}, True),
    "gradient, within a request": ({"train__synthetic_ratio": 0.37}, False),
    "gradient, within a request, only synthetic": ({"train__synthetic_ratio": 1.0}, False),
    "gradient, in a second phase, norms by source, rows mixed": (
        {
            "train__synthetic_ratio": 0.37,
            "train__second_phase": {"type": "crt", "share": 0.75},
            "train__batch_norm": "per_source",
            "train__augment": {"mixup": 0.2},
        },
        False,
    ),
    "gradient, before a second phase": (
        {"train__synthetic_ratio": 0.37, "train__second_phase": {"type": "lws", "share": 0.5}},
        False,
    ),
    "gradient, at a request's end": ({"train__synthetic_ratio": 0.75}, True),
    "interpolation, only synthetic": ({"explorer__type": "interpolation", "train__synthetic_ratio": 1.0}, False),
    "no synthetic rows, sgd": ({"explorer__type": "none", "train__optimizer": "sgd"}, True),
}


@pytest.mark.parametrize("overrides, at_end", CASES.values(), ids=CASES)
def test_a_resumed_run_equals_an_uninterrupted_one(prepared, storage, tmp_path, overrides, at_end):
    config = short(prepared.experiment, **overrides)
    whole = train_local(config, prepared.prepared, storage)
    checkpoints = Storage(tmp_path)
    with pytest.raises(Killed):
        train_local(config, prepared.prepared, storage, checkpoints, kill_at(4))
    position = torch.load(io.BytesIO(checkpoints.read(STATE_FILE)), weights_only=True)["position"]
    assert position == divmod(math.floor(4 * 16 * config.synthetic_ratio + 1e-9), 24)
    assert (position[1] == 0) == at_end, "the case is what its name says"
    torch.manual_seed(1234)
    steps = []
    resumed = train_local(config, prepared.prepared, storage, checkpoints, lambda m: steps.append(m["step"]))
    assert steps == [8, 12]
    assert resumed.step == 12 and [row["step"] for row in resumed.history] == [4, 8, 12]
    assert weights_of(resumed) == weights_of(whole)
    assert without_times(resumed.history) == without_times(whole.history)
    assert shown(resumed) == shown(whole)


@pytest.mark.parametrize("explorer", ["random", "gradient"])
def test_rows_and_seconds_are_counted_over_all_sessions(prepared, storage, tmp_path, explorer):
    config = short(prepared.experiment, explorer__type=explorer, train__synthetic_ratio=0.37, train__seed=4711)
    checkpoints, kept = Storage(tmp_path), explorer == "random"
    with pytest.raises(Killed):
        train_local(config, prepared.prepared, storage, checkpoints, kill_at(4))
    run = train_local(config, prepared.prepared, storage, checkpoints)
    made, found, seconds = (
        [row[name] for row in run.history] for name in ("rows_made", "rows_found", "teacher_seconds")
    )
    # Of 12 steps with 5.92 rows each; the second request was begun by the first session.
    assert made == [24, 48, 72] and found == ([0, 24, 24] if kept else [0, 0, 0])
    assert 0 < seconds[0] < seconds[1] < seconds[2]
    last = run.history[-1]
    if kept:
        assert last["bank_damaged"] == 0 and last["bank_bytes"] > 0 and storage.exists("bank", last["bank"])
        assert last["teacher_seconds_saved"] == pytest.approx(seconds[0], rel=0.01)
        again = train_local(config, prepared.prepared, storage).history[-1]
        assert (again["rows_made"], again["rows_found"], again["teacher_seconds"]) == (0, 72, 0)
        assert again["teacher_seconds_saved"] == pytest.approx(seconds[2], rel=0.01)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_size_of_a_checkpoint_is_estimated_well_enough(prepared, storage, tmp_path, optimizer):
    config = short(
        prepared.experiment, explorer__type="random", train__optimizer=optimizer, student__widths=[64, 128, 256]
    )
    run = train_local(config, prepared.prepared, storage, Storage(tmp_path))
    size = sum(each.stat().st_size for each in tmp_path.iterdir() if each.name != PREVIOUS_FILE)
    assert size <= checkpoint.size_of(run) <= 2 * size


def shown(run):
    """What the gallery has."""
    arrays = ("reconstructed", "explored")
    return [{k: v.tobytes() if k in arrays else v for k, v in vars(sample).items()} for sample in run.samples]


def killed_at_4(config, prepared, storage, folder) -> Storage:
    checkpoints = Storage(folder)
    with pytest.raises(Killed):
        train_local(config, prepared.prepared, storage, checkpoints, kill_at(4))
    return checkpoints


def state_in(checkpoints: Storage) -> dict:
    return torch.load(io.BytesIO(checkpoints.read(STATE_FILE)), weights_only=True)


def test_a_state_has_the_unused_rows_of_one_request_where_they_cannot_be_made_again(prepared, storage, tmp_path):
    ratio = {"train__synthetic_ratio": 0.37}
    for explorer, left in (("gradient", 1), ("random", 0)):
        config = short(prepared.experiment, explorer__type=explorer, **ratio)
        checkpoints = killed_at_4(config, prepared, storage, tmp_path / explorer)
        (rest,) = state_in(checkpoints)["reading"]["rests"]
        assert (rest is not None) == left
        if left:
            assert rest["request"] == 0 and rest["version"] == 0
            assert len(rest["inputs"]) == len(rest["anchor"]) == len(rest["columns"]["logits"]) == 1 == 24 - 23
            assert rest["inputs"].untyped_storage().nbytes() == 8 * 8 * 4, "not the memory of the rows before"
        train_local(config, prepared.prepared, storage, checkpoints)
        assert state_in(checkpoints)["reading"] is None, "nothing is left to be done"


@pytest.mark.parametrize("explorer, said", [("gradient", True), ("random", False)])
def test_a_state_of_format_1_goes_on_with_a_line(prepared, storage, tmp_path, caplog, explorer, said):
    config = short(prepared.experiment, explorer__type=explorer, train__synthetic_ratio=0.37)
    checkpoints = killed_at_4(config, prepared, storage, tmp_path)
    content = io.BytesIO()
    torch.save({k: v for k, v in state_in(checkpoints).items() if k not in ("format", "reading")}, content)
    checkpoints.write(content.getvalue(), STATE_FILE)
    resumed = train_local(config, prepared.prepared, storage, checkpoints)
    assert resumed.step == 12
    (line,) = [each for each in caplog.messages if each.startswith("--resume")]
    assert line.startswith("--resume: the checkpoint has format 1, so the gallery and lag_* begin at step 4")
    assert ("request 0, of which 23 rows are used, is made again" in line) == said


def leave_out(checkpoints: Storage, *names: str) -> None:
    """Write the state without some entries, as versions before have."""
    content = io.BytesIO()
    torch.save({k: v for k, v in state_in(checkpoints).items() if k not in names}, content)
    checkpoints.write(content.getvalue(), STATE_FILE)


@pytest.mark.parametrize("splits", [["validation"], ["train"], ["test"], ["train", "validation"]])
def test_a_state_of_other_rows_is_refused_with_the_name_of_the_split(prepared, storage, tmp_path, splits):
    config, whole = short(prepared.experiment, explorer__type="none"), prepared.prepared
    checkpoints = killed_at_4(config, prepared, storage, tmp_path)
    fingerprints = {**whole.student.fingerprints, **dict.fromkeys(splits, "of other rows")}
    other = replace(whole, student=replace(whole.student, fingerprints=fingerprints))
    with pytest.raises(ConfigError) as refused:
        train_local(config, other, storage, checkpoints)
    names = ", ".join(splits)
    assert str(refused.value) == (
        f"--resume: the rows of {names} have changed since the run was begun; restore them, or begin a new run"
    )


def test_a_state_that_has_not_noted_its_rows_goes_on(prepared, storage, tmp_path):
    config = short(prepared.experiment, explorer__type="none")
    checkpoints = killed_at_4(config, prepared, storage, tmp_path)
    assert set(state_in(checkpoints)["data"]) == {"train", "validation", "test"}
    leave_out(checkpoints, "data")
    assert train_local(config, prepared.prepared, storage, checkpoints).step == 12


@pytest.mark.parametrize("without, refused", [(["format", "reading"], True), ([], False)])
def test_a_calibrated_run_does_not_go_on_from_format_1(prepared, storage, tmp_path, without, refused):
    """Its version selected students also by the rows that are kept for calibration now."""
    config = short(prepared.experiment, explorer__type="none", objective__conformal={})
    data = with_calibration(config.task, config.task.load(), config.objective.calibration_rows)
    whole = prepare_local(config, data, storage)
    run, checkpoints = StudentRun(config, whole.student), Storage(tmp_path)
    checkpoints.write(checkpoint.state(run), STATE_FILE)
    leave_out(checkpoints, "data", *without)
    with (
        pytest.raises(ConfigError, match=r"has format 1, whose version selected .* begin a new run")
        if refused
        else (contextlib.nullcontext())
    ):
        checkpoint.load_state(run, checkpoints.read(STATE_FILE))


def test_another_number_of_threads_is_said(prepared, storage, tmp_path, caplog, monkeypatch):
    config = short(prepared.experiment, explorer__type="none")
    checkpoints = killed_at_4(config, prepared, storage, tmp_path)
    assert state_in(checkpoints)["threads"] == torch.get_num_threads() == 1
    run = StudentRun(config, prepared.prepared.student)
    checkpoint.load_state(run, checkpoints.read(STATE_FILE))
    assert not caplog.messages
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    checkpoint.load_state(run, checkpoints.read(STATE_FILE))
    (line,) = caplog.messages
    assert "made with 1 thread(s), and the run goes on with 3" in line and line.endswith(
        "OMP_NUM_THREADS=1 for the same"
    )


def test_each_worker_gets_its_own_rest_and_the_first_the_gallery(prepared):
    """Of a state of two workers, as rank 0 writes it."""
    config = short(prepared.experiment)
    run, reader = StudentRun(config, prepared.prepared.student, 0, 2), SyntheticReader(iter([]))
    run.step = 1  # after which each has used 4 of the 24 rows of its first request
    reader.lags.update({3: 20})
    rests = [
        {"request": rank, "version": 0, "explorer": "gradient", "inputs": np.full((20, 1), rank), "columns": {}}
        for rank in (0, 1)
    ]
    content = checkpoint.state(run, reader, [{**rest, "anchor": np.arange(20)} for rest in rests])
    for rank in (0, 1):
        again, asked = StudentRun(config, prepared.prepared.student, rank, 2), []
        checkpoint.load_state(again, content)
        found = SyntheticReader.going_on(lambda first, asked=asked: asked.append(first), again.position, again.reading)
        inputs, _ = found.take(20, 1)
        assert asked == [1] and inputs.tolist() == [[rank]] * 20


def test_a_finished_run_is_not_trained_again(prepared, storage, tmp_path):
    config, checkpoints = short(prepared.experiment, explorer__type="random"), Storage(tmp_path)
    first = train_local(config, prepared.prepared, storage, checkpoints)
    reports = []
    again = train_local(config, prepared.prepared, storage, checkpoints, reports.append)
    assert weights_of(again) == weights_of(first) and again.history == first.history
    assert reports == first.history[-1:], "who waits for the last report gets it again: it may have been lost"


def test_a_checkpoint_of_another_experiment_is_refused(prepared):
    one, other = short(prepared.experiment), short(prepared.experiment, train__seed=5)
    state = checkpoint.state(StudentRun(one, prepared.prepared.student))
    with pytest.raises(ConfigError, match=f"belongs to experiment {one.fingerprint()}, this is {other.fingerprint()}"):
        checkpoint.load_state(StudentRun(other, prepared.prepared.student), state)


def test_a_checkpoint_loads_as_plain_data_and_has_all_it_needs(prepared, storage):
    run = train_local(short(prepared.experiment), prepared.prepared, storage)
    files = checkpoint.files_of(run)
    state = torch.load(io.BytesIO(files[STATE_FILE]), weights_only=True)
    assert {"model", "optimizer", "schedule", "rng", "step", "position", "experiment"} <= set(state)
    assert state["step"] == 12
    weights = safetensors.torch.load(files[WEIGHTS_FILE])
    assert weights.keys() == state["model"].keys()
    assert all(torch.equal(weights[name], state["model"][name]) for name in weights)


def test_a_checkpoint_of_another_number_of_workers_is_refused(prepared):
    config = short(prepared.experiment)
    state = checkpoint.state(StudentRun(config, prepared.prepared.student, 0, 2))
    with pytest.raises(ConfigError, match=r"begun with 2 worker\(s\), here it has 1"):
        checkpoint.load_state(StudentRun(config, prepared.prepared.student), state)
