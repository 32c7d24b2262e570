"""Processes of a lane are killed with -9; its runs must be complete all the same."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray

from tgt_ray.core.loading import with_overrides
from tgt_ray.distributed import lanes
from tgt_ray.distributed.messages import Answer, Run
from tgt_ray.entrypoints import api
from tgt_ray.experiment.experiment import Experiment

pytestmark = [pytest.mark.ray, pytest.mark.chaos]


@pytest.mark.parametrize(
    "title",
    [
        b"ray::RayTrainWorker",
        b"ray::Coordinator",
        pytest.param(b"ray::MapWorker", marks=pytest.mark.slow),
        pytest.param(b"ray::SplitCoordinator", marks=pytest.mark.slow),
    ],
)
def test_kill_9_of_a_part_of_a_lane_resumes_the_run(title, ray_cluster, prepared, storage, processes):
    values = [("explorer.type", "random"), ("train.steps", 1500), ("train.eval_every", 100), ("train.max_failures", 2)]
    values.append(("train.seed", sum(title)))  # else it finds the rows of another one, and there are no generators
    config = Experiment.model_validate(with_overrides(prepared.experiment.model_dump(mode="json"), values))
    name = "killed-" + title.decode().partition("::")[2]
    checkpoint = Path(storage.root) / name / "checkpoint" / "state.pt"
    before = processes(title)
    killed: list[int] = []

    def kill_after_the_first_checkpoint() -> None:
        while not checkpoint.exists():
            time.sleep(0.05)
        for pid in processes(title) - before:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    killer = threading.Thread(target=kill_after_the_first_checkpoint, daemon=True)
    killer.start()
    run = api.run(config, storage=storage.root, name=name)
    assert killed, "nothing was killed, so nothing was tested"
    assert list(run.metrics["step"]) == list(range(100, 1501, 100)), "each report once, none missing"
    calm = api.run(config, storage=storage.root, name=f"calm-{name}", local=True)
    last = [r.metrics.iloc[-1] for r in (run, calm)]
    assert last[0]["train_loss"] == pytest.approx(last[1]["train_loss"], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("title", [b"ray::Coordinator", b"ray::SplitCoordinator"])
def test_kill_9_of_a_part_of_an_idle_lane_costs_its_next_run_nothing(title, ray_cluster, prepared, storage, processes):
    values = [("explorer.type", "random"), ("train.steps", 100), ("train.eval_every", 50), ("train.max_failures", 0)]
    config = Experiment.model_validate(with_overrides(prepared.experiment.model_dump(mode="json"), values))
    name, reference = "idle-" + title.decode().partition("::")[2], (ray.put(prepared.prepared),)
    before = processes(title)
    with lanes.open_lanes(f"test of {name}", config, 1, storage) as link:

        def train(number: int) -> Answer:
            run = Run(f"run {number}", config, reference, storage.within(name, str(number)).root)
            link.call("submit", run)
            return link.call("next_report", run.id, 100)  # after the last of its reports: how it ended

        assert train(0).reason is None
        killed = processes(title) - before
        assert killed, "nothing is killed, so nothing is tested"
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        time.sleep(5)  # for the lane to hear of it
        answer = train(1)
    assert answer.reason is None
    assert [report["step"] for report in answer.history] == [50, 100]
