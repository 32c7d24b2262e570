"""Trainings on disks that are filled, mounted read-only or taken away while they work; tests/chaos has sweeps."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.numpy
import yaml

from tests.helpers.disks import Disk, small_disk
from tests.helpers.experiments import OWN_ROWS, tiny
from tgt_ray.core.patience import PATIENCE_S

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

#: It goes on for a while after its first checkpoint.
LONG = {
    **OWN_ROWS,
    "train.steps": 800,
    "train.eval_every": 100,
    "train.batch_size": 32,
    "explorer": {"type": "random"},
    "fit_check.on_low": "skip",
}
#: What a report says of the work, which a resume does in part once more, and not of the student.
WORK = ("train_s", "wait_share", "start_wait_s", "teacher_seconds", "rows_made")


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as there:
        yield there


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("experiment") / "experiment.yaml"
    file.write_text(yaml.safe_dump(tiny(*LONG.items()).model_dump(mode="json")))
    return file


def command(place: Path, *words: object) -> list[str]:
    kind, *others = words
    return [sys.executable, "-m", "tgt_ray", str(kind), "--storage", str(place), "--name", "a", *map(str, others)]


class Started:
    """A command of which the first checkpoint is there."""

    def __init__(self, folder: Path, output: Path, *words: object):
        self.folder, self.output = folder, output
        with output.open("w") as file:
            self.process = subprocess.Popen(command(folder.parent, *words), stdout=file, stderr=file)
        deadline = time.time() + 200
        while not (list(folder.glob("checkpoint/state.pt")) or list(folder.glob("train/*/state.previous.pt"))):
            assert self.process.poll() is None and time.time() < deadline, output.read_text()
            time.sleep(0.05)

    def until(self, said: str) -> None:
        deadline = time.time() + 200
        while said not in self.output.read_text():
            assert self.process.poll() is None and time.time() < deadline, self.output.read_text()
            time.sleep(0.1)

    def end(self) -> tuple[int, str]:
        """Its exit code and what it has said."""
        code = self.process.wait(timeout=300)
        return code, self.output.read_text()


def done(place: Path, *words: object) -> str:
    ended = subprocess.run(command(place, *words), capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def drafts(place: Path) -> list[Path]:
    return list(place.rglob("*.tmp"))


def results(folder: Path) -> tuple[list[dict], dict]:
    """What reports of a run say of its student, and the student."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    reports = [{k: v for k, v in json.loads(line).items() if not k.startswith(WORK)} for line in lines]
    return reports, safetensors.numpy.load_file(folder / "student.safetensors")


def assert_same(folder: Path, wanted: Path) -> None:
    (reports, student), (reports_there, student_there) = results(folder), results(wanted)
    assert reports == reports_there and student.keys() == student_there.keys()
    assert all((student[name] == student_there[name]).all() for name in student)


@pytest.fixture(scope="module")
def calm(experiment, tmp_path_factory) -> Path:
    """The folder of the undisturbed run."""
    place = tmp_path_factory.mktemp("calm")
    done(place, "train", "--local", experiment)
    return place / "a"


def last_line(said: str) -> str:
    assert "Traceback" not in said, said
    return said.strip().splitlines()[-1]


def test_a_disk_that_is_full_for_15_s_costs_a_run_time_alone(disk, experiment, calm, tmp_path):
    run = Started(disk.place / "r" / "a", tmp_path / "said", "train", "--local", experiment)
    disk.fill()
    run.until("; tried again for 60 s")
    time.sleep(15)
    disk.free()
    code, said = run.end()
    assert code == 0 and "the storage can be written again, after" in said, said
    assert_same(run.folder, calm)
    assert not drafts(disk.place)


def test_a_disk_that_stays_full_ends_a_run_in_order_and_resume_finishes_it(disk, experiment, calm, tmp_path):
    run = Started(disk.place / "r" / "a", tmp_path / "said", "train", "--local", experiment)
    disk.fill()
    began = time.monotonic()
    code, said = run.end()
    assert code == 1 and PATIENCE_S < time.monotonic() - began < 2 * PATIENCE_S
    last = last_line(said)
    assert last.startswith("failed: ") and "storage full" in last and "go on with --resume" in last
    assert not drafts(disk.place)
    disk.free()
    done(disk.place / "r", "train", "--local", "--resume")
    assert_same(run.folder, calm)


def test_a_folder_that_becomes_read_only_ends_a_run_in_order_and_resume_finishes_it(disk, experiment, calm, tmp_path):
    run = Started(disk.place / "r" / "a", tmp_path / "said", "train", "--local", experiment)
    with disk.read_only(run.folder):
        code, said = run.end()
    last = last_line(said)
    assert code == 1 and last.startswith("failed: ") and "Read-only file system" in last and "--resume" in last
    done(disk.place / "r", "train", "--local", "--resume")
    assert_same(run.folder, calm)
    assert not drafts(disk.place)


def test_a_folder_that_is_removed_ends_a_run_at_once_and_is_not_made_again(experiment, tmp_path):
    run = Started(tmp_path / "r" / "a", tmp_path / "said", "train", "--local", experiment)
    shutil.rmtree(run.folder)
    began = time.monotonic()
    code, said = run.end()
    last = last_line(said)
    assert code == 1 and time.monotonic() - began < PATIENCE_S / 2
    assert last.startswith("failed: ") and "somebody has removed the folder" in last
    assert not run.folder.exists()


@pytest.mark.ray
def test_a_disk_that_stays_full_ends_a_run_on_ray_in_order_and_resume_finishes_it(disk, experiment, calm, tmp_path):
    run = Started(disk.place / "r" / "a", tmp_path / "said", "train", experiment)
    disk.fill()
    code, said = run.end()
    last = last_line(said)
    assert code == 1 and last.startswith("failed: ") and "storage full" in last and "go on with --resume" in last
    assert not drafts(disk.place)
    disk.free()
    done(disk.place / "r", "train", "--resume")
    reports, _ = results(run.folder)
    assert [each["step"] for each in reports] == [each["step"] for each in results(calm)[0]]
