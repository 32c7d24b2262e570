"""A real sweep in a process of its own, moments of it, and what must be true of it at its end."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import psutil
import yaml

from tests.helpers.experiments import changed
from tgt_ray.core import lines
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps.journal import JOURNAL

#: What a table says of how a sweep has gone, and not on which lane or how long.
SAME = ["trial", "number", "status", "reason", "control", "train.synthetic_ratio", "step", "train_loss"]
SAME += ["balanced_accuracy", "test_balanced_accuracy"]
#: Steps of each trial, and from one report to the next.
STEPS, EVERY = 600, 100
#: A control and three trials, one at a time, whose rows don't depend on the student.
SWEEP = {
    "experiment": changed(
        Experiment(),
        {
            "teacher.labeler.pretrain.steps": 150,
            "teacher.generator.pretrain.steps": 300,
            "explorer": {"type": "random"},
            "train.steps": STEPS,
            "train.eval_every": EVERY,
        },
    ).model_dump(mode="json"),
    "space": {"train.synthetic_ratio": {"uniform": [0.2, 0.6]}},
    "search": {"trials": 3, "controls": ["distillation"], "scheduler": "none", "concurrent": 1},
}
TRIALS = 4
#: When a fault comes. "start": as soon as there is such a process; "teacher": the labeler is made, the generator isn't;
#: "end": the last trial has ended, and the table is written; the others: a trial has reported a step.
REPORTED = {"first steps": ("1", EVERY), "middle": ("3", STEPS // 2), "last report": ("4", STEPS - EVERY)}
MOMENTS = ("start", *REPORTED)
#: Seconds that a moment may take to come, that a sweep may take, and that its processes may outlive it.
TO_COME_S, TO_END_S, TO_VANISH_S = 240, 420, 20


def prepared(place: Path) -> Path:
    """Write the sweep's settings into a folder; return the file."""
    file = place / "sweep.yaml"
    file.write_text(yaml.safe_dump(SWEEP))
    return file


def facts(folder: Path) -> pd.DataFrame:
    """What is compared of a sweep's table."""
    table = pd.read_parquet(folder / "trials.parquet")
    return table[SAME].sort_values("number").reset_index(drop=True)


