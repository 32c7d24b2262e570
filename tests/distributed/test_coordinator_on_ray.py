"""Grants of a coordinator that is an actor."""

import numpy as np
import pytest
import ray

from tests.helpers.experiments import changed
from tgt_ray.distributed.coordinator import start_coordinator
from tgt_ray.distributed.messages import Grant, Job, Spent

pytestmark = pytest.mark.ray


def job(prepared, number: int = 0, **options) -> Job:
    values = {"rank": 0, "world_size": 1, "first": 0, "count": 9, **options}
    explorer, window = values.pop("explorer", "random"), values.pop("window", 9)
    return Job(number, changed(prepared.experiment, explorer__type=explorer, pool__window=window), (), **values)


def ask(coordinator, slot: int, place: int, number: int = -1, version: int = -1):
    return coordinator.grant.remote(slot, place, number, version, Spent())


def test_grants_follow_the_window_and_are_remembered(ray_cluster, prepared):
    coordinator = start_coordinator()
    early = ask(coordinator, 0, 0)
    assert not ray.wait([early], timeout=0.3)[0], "nothing is granted before the worker has begun"
    ray.get(coordinator.begin.remote(job(prepared, rank=1, world_size=2, first=5, window=2), None, -1))
    assert ray.get(early).request == 5 * 2 + 1 and ray.get(early).job.number == 0
    second = ray.get(ask(coordinator, 1, 0, number=0))
    assert second.request == 6 * 2 + 1 and second.job is None, "who has the job doesn't get it again"
    third = ask(coordinator, 0, 1)
    assert not ray.wait([third], timeout=0.3)[0], "the window is full"
    assert ray.get(ask(coordinator, 1, 0)).request == 6 * 2 + 1, "a retry gets the same request"
    ray.get(coordinator.consumed.remote(0, 6))
    assert ray.get(third).request == 7 * 2 + 1
    ray.get(coordinator.consumed.remote(0, 9))
    assert ray.get(ask(coordinator, 0, 2)).request == 8 * 2 + 1
    assert not ray.wait([ask(coordinator, 0, 3)], timeout=0.3)[0], "all that is wanted has been granted"


def test_a_new_job_takes_over_and_a_retry_does_not_make_what_the_old_one_had(ray_cluster, prepared):
    coordinator = start_coordinator()
    ray.get(coordinator.begin.remote(job(prepared, 0, count=1), None, -1))
    ray.get(ask(coordinator, 0, 0))
    waiting = ask(coordinator, 0, 1, number=0)
    assert not ray.wait([waiting], timeout=0.3)[0]
    ray.get(coordinator.begin.remote(job(prepared, 1, first=3), None, -1))
    grant = ray.get(waiting)
    assert (grant.number, grant.request, grant.job.number) == (1, 3, 1)
    assert ray.get(ask(coordinator, 0, 0)) == Grant(0), "used up or dropped: nothing is made"
    ray.get(coordinator.consumed.remote(0, 8))  # said late of the job before
    assert ray.get(coordinator.stream_metrics.remote())["requests_granted"] == 1


def test_an_on_policy_grant_carries_only_newer_snapshots(ray_cluster, prepared):
    coordinator = start_coordinator()
    first = ask(coordinator, 0, 0)
    start = {"weight": np.zeros(2)}
    ray.get(coordinator.begin.remote(job(prepared, explorer="gradient"), start, 0))
    grant = ray.get(first)
    assert grant.version == 0 and list(ray.get(grant.snapshot[0])) == ["weight"]
    assert ray.get(ask(coordinator, 0, 1, 0, 0)).snapshot == ()
    ray.get(coordinator.publish.remote(0, 20, start))
    newer = ray.get(ask(coordinator, 0, 2, 0, 0))
    assert newer.version == 20 and newer.snapshot
    ray.get(coordinator.end.remote())
    assert ray.get(ask(coordinator, 0, 3)) == Grant(-1)
