"""Rows that were explored for one student serve another one at about the same share of its training."""

import pytest

from tests.helpers.experiments import changed, short
from tests.helpers.stops import Killed, kill_at
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.teacher.bank.bank import Bank
from tgt_ray.training.local import train_local


@pytest.fixture
def experiment(prepared):
    values = {"pool__bank": {"mode": "shared"}, "pool__rows_per_request": 12, "train__synthetic_ratio": 0.5}
    return short(prepared.experiment, **values)


@pytest.fixture
def root(storage, tmp_path):
    """A storage of its own, with the teacher of all tests."""
    (tmp_path / "teachers").symlink_to(storage.path("teachers"))
    return Storage(tmp_path)


@pytest.fixture
def bank(root, tmp_path):
    """A function that opens the only bank there."""

    def find() -> Bank:
        (folder,) = (tmp_path / "bank").iterdir()
        found = Bank(root, folder.name)
        found.look()
        return found

    return find


def test_the_second_student_takes_the_rows_of_the_first(prepared, experiment, root, bank):
    first = train_local(experiment, prepared.prepared, root, name="first")
    made = first.history[-1]["rows_made"]
    assert made > 0 and first.history[-1]["rows_found"] == 0
    rows = [bank().read(number) for number in sorted(bank().requests)]
    assert {each.origin for each in rows} == {"first"} and {each.steps for each in rows} == {experiment.train.steps}
    assert [each.version for each in rows] == sorted(each.version for each in rows) and rows[-1].version > 0
    other = changed(experiment, objective__temperature=6.0)
    second = train_local(other, prepared.prepared, root, name="second")
    assert second.history[-1]["rows_made"] == 0 and second.history[-1]["rows_found"] == made
    assert "lag_p50" in second.history[-1]
    assert bank().requests == {each.request for each in rows}


def test_a_student_that_takes_more_rows_has_the_others_made(prepared, experiment, root, bank):
    few = changed(experiment, train__synthetic_ratio=0.25)
    made = train_local(few, prepared.prepared, root, name="few").history[-1]["rows_made"]
    many = train_local(changed(experiment, train__synthetic_ratio=1.0), prepared.prepared, root, name="many").history[
        -1
    ]
    assert many["rows_found"] == made and many["rows_made"] > 0
    assert {bank().read(number).origin for number in bank().requests} == {"few", "many"}


def test_the_age_of_rows_follows_from_the_share_of_the_training(prepared, experiment, root):
    steps = experiment.train.steps
    train_local(experiment, prepared.prepared, root, name="short")
    longer = changed(experiment, train__steps=2 * steps, train__synthetic_ratio=0.25, train__eval_every=2 * steps)
    end = train_local(longer, prepared.prepared, root, name="long").history[-1]
    assert end["rows_made"] == 0
    assert abs(end["lag_max"]) <= 2 * steps * 0.5, "versions are counted in steps of the longer training"


def test_a_run_that_was_stopped_finds_its_own_rows(prepared, experiment, root, tmp_path, bank):
    checkpoints = Storage(tmp_path / "run")
    with pytest.raises(Killed):
        train_local(experiment, prepared.prepared, root, checkpoints, report=kill_at(experiment.train.eval_every))
    there = bank().requests
    end = train_local(experiment, prepared.prepared, root, checkpoints)
    assert end.step == experiment.train.steps and there < bank().requests


def test_a_few_requests_have_what_is_shown(prepared, experiment, root, bank, tmp_path):
    """Of 64 requests each fourth, whatever their numbers in the bank: those of a power of two have many divisors."""
    config = changed(experiment, train__steps=16, train__batch_size=16, train__eval_every=16, pool__rows_per_request=2)
    train_local(config, prepared.prepared, root, name="first")
    shown = sorted(int(each.stem.removeprefix("shown-")) for each in tmp_path.glob("bank/*/shown-*"))
    assert sorted(bank().requests)[::4] == shown and len(shown) == 16


def test_rows_for_no_student_are_those_of_mode_exact(prepared, experiment, root):
    exact, shared = (
        train_local(
            changed(experiment, explorer={"type": "random"}, pool__bank={"mode": mode}), prepared.prepared, root
        ).history[-1]
        for mode in ("exact", "shared")
    )
    assert shared["rows_made"] == 0 and shared["train_loss"] == exact["train_loss"]


def test_rows_for_a_student_are_not_used_epoch_after_epoch(prepared, experiment):
    with pytest.raises(ConfigError, match=r"pool\.bank\.mode: reuse, but explorer\.type 'gradient'"):
        changed(experiment, pool__bank={"mode": "reuse"})
