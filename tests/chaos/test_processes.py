"""Processes of a sweep are killed and stopped, one by one and in pairs, at moments of it."""

from __future__ import annotations

import signal
import time

import pytest

from tests.chaos.sweep import MOMENTS, sent

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.timeout(1200)]

#: What the parts of a sweep are called, and the titles of their processes.
PARTS = {
    "board": "ray::Board",
    "generator": "ray::MapWorker(MapBatches(TeacherGenerator))",
    "worker": "ray::RayTrainWorker",
    "coordinator": "ray::Coordinator",
    "split coordinator": "ray::SplitCoordinator",
    "train controller": "ray::TrainController",
    "trial": "ray::ResourceTrainable",
    "synchronization actor": "ray::SynchronizationActor",
    "autoscaling coordinator": "ray::_AutoscalingCoordinatorActor",
    "statistics of Ray Data": "ray::_StatsActor",
}
#: What makes a teacher ready.
TEACHER_PARTS = {"task of the teacher": "ray::_said", "its queue": "ray::_QueueActor"}
#: Those that end the command with them: `--resume` goes on.
BASE = {
    "driver": "driver",
    "GCS": "gcs_server",
    "raylet": "raylet",
    "agent of the dashboard": "ray::DashboardAgent",
    "agent of environments": "ray::RuntimeEnvAgent",
}
WORKERS = ("worker", "coordinator", "split coordinator", "train controller")
PAIRS = [
    ("board", "worker"),
    ("board", "trial"),
    ("board", "train controller"),
    ("worker", "generator"),
    ("worker", "trial"),
    ("coordinator", "generator"),
    ("coordinator", "split coordinator"),
    ("train controller", "synchronization actor"),
]
#: Seconds without a sign of life after which a process is replaced, where it never goes on.
WATCHDOG_S = 10


def goes_on(calm, sweep, case) -> None:
    """See that it ends by itself as the undisturbed one."""
    sweep.end().compare(calm.table)
    case.note(then="goes on", next_s=sweep.seconds_to_go_on(case.began))


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_killed(calm, sweep, case, part, moment):
    running = sweep().begin()
    found = running.wait_for(moment, PARTS[part])
    again = running.again(case.comes()) * (part in WORKERS)
    assert sent(found, signal.SIGKILL)
    case.note(fault="kill -9", of=part, moment=moment, again=again)
    goes_on(calm, running, case)


@pytest.mark.parametrize("part", TEACHER_PARTS)
def test_a_part_that_makes_the_teacher_is_killed(calm, sweep, case, part):
    running = sweep(teacher=False).begin()
    found = running.wait_for("start", TEACHER_PARTS[part])
    if part == "task of the teacher":
        running.wait_for("teacher")
        found = running.named(TEACHER_PARTS[part])
    case.comes()
    assert sent(found, signal.SIGKILL)
    case.note(fault="kill -9", of=part, moment="teacher", again=0)
    goes_on(calm, running, case)


@pytest.mark.parametrize("moment", ["teacher", *MOMENTS])
@pytest.mark.parametrize("part", BASE)
def test_what_carries_the_sweep_is_killed(calm, sweep, case, part, moment):
    running = sweep(teacher=moment != "teacher").begin()
    found = running.wait_for(moment, BASE[part])
    again = running.again(case.comes())
    assert sent(found, signal.SIGKILL)
    case.note(fault="kill -9", of=part, moment=moment, again=again)
    if part == "driver":
        running.killed()
    else:
        running.end(1, *([2] if moment == "start" else []))  # where no Ray can be started, it is 2
        assert "has ended (" in running.said() or "error: cannot start a local Ray" in running.said()
    begun = (running.folder / "sweep.yaml").exists()
    running.start("--resume" if begun else str(running.file))
    running.end().compare(calm.table)
    then = "`--resume` goes on" if begun else "the same command begins"
    case.note(then=then, next_s=running.seconds_to_go_on(case.began))


@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_two_parts_are_killed_at_once(calm, sweep, case, pair):
    running = sweep().begin()
    found = running.wait_for("middle", *(PARTS[each] for each in pair))
    again = running.again(case.comes())
    assert sent(found, signal.SIGKILL) >= 2
    case.note(fault="kill -9", of=" and ".join(pair), moment="middle", again=again)
    goes_on(calm, running, case)


@pytest.mark.parametrize("moment", ["first steps", "middle"])
@pytest.mark.parametrize("part", [each for each in PARTS if each != "statistics of Ray Data"])
def test_a_part_is_stopped_for_ever(calm, sweep, case, part, moment):
    running = sweep().begin("--set", f"experiment.train.watchdog={WATCHDOG_S}")
    found = running.wait_for(moment, PARTS[part])
    again = running.again(case.comes()) * (part in WORKERS)
    assert sent(found, signal.SIGSTOP)
    case.note(fault="SIGSTOP", of=part, moment=moment, again=again)
    goes_on(calm, running, case)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["driver", *(each for each in PARTS if each != "statistics of Ray Data")])
def test_a_part_is_stopped_for_two_minutes(calm, sweep, case, part):
    running = sweep().begin()
    found = running.wait_for("middle", {**PARTS, **BASE}[part])
    again = running.again(case.comes()) * (part in WORKERS)
    assert sent(found, signal.SIGSTOP)
    case.note(fault="SIGSTOP for 2 minutes", of=part, moment="middle", again=again)
    until = time.monotonic() + 120
    while time.monotonic() < until and running.driver.poll() is None:
        time.sleep(1)
    sent(found, signal.SIGCONT)
    goes_on(calm, running, case)
