"""Rows that conformal weights are calibrated on: neither labeler nor student nor selection sees them."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.retrieval import write
from tests.helpers.text_files import task
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.data.stored import StoredTable, write_file
from tgt_ray.distributed import cluster
from tgt_ray.entrypoints import api
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps import driver
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.tasks import Retrieval, with_calibration
from tgt_ray.tasks.calibration import proportional
from tgt_ray.tasks.leaks import keys_of


def ids(data, split) -> list[int]:
    return data.tables[split]["id"].to_pylist()


@pytest.fixture
def folder(tmp_path):
    """Texts of two classes, three of validation to one: 60 rows, of which two are in train and two are twins."""
    names = [f"validation {n}" for n in range(60)]
    names[3], names[7], names[20] = "train 3", "TRAIN  8", "validation 40"
    rows = {"train": [f"train {n}" for n in range(20)], "validation": names, "test": ["one", "two"]}
    for split, texts in rows.items():
        table = pa.table({"text": texts, "label": [int(n % 4 == 1) for n in range(len(texts))]})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    return tmp_path


def text_task(folder, **settings):
    return task({"type": "parquet", "path": str(folder)}, vocabulary=300, **settings)


def test_a_seeded_part_of_validation_is_for_them_alone(folder):
    mine = text_task(folder)
    before = mine.load()
    data = with_calibration(mine, before, 9)
    assert sorted(ids(data, "validation") + ids(data, "calibration")) == ids(before, "validation")
    assert len(ids(data, "calibration")) == 15 == data.account()["rows"]["calibration"]
    assert np.bincount(data.labels("calibration")).tolist() in ([11, 4], [12, 3])
    assert not {3, 7, 20, 40} & set(ids(data, "calibration")), "in train as well, or twice"
    again = with_calibration(mine, mine.load(), 9)
    assert ids(again, "calibration") == ids(data, "calibration") and again.fingerprints == data.fingerprints
    other = with_calibration(text_task(folder, calibration={"seed": 1}), before, 9)
    assert ids(other, "calibration") != ids(data, "calibration")
    for split in ("validation", "calibration"):
        assert data.fingerprints[split] not in before.fingerprints.values()
        assert data.fingerprints[split] != other.fingerprints[split]
    for split in ("train", "full", "test"):
        assert data.fingerprints[split] == before.fingerprints[split]
    assert "validation 45, calibration 15, test 2" in mine.said(data)


def test_nothing_changes_where_nobody_asks(folder):
    data = text_task(folder).load()
    assert with_calibration(text_task(folder), data, 0) is data


@pytest.mark.parametrize(("settings", "warned"), [({}, False), ({"fraction": 0.5}, True), ({"seed": 1}, True)])
def test_settings_for_rows_that_nobody_needs_are_said_to_have_no_effect(folder, caplog, settings, warned):
    mine = text_task(folder, calibration=settings)
    data = mine.load()
    caplog.clear()
    with_calibration(mine, data, 9)
    assert not caplog.records
    with_calibration(mine, data, 0)
    expected = "task.calibration: has no effect, since no run or trial has objective.conformal; leave it out"
    assert caplog.messages == [expected] * warned


def test_too_few_are_refused_with_their_number(folder):
    mine = text_task(folder, calibration={"fraction": 0.1})
    expected = (
        r"objective.conformal: needs 9 rows .* and has 6: task.calibration.fraction 0.1 of 60 validation rows, of"
    )
    with pytest.raises(ConfigError, match=expected + r" which 4 are in train as well or come twice; give more"):
        with_calibration(mine, mine.load(), 9)


def test_each_class_keeps_a_row_for_selection():
    labels = np.array([0] * 40 + [1] * 2 + [2])
    for seed in range(20):
        chosen = proportional(labels, np.ones(43, bool), 38, seed)
        assert set(np.setdiff1d(np.arange(43), chosen)) >= {42} and np.bincount(labels[chosen], minlength=3)[1] < 2
        assert len(chosen) == 38
    assert len(proportional(labels, np.ones(43, bool), 43, 0)) == 40


def test_each_row_is_chosen_with_the_same_chance():
    labels = np.repeat([0, 1, 2], [12, 5, 3])
    draws = np.concatenate([proportional(labels, np.ones(20, bool), 5, seed) for seed in range(2000)])
    share = np.bincount(draws, minlength=20) / 2000
    assert np.all(np.abs(share - 0.25) < 0.06), share


def test_queries_are_held_out_whatever_their_document(tmp_path):
    mine = validate(Retrieval, {"type": "retrieval", "data": {"type": "beir", "path": str(write(tmp_path / "b"))}})
    data = with_calibration(mine, mine.load(), 1)
    assert len(ids(data, "calibration")) == round((len(ids(data, "validation")) + len(ids(data, "calibration"))) / 4)
    assert set(data.tables["calibration"].column_names) == set(data.tables["validation"].column_names)


def test_rows_in_files_are_taken_as_well(digits, tmp_path):
    table = digits.tables["validation"]
    write_file(table, Storage(tmp_path), "rows.arrow")
    stored = StoredTable(Storage(tmp_path), ("rows.arrow",))
    data = replace(digits, tables={**digits.tables, "validation": stored})
    data = with_calibration(Experiment().task, data, 9)
    assert ids(data, "calibration") == ids(with_calibration(Experiment().task, digits, 9), "calibration")
    assert isinstance(data.tables["calibration"], StoredTable)
    assert len(keys_of(Experiment().task, "calibration", data.tables["calibration"])) == len(ids(data, "calibration"))


def test_a_sweep_holds_them_out_where_some_trial_needs_them(tmp_path, monkeypatch):
    seen = []

    class Started(Exception):
        pass

    def start(config, data, *more):
        seen.append(data)
        raise Started

    monkeypatch.setattr(driver, "start", start)
    monkeypatch.setattr(cluster, "connect", nullcontext)
    monkeypatch.setattr(cluster, "check_shared", lambda root: None)
    for name, space in (
        ("none", {"train.synthetic_ratio": {"uniform": [0.1, 0.9]}}),
        ("some", {"objective.conformal": {"choice": [None, {"coverage": 0.5}]}}),
    ):
        config = validate(SweepConfig, {"space": space, "search": {"algorithm": "random"}})
        with pytest.raises(Started):
            api.run_sweep(config, str(tmp_path), name)
    assert ["calibration" in data.tables for data in seen] == [False, True]
    none, some = ([len(data.tables[n]) for n in ("validation", "test")] for data in seen)
    assert some[0] == none[0] - len(seen[1].tables["calibration"]) and some[1] == none[1]
