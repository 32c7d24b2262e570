"""What the folders around a student say of how it came about."""

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers.sweeps import sweep_of
from tgt_ray.core.storage import Storage
from tgt_ray.inference.origin import origin_of


@pytest.fixture(scope="module")
def sweep(of_digits, tmp_path_factory) -> Path:
    return sweep_of(of_digits, tmp_path_factory.mktemp("storage") / "sweep")


def test_a_run_and_its_checkpoint(of_digits):
    for folder in (of_digits.folder, f"{of_digits.folder}/", f"{of_digits.folder}/checkpoint"):
        found = origin_of(Storage(folder))
        assert found.record == of_digits.record and found.result == of_digits.record["result"]
        assert found.storage.exists("teachers") and found.trials is None and not found.sweeps
        assert found.teacher == of_digits.record["teacher"]["labeler"]


@pytest.mark.parametrize("place, trial", [("best", "aaaa"), ("train/aaaa", "aaaa"), ("train/cccc", "cccc")])
def test_the_best_of_a_sweep_and_its_trials(sweep, place, trial):
    found = origin_of(Storage(sweep / place))
    assert found.sweeps and found.record["name"] == "my-sweep" and len(found.trials) == 3
    assert found.result["trial"] == trial and found.storage.root == str(sweep.parent)


def test_a_uri_is_a_folder_as_well(sweep):
    found = origin_of(Storage(f"file://{sweep}/best"))
    assert found.record["name"] == "my-sweep" and found.storage.root == f"file://{sweep.parent}"


def test_a_best_folder_elsewhere_has_its_own_figures_alone(sweep, tmp_path):
    shutil.copytree(sweep / "best", tmp_path / "taken")
    found = origin_of(Storage(tmp_path / "taken"))
    assert found.record is None and found.storage is None and found.teacher is None
    assert found.result["trial"] == "aaaa"


def test_a_record_of_something_else_is_not_taken(sweep, tmp_path, of_digits):
    shutil.copytree(sweep / "best", tmp_path / "run" / "best")
    (tmp_path / "run" / "record.json").write_text(json.dumps(of_digits.record))
    found = origin_of(Storage(tmp_path / "run" / "best"))
    assert found.record is None, "the record is that of a run, which has no best"