class Sweep:
    """The command that does it, in a storage that is its own."""

    def __init__(self, storage: Path, file: Path, output: Path | None = None):
        self.folder, self.file = storage / "a", file
        self.output = output or storage.parent / f"{storage.name}.txt"
        self.processes: dict[tuple[int, float], psutil.Process] = {}
        self.began = 0.0

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        words = ["--storage", str(self.folder.parent), "--name", "a", *more]
        with self.output.open("ab") as out:
            self.driver = subprocess.Popen(
                [sys.executable, "-m", "tgt_ray.sweep", *words], stdout=out, stderr=out, start_new_session=True
            )
        self.began = time.monotonic()
        return self.driver

    def begin(self, *more: str) -> Sweep:
        self.start(str(self.file), *more)
        return self

    def has_come(self, moment: str) -> bool:
        if moment in REPORTED:
            trial, step = REPORTED[moment]
            reports = [each for each in self.lines() if each["kind"] == "report" and str(each["trial"]) == trial]
            return any(each["metrics"]["step"] >= step for each in reports)
        if moment == "end":
            return sum(each["kind"] == "end" for each in self.lines()) == TRIALS
        return moment == "start" or bool(list(self.folder.parent.glob("teachers/labeler-*.json")))

    def wait_for(self, moment: str, *titles: str) -> list[psutil.Process]:
        """Wait until a moment has come and there are processes of these titles; return them."""
        deadline = time.monotonic() + TO_COME_S
        while True:
            assert self.driver.poll() is None, f"it ended before: {self.said()}"
            assert time.monotonic() < deadline, f"{moment!r} or {titles} didn't come: {self.said()}"
            if self.has_come(moment):
                found = [self.named(title) for title in titles]
                if all(found):
                    return [process for each in found for process in each]
            time.sleep(0.02)

    def named(self, title: str) -> list[psutil.Process]:
        """Its processes of that title; "driver" is the command itself."""
        if title == "driver":
            return [psutil.Process(self.driver.pid)]
        return [each for each, line in self._all() if title in line.partition(" --")[0]]

    def end(self, *codes: int) -> Sweep:
        """Wait until the command ends in order, with one of these exit codes (0), and no process of it is left."""
        self._all()
        while self.driver.poll() is None:
            assert time.monotonic() - self.began < TO_END_S, f"it doesn't end: {self.said()}"
            self._all()
            time.sleep(0.5)
        assert self.driver.returncode in (codes or (0,)), self.said()
        assert "Traceback" not in self.said(), self.said()
        self.vanished()
        return self

    def vanished(self) -> None:
        """See that no process stays."""
        deadline = time.monotonic() + TO_VANISH_S
        while left := [each for each in self.processes.values() if _lives(each)]:
            assert time.monotonic() < deadline, f"they stay: {left}"
            time.sleep(0.2)

    def killed(self) -> Sweep:
        """Wait until the command and its processes are gone, after the command itself was killed."""
        self.driver.wait(timeout=60)
        self.vanished()
        return self

    def compare(self, wanted: pd.DataFrame) -> None:
        """See that it has gone as the undisturbed one: the same trials, none twice, the same scores, no draft."""
        pd.testing.assert_frame_equal(facts(self.folder), wanted)
        found = self.lines()
        ends = [each["trial"] for each in found if each["kind"] == "end" and each["status"] == "finished"]
        assert sorted(map(str, ends)) == sorted(map(str, wanted.trial)), "each trial ends once"
        steps = [(each["trial"], each["metrics"]["step"]) for each in found if each["kind"] == "report"]
        assert len(steps) == len(set(steps)), "no report is there twice"
        assert not list(self.folder.parent.rglob("*.tmp")), "no draft is left"
        assert (self.folder / "best" / "student.safetensors").is_file()

    def said(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def again(self, when: float) -> int:
        """About how many steps are done again by a worker that is lost now: those since the last report.

        - when: the time of day of the fault
        """
        reports = [each for each in self.lines() if each["kind"] == "report"]
        if not reports:
            return 0
        last = max(pd.Timestamp(each["at"]).timestamp() for each in reports)
        seconds = [each["seconds"] for each in reports if each["metrics"]["step"] == STEPS]
        # Of the fastest one: the first one's seconds have the start of its processes in them.
        return 0 if not seconds else min(EVERY, round((when - last) * STEPS / min(seconds)))

    def seconds_to_go_on(self, when: float) -> float | None:
        """Seconds from a time of day to the next report or end of a trial; None: there was none any more.

        Of the last command alone: the first one may still have reported something when it could not go on.
        """
        found = [each for each in self.lines() if each["kind"] in ("report", "end")]
        assert when, "the fault's time was not noted"
        times = [pd.Timestamp(each["at"]).timestamp() for each in found if each["command"] == found[-1]["command"]]
        later = [at - when for at in times if at > when]
        return round(min(later), 1) if later else None

    def end_by_force(self) -> None:
        """Leave nothing behind after a test that has failed."""
        for each in self.processes.values():
            if _lives(each):
                each.kill()
        if self.driver.poll() is None:
            self.driver.send_signal(signal.SIGKILL)
            self.driver.wait()

    def _all(self) -> list[tuple[psutil.Process, str]]:
        found = []
        try:
            children = psutil.Process(self.driver.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        for each in children:
            try:
                found.append((each, " ".join(each.cmdline())))
                self.processes[each.pid, each.create_time()] = each
            except psutil.Error:
                continue
        return found

    def lines(self) -> list[lines.Entry]:
        """The lines of its journal that are whole; none before it has one."""
        return lines.read(Storage(self.folder), JOURNAL)[0]


def copied_without_sweep(storage: Path, place: Path) -> Path:
    """Copy a storage with its teacher, but without the sweep and without rows, so that it needs generators."""
    return Path(shutil.copytree(storage, place, ignore=shutil.ignore_patterns("a", "bank", "logs")))


def sent(processes: Iterable[psutil.Process], what: signal.Signals) -> int:
    """Send a signal to processes; return to how many of them."""
    count = 0
    for each in processes:
        try:
            each.send_signal(what)
            count += 1
        except psutil.NoSuchProcess:
            continue
    return count


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
