"""Sweeps that share a storage, and one whose bank has no room."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.helpers.experiments import changed
from tgt_ray.core.storage import Storage
from tgt_ray.teacher.bank.bank import Bank
from tgt_ray.training.banked import num_requests

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROWS = 64
RATIOS = (0.3, 0.5)


@pytest.fixture
def sweep(prepared, storage, tmp_path):
    """(name) -> the command of a sweep of two trials with the same rows; its storage has the teacher of all tests."""
    root = tmp_path / "storage"
    root.mkdir()
    (root / "teachers").symlink_to(storage.path("teachers"))
    how = {"train.steps": 200, "train.eval_every": 100, "pool.rows_per_request": ROWS, "fit_check.on_low": "skip"}
    experiment = changed(prepared.experiment, how, explorer={"type": "random"})
    space = {"train.synthetic_ratio": {"choice": list(RATIOS)}}

    def make(name: str, concurrent: int) -> list[str]:
        search = {"algorithm": "grid", "controls": [], "scheduler": "none", "concurrent": concurrent}
        values = {"experiment": experiment.model_dump(mode="json"), "space": space, "search": search}
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(values))
        return [sys.executable, "-m", "tgt_ray.sweep", str(file), "--storage", str(root), "--name", name]

    make.root, make.experiment = root, experiment
    return make


def left(root: Path, name: str) -> tuple[pd.DataFrame, dict]:
    """The trials of a sweep, by their ratio, and its ledger."""
    table = pd.read_csv(root / name / "trials.csv").sort_values("train.synthetic_ratio")
    return table, json.loads((root / name / "record.json").read_text())["ledger"]


def test_two_sweeps_at_once_share_a_bank_and_lose_no_row(sweep, tmp_path):
    """Each has a Ray of its own, and knows nothing of the other."""
    both = {}
    for name in ("one", "other"):
        with (tmp_path / f"{name}.txt").open("w") as file:
            both[name] = subprocess.Popen(sweep(name, 1), stdout=file, stderr=file)
    for name, process in both.items():
        assert process.wait(timeout=400) == 0, (tmp_path / f"{name}.txt").read_text()
    needed = [num_requests(changed(sweep.experiment, train__synthetic_ratio=ratio), 1) for ratio in RATIOS]
    tables, made = [], 0
    for name in both:
        table, ledger = left(sweep.root, name)
        assert set(table.status) == {"finished"} and ledger["rows_not_kept"] == ledger["bank_damaged"] == 0
        # Each row that a trial has taken was made for it or found; those made ahead come on top.
        assert (table.rows_made + table.rows_found >= [ROWS * count for count in needed]).all()
        assert ledger["rows_found"] >= ROWS * min(needed), "its second trial finds what the first one has made"
        tables.append(table)
        made += ledger["rows_made"]
    (folder,) = (sweep.root / "bank").iterdir()
    bank = Bank(Storage(sweep.root), folder.name)
    bank.look()
    assert bank.requests == set(range(max(needed))), "all are there"
    assert all(len(bank.read(number)) == ROWS for number in bank.requests) and bank.damaged == 0
    assert ROWS * max(needed) <= made <= 2 * ROWS * max(needed), "no sweep makes a row twice"
    same = ["train_loss", "train_kl_synthetic", "test_balanced_accuracy"]
    pd.testing.assert_frame_equal(*(table[same].reset_index(drop=True) for table in tables))


@pytest.fixture
def no_room(sweep) -> Iterator[None]:
    """A disk of a megabyte for banks; a file in the place of their folder, where nothing may be mounted."""
    folder = sweep.root / "bank"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if not is_mounted:
        folder.rmdir()
        folder.touch()
    yield
    if is_mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_costs_a_sweep_one_line(sweep, no_room):
    done = subprocess.run(sweep("full", 2), capture_output=True, text=True, timeout=400, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert said.count("the run goes on, and its further synthetic rows are not kept") == 1, said
    assert "Traceback" not in said and said.count("WARNING") <= 1
    table, ledger = left(sweep.root, "full")
    assert set(table.status) == {"finished"} and ledger["rows_not_kept"] > 0
    assert (sweep.root / "full" / "best" / "student.safetensors").exists()
