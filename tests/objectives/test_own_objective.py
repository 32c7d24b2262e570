"""A signal and the objective that needs it, added from outside the package: local runs."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from tests.helpers import own_signals
from tests.helpers.experiments import short
from tests.helpers.stops import Killed, killed
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.signals.values import Ragged
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.training.local import prepare_local, train_local


def matching(base: Experiment, **values) -> Experiment:
    return short(base, {"objective.type": own_signals.Matching().type}, **values)


@pytest.fixture(scope="module")
def ready(quick_experiment, digits, storage):
    return prepare_local(matching(quick_experiment), digits, storage)


@pytest.mark.parametrize("explorer, ratio", [("random", 0.5), ("random", 1.0), ("gradient", 0.5), ("none", 0.5)])
def test_it_trains_from_cached_real_rows_and_from_synthetic_ones(quick_experiment, ready, storage, explorer, ratio):
    config = matching(quick_experiment, explorer__type=explorer, train__synthetic_ratio=ratio, train__steps=60)
    history = train_local(config, ready, storage).history
    for part in ("kl", "ruled_out", "maps", "vector"):
        assert history[-1][f"train_{part}"] < history[0][f"train_{part}"]


def test_what_the_teacher_says_of_real_rows_is_kept_signal_by_signal(
    quick_experiment, digits, ready, tmp_path, storage
):
    assert {
        "logits",
        "embedding",
        "maps",
        "largest_values",
        "largest_indices",
        "likely",
    } == ready.student.columns.keys()
    lists = ready.student.columns["likely"]
    assert isinstance(lists, Ragged) and len(set(lists.lengths.tolist())) > 1
    files = [safetensors.numpy.load(Path(file).read_bytes()) for file in storage.files("teacher_cache")]
    kept = {name for file in files for name in file}
    assert {"maps", "largest_values", "largest_indices", "likely", "likely.lengths"} <= kept
    # A setting of a signal is part of what is kept: another k is asked for anew, and nothing else is.
    before = set(storage.files("teacher_cache"))
    other = prepare_local(matching(quick_experiment, objective__k=2), digits, storage).student
    assert other.columns["largest_values"].shape[1:] == (4, 2)
    assert len(set(storage.files("teacher_cache")) - before) == 1


def test_rows_of_a_ragged_column_are_cut_and_joined_by_row(ready, digits, quick_experiment):
    lists, logits = ready.student.columns["likely"], ready.student.columns["logits"]
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    rows = np.array([5, 0, 7, 5, len(lists) - 1])
    for row, own in zip(rows, lists[rows].lists(), strict=True):
        assert own.tolist() == np.flatnonzero(p[row] > 0.02).tolist()
    assert [len(each) for each in lists[3:6].lists()] == lists.lengths[3:6].tolist()
    assert len(lists[:0]) == 0 and len(lists[:0].values) == 0


def test_targets_that_cannot_be_mixed_are_refused(quick_experiment):
    with pytest.raises(
        ConfigError, match=r"train\.augment\.mixup: 0\.2, but objective 'tests.helpers.own_signals:Matching'"
    ):
        matching(quick_experiment, train__augment={"mixup": 0.2})


def test_a_run_resumes_with_them(quick_experiment, ready, storage, tmp_path):
    config, checkpoints = matching(quick_experiment, explorer__type="random"), Storage(tmp_path)
    whole = train_local(config, ready, storage)
    with pytest.raises(Killed):
        train_local(config, ready, storage, checkpoints, killed)
    resumed = train_local(config, ready, storage, checkpoints)
    for name, value in whole.student.state_dict().items():
        assert torch.equal(value, resumed.student.state_dict()[name]), name
