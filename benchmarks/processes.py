"""Measure the processor time of a command's processes: sample while it runs, and sum by what the processes are for."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import psutil

SAMPLE_EVERY_S = 0.25
TIMELINE_EVERY_S = 2.0

#: The role of a process by a part of its title, where Ray puts the actor's class. The first that fits counts.
ROLES = {
    "RayTrainWorker": "students",
    "MapWorker": "generators",
    "TeacherLabeler": "teacher pass",
    "SplitCoordinator": "Ray Data",
    "_StatsActor": "Ray Data",
    "Autoscaling": "Ray Data",
    "Coordinator": "coordinators, board",
    "Board": "coordinators, board",
    "LaneTrial": "Tune's trials",
    "TrainController": "Ray Train's controllers",
    "PlacementGroupCleaner": "Ray Train's helpers",
    "SynchronizationActor": "Ray Train's helpers",
    "DatasetManager": "Ray Train's helpers",
    "ray::IDLE": "other workers of Ray",
    "ray::": "other workers of Ray",
    "default_worker": "other workers of Ray",
    "raylet/raylet": "raylet, gcs_server",
    "gcs/gcs_server": "raylet, gcs_server",
    "agent": "Ray's monitors and agents",
    "monitor.py": "Ray's monitors and agents",
    "dashboard.py": "Ray's monitors and agents",
}


class ProcessorTime:
    """Measure processor seconds by role, of a process and all that it starts.

    What a process does after its last sample is missed: a quarter of a second at most.

    - pid: the process
    """

    def __init__(self, pid: int):
        self.root = psutil.Process(pid)
        self.seconds: dict[tuple[int, float], float] = {}
        self.roles: dict[tuple[int, float], str] = {}
        self.timeline: list[tuple[float, dict[str, float]]] = []
        self.started = time.perf_counter()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._sample_until_stopped, daemon=True)
        self.thread.start()

    def _sample_until_stopped(self) -> None:
        while not self.stop.wait(SAMPLE_EVERY_S):
            self._sample()
            now = time.perf_counter() - self.started
            if now >= len(self.timeline) * TIMELINE_EVERY_S:
                self.timeline.append((round(now, 1), self.by_role()))

    def _sample(self) -> None:
        try:
            processes = [self.root, *self.root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in processes:
            try:
                with process.oneshot():
                    key, spent = (process.pid, process.create_time()), process.cpu_times()
                    title = " ".join(process.cmdline())
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
            self.seconds[key] = spent.user + spent.system
            role = "driver" if process.pid == self.root.pid else role_of(title)
            # A worker process has an actor's title only while it is one, so its last such role is kept.
            if key not in self.roles or not role.startswith("other"):
                self.roles[key] = role

    def by_role(self) -> dict[str, float]:
        """Sum processor seconds by role, largest first."""
        total: dict[str, float] = defaultdict(float)
        for key, seconds in self.seconds.items():
            total[self.roles[key]] += seconds
        return {role: round(seconds, 1) for role, seconds in sorted(total.items(), key=lambda item: -item[1])}

    def result(self) -> dict[str, Any]:
        """Stop sampling, and give seconds and numbers of processes by role, and a timeline."""
        self.stop.set()
        self.thread.join()
        counts: dict[str, int] = defaultdict(int)
        for role in self.roles.values():
            counts[role] += 1
        return {"by_role": self.by_role(), "processes": dict(counts), "timeline": self.timeline}


def role_of(title: str) -> str:
    return next((role for part, role in ROLES.items() if part in title), "other")


def timed(arguments: Sequence[str]) -> tuple[float, dict[str, Any]]:
    """Run a Python command and measure it.

    - arguments: what follows `python`
    - returns: wall seconds from its start to its end, and its processor time
    - raises CalledProcessError: where it fails
    """
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments])
    meter = ProcessorTime(process.pid)
    code = process.wait()
    wall = time.perf_counter() - started
    if code:
        raise subprocess.CalledProcessError(code, process.args)
    return wall, meter.result()
