"""Runs that go on from a checkpoint."""

import io
import math

import pytest
import safetensors.torch
import torch

from tests.helpers.experiments import short
from tests.helpers.stops import Killed, kill_at, weights_of
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.training import checkpoint
from tgt_ray.training.files import STATE_FILE, WEIGHTS_FILE
from tgt_ray.training.local import train_local
from tgt_ray.training.run import StudentRun


def without_times(history):
    return [{k: v for k, v in row.items() if not k.endswith(("_s", "wait_share"))} for row in history]


CASES = {
    "random, within a request": ({"explorer__type": "random", "train__synthetic_ratio": 0.37}, False),
    "random, at a request's end": ({"explorer__type": "random", "train__synthetic_ratio": 0.75}, True),
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
    if not config.explorer.on_policy:
        assert without_times(resumed.history) == without_times(whole.history)


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
