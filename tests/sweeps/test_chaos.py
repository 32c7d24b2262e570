"""Processes of a sweep are killed with -9; its table must be complete all the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tgt_ray.core.loading import with_overrides

pytestmark = [pytest.mark.ray, pytest.mark.chaos]


@pytest.fixture
def sweep_command(prepared, storage, tmp_path):
    """(name) -> the command of a sweep of a control and three trials, one at a time, and its folder."""
    values = [("explorer.type", "random"), ("train.steps", 600), ("train.eval_every", 100)]
    sweep = {
        "experiment": with_overrides(prepared.experiment.model_dump(mode="json"), values),
        "space": {"train.synthetic_ratio": {"uniform": [0.2, 0.6]}},
        "search": {"trials": 3, "controls": ["distillation"], "scheduler": "none", "concurrent": 1},
    }
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep))

    def make(name: str) -> tuple[list[str], str, Path]:
        command = [sys.executable, "-m", "tgt_ray.sweep", "--storage", storage.root, "--name", name]
        return command, str(file), Path(storage.root) / name

    return make


def run_until_a_second_trial_works(command: list[str], folder: Path, output: Path) -> subprocess.Popen:
    """The driver, once a finished trial is in the table and the next one has a checkpoint."""
    with output.open("w") as file:
        driver = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    deadline = time.time() + 180
    while not (folder / "trials.csv").exists() or len(list(folder.glob("train/*/state.pt"))) < 2:
        assert driver.poll() is None and time.time() < deadline, "the sweep ended before it could be stopped"
        time.sleep(0.1)
    return driver


def test_kill_9_of_the_driver_then_resume_completes_the_sweep(sweep_command, tmp_path):
    command, file, folder = sweep_command("killed-driver")
    driver = run_until_a_second_trial_works([*command, file], folder, tmp_path / "output")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    finished_before = set(pd.read_csv(folder / "trials.csv").query("status == 'finished'").trial)
    assert finished_before

    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_csv(folder / "trials.csv")
    assert len(table) == 4 and set(table.status) == {"finished"}
    assert finished_before <= set(table.trial), "a finished trial was lost"
    assert json.loads((folder / "best" / "metrics.json").read_text())["test_balanced_accuracy"] > 50
    assert (folder / "best" / "student.safetensors").exists()


def test_kill_9_of_the_board_costs_no_trial(sweep_command, tmp_path, processes):
    before = processes(b"ray::Board")
    command, file, folder = sweep_command("killed-board")
    driver = run_until_a_second_trial_works([*command, file], folder, tmp_path / "output")
    (board,) = processes(b"ray::Board") - before
    os.kill(board, signal.SIGKILL)
    assert driver.wait(timeout=120) == 0, (tmp_path / "output").read_text()
    table = pd.read_csv(folder / "trials.csv")
    assert table.status.to_list() == ["finished"] * 4
    assert table.step.to_list() == [600] * 4


def test_ctrl_c_keeps_the_table_and_leaves_no_process(sweep_command, tmp_path, processes):
    before = processes(b"ray")
    command, file, folder = sweep_command("interrupted")
    driver = run_until_a_second_trial_works([*command, file], folder, tmp_path / "output")
    started = processes(b"raylet") | processes(b"ray::")
    assert started - before, "this sweep has no processes, so nothing is tested"
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
    code = driver.wait(timeout=60)
    output = (tmp_path / "output").read_text()
    assert code == 130, output
    assert "Traceback" not in output
    assert "--resume" in output, "it says how to go on"
    table = pd.read_csv(folder / "trials.csv")
    assert "finished" in set(table.status) and "running" not in set(table.status)
    deadline = time.time() + 20
    while left := (processes(b"raylet") | processes(b"ray::")) - before:
        assert time.time() < deadline, f"left over: {left}"
        time.sleep(0.2)
