"""What the folders around a student say of how it came about."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tgt_ray.core import records
from tgt_ray.core.storage import Storage
from tgt_ray.inference.origin import origin_of


@pytest.fixture(scope="module")
def sweep(of_digits, tmp_path_factory) -> Path:
    return sweep_of(of_digits, tmp_path_factory.mktemp("storage") / "sweep")


def sweep_of(run, folder: Path) -> Path:
    """A sweep's folder, whose best trial and control are one run."""
    for place in ("best", "train/aaaa", "train/cccc"):
        shutil.copytree(run.folder, folder / place)
        (folder / place / "record.json").unlink()
    result = run.record["result"]
    rows = [
        {**result, "trial": "aaaa", "status": "finished", "control": None, "train.seed": 3},
        {**result, "trial": "cccc", "status": "finished", "control": "one_hot", "balanced_accuracy": 40.0},
        {"trial": "bbbb", "status": "failed", "control": None},
    ]
    storage = Storage(folder)
    records.write_table(storage, pd.DataFrame(rows), "trials")
    records.write_json(storage, rows[0], "best", "metrics.json")
    record = {name: run.record[name] for name in ("fingerprints", "data", "teacher", "environment")}
    search = {"metric": "balanced_accuracy", "mode": "max"}
    config = {"experiment": run.record["experiment"], "space": {}, "search": search}
    records.write_json(storage, {"kind": "sweep", "name": "my-sweep", "config": config, **record}, "record.json")
    return folder


def test_a_run_and_its_checkpoint(of_digits):
    for folder in (of_digits.folder, f"{of_digits.folder}/", f"{of_digits.folder}/checkpoint"):
        found = origin_of(folder)
        assert found.record == of_digits.record and found.result == of_digits.record["result"]
        assert found.storage.exists("teachers") and found.trials is None and not found.sweeps
        assert found.teacher == of_digits.record["teacher"]["labeler"]


@pytest.mark.parametrize("place, trial", [("best", "aaaa"), ("train/aaaa", "aaaa"), ("train/cccc", "cccc")])
def test_the_best_of_a_sweep_and_its_trials(sweep, place, trial):
    found = origin_of(str(sweep / place))
    assert found.sweeps and found.record["name"] == "my-sweep" and len(found.trials) == 3
    assert found.result["trial"] == trial and found.storage.root == str(sweep.parent)


def test_a_uri_is_a_folder_as_well(sweep):
    found = origin_of(f"file://{sweep}/best")
    assert found.record["name"] == "my-sweep" and found.storage.root == f"file://{sweep.parent}"


def test_a_best_folder_elsewhere_has_its_own_figures_alone(sweep, tmp_path):
    shutil.copytree(sweep / "best", tmp_path / "taken")
    found = origin_of(str(tmp_path / "taken"))
    assert found.record is None and found.storage is None and found.teacher is None
    assert found.result["trial"] == "aaaa"


def test_a_record_of_something_else_is_not_taken(sweep, tmp_path, of_digits):
    shutil.copytree(sweep / "best", tmp_path / "run" / "best")
    (tmp_path / "run" / "record.json").write_text(json.dumps(of_digits.record))
    assert origin_of(str(tmp_path / "run" / "best")).record is None, "the record is that of a run, which has no best"
