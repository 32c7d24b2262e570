"""A signal and the objective that needs it, added from outside the package: local runs. On Ray: distributed/test_own_signal_on_ray.py."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from tests.helpers import own_signals
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.signals.base import Column, Seen, Signal, say, unique
from tgt_ray.core.signals.of_labeler import LOGITS, Logits
from tgt_ray.core.signals.values import Ragged
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.training.local import prepare_local, train_local


def matching(base: Experiment, **values) -> Experiment:
    first = {
        "objective.type": "tests.helpers.own_signals:Matching",
        "train.steps": 12,
        "train.eval_every": 4,
        "train.batch_size": 16,
    }
    sets = {**first, "pool.rows_per_request": 24, **{key.replace("__", "."): value for key, value in values.items()}}
    return validate(Experiment, with_overrides(base.model_dump(mode="json"), list(sets.items())))


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


class Lying(Signal):
    name = "lying"
    columns = (Column("lying", "float32", "()"),)

    def of(self, seen):
        return {"lying": seen.inputs()}


@pytest.mark.parametrize(
    "given, says",
    [
        (torch.zeros(3, dtype=torch.int64), "column 'lying' is int64 of 3 rows, declared is float32 of 3 rows"),
        (torch.zeros(2), "column 'lying' is float32 of 2 rows, declared is float32 of 3 rows"),
        (Ragged(torch.zeros(4), torch.tensor([1, 1, 2])), "is ragged float32 of 3 rows, declared is float32 of 3"),
    ],
)
def test_a_signal_that_gives_what_it_has_not_declared_is_a_mistake_in_its_code(given, says):
    with pytest.raises(ValueError, match=f"signal 'lying': .*{says}"):
        say([Lying()], Seen(np.zeros(3), lambda: given, lambda: given), 3)


def test_two_signals_of_one_name_are_refused():
    assert unique([LOGITS, Logits()]) == (LOGITS,)
    with pytest.raises(ValueError, match="two signals that differ are called 'largest'"):
        unique([own_signals.LargestOfPlaces(2), own_signals.LargestOfPlaces(3)])


def test_targets_that_cannot_be_mixed_are_refused(quick_experiment):
    with pytest.raises(
        ConfigError, match=r"train\.augment\.mixup: 0\.2, but objective 'tests.helpers.own_signals:Matching'"
    ):
        matching(quick_experiment, train__augment={"mixup": 0.2})


def test_a_run_resumes_with_them(quick_experiment, ready, storage, tmp_path):
    class Killed(Exception):
        pass

    def killed(metrics):
        raise Killed

    config, checkpoints = matching(quick_experiment, explorer__type="random"), Storage(tmp_path)
    whole = train_local(config, ready, storage)
    with pytest.raises(Killed):
        train_local(config, ready, storage, checkpoints, killed)
    resumed = train_local(config, ready, storage, checkpoints)
    for name, value in whole.student.state_dict().items():
        assert torch.equal(value, resumed.student.state_dict()[name]), name
