"""The stream's contract on a real local Ray: every row once, in order, with its provenance, and lag within bounds."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from tgt_ray.core.batch import Block
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.signals.values import Ragged
from tgt_ray.distributed.coordinator import start_coordinator
from tgt_ray.distributed.messages import Grant, Job, Spent
from tgt_ray.distributed.pool_actor import GenerationFailed, TeacherGenerator
from tgt_ray.distributed.stream import SyntheticStream, num_requests
from tgt_ray.distributed.wire import pack, unpack
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.store import load_teacher
from tgt_ray.teacher.synthesizer import Recipe, Synthesizer
from tgt_ray.training.checkpoint import snapshot
from tgt_ray.training.generation import inline_blocks
from tgt_ray.training.run import StudentRun

pytestmark = pytest.mark.ray


def experiment(base: Experiment, **overrides: object) -> Experiment:
    return Experiment.model_validate(
        with_overrides(base.model_dump(mode="json"), [(k.replace("__", "."), v) for k, v in overrides.items()])
    )


@pytest.fixture
def reference(ray_cluster, prepared):
    return (ray.put(prepared.prepared),)


@pytest.fixture
def opened(ray_cluster, storage):
    """(experiment, generator) -> an open stream for it, closed at the end of the test."""
    streams = []

    def make(config: Experiment, generator: type = TeacherGenerator, **options) -> SyntheticStream:
        streams.append(SyntheticStream(config.pool, storage.root, generator=generator, **options))
        return streams[-1]

    yield make
    for stream in streams:
        stream.close()


@pytest.mark.parametrize("layout", [(0, 1, 2, 3), (0, 2, 3, 1)])
def test_a_request_survives_packing(layout):
    """Also where the channels lie last in memory, as convolutions leave them."""
    images = np.random.rand(5, 3, 8, 4).astype(np.float32)
    maps = np.ascontiguousarray(images.transpose(layout)).transpose(np.argsort(layout))
    columns = {
        "logits": np.random.rand(5, 10).astype(np.float32),
        "maps": maps,
        "inputs": np.arange(5),  # a signal may have any name
        "lists": Ragged(np.random.rand(9, 2).astype(np.float32), np.array([0, 4, 2, 0, 3])),
    }
    shown = {"reconstructed": np.random.rand(2, 3, 8, 4).astype(np.float32), "top_class": np.array([3, 1])}
    block = Block(maps, np.arange(5), columns, shown, 7, -1, "random")
    row = pack(2, block)
    assert row.num_rows == 1
    assert row["job"].to_pylist() == [2]
    again = unpack(row)
    assert (again.request, again.version, again.explorer) == (7, -1, "random")
    for part in ("columns", "shown"):
        before, after = getattr(block, part), getattr(again, part)
        assert before.keys() == after.keys()
        for name in before.keys() - {"lists"}:
            np.testing.assert_array_equal(after[name], before[name])
    for before, after in zip(columns["lists"].lists(), again.columns["lists"].lists(), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(again.inputs, maps)
    np.testing.assert_array_equal(again.anchor, np.arange(5))


def test_every_request_comes_once_in_order_and_equals_the_local_one(opened, reference, prepared, storage):
    config = experiment(
        prepared.experiment,
        explorer__type="random",
        train__steps=100,
        pool__rows_per_request=64,
        pool__slot_length=8,
        pool__actors=2,
    )
    arriving = opened(config).begin(config, reference, 0)
    blocks = [next(arriving) for _ in range(num_requests(config, 1))]
    assert len(blocks) == 100 * 32 // 64
    run = StudentRun(config, prepared.prepared.student)
    data = prepared.prepared.student
    teacher = load_teacher(config.teacher, prepared.prepared.teacher, data.spec, data.num_classes, storage)
    local = inline_blocks(
        Synthesizer(teacher, prepared.prepared.anchors, Recipe(64)), config, run.student, 0, lambda: 0
    )
    for index, block in enumerate(blocks):
        assert (block.request, block.version, block.explorer) == (index, -1, "random")
        assert np.isin(block.anchor, prepared.prepared.anchors.ids).all()
        expected = next(local)
        np.testing.assert_array_equal(block.anchor, expected.anchor)
        np.testing.assert_allclose(block.inputs, expected.inputs, atol=1e-5)
        np.testing.assert_allclose(block.columns["logits"], expected.columns["logits"], atol=1e-3)


def test_lag_is_bounded_by_window_and_snapshots(opened, reference, prepared):
    config = experiment(
        prepared.experiment, train__steps=120, pool__rows_per_request=64, pool__window=3, pool__snapshot_every=10
    )
    run, stream = StudentRun(config, prepared.prepared.student), opened(config)
    blocks, lags, steps_per_block = (
        stream.begin(config, reference, 0, snapshot(run.student), 0),
        [],
        2,
    )  # 64 rows, 32 a step
    for step in range(0, 120, steps_per_block):
        block = next(blocks)
        lags.append(step - block.version)
        time.sleep(0.02)  # a student slower than its generators: what is granted ahead is as old as it can get
        if (step + steps_per_block) % 10 == 0:
            stream.publish(step + steps_per_block, snapshot(run.student))
    # Granted at most `window` requests ahead of the one in use, with a snapshot at most `snapshot_every` steps old.
    assert max(lags) <= 3 * steps_per_block + 10 + steps_per_block
    assert max(lags) > 0 and min(lags) >= 0


@pytest.mark.chaos
@pytest.mark.parametrize("actors", [1, 2])
def test_kill_9_of_a_generator_loses_and_repeats_nothing(actors, opened, reference, prepared, storage):
    class RecordsItsProcess(TeacherGenerator):
        def __init__(self, setup):
            TeacherGenerator.__init__(self, setup)
            with (Path(setup.storage_root) / "pool_pids").open("a") as file:
                file.write(f"{os.getpid()}\n")

    config = experiment(
        prepared.experiment,
        explorer__type="random",
        train__steps=400,
        pool__rows_per_request=64,
        pool__slot_length=16,
        pool__actors=actors,
    )
    pids = Path(storage.root) / "pool_pids"
    pids.unlink(missing_ok=True)
    stream = opened(config, RecordsItsProcess)
    requests, blocks = [], stream.begin(config, reference, 0)
    for index in range(num_requests(config, 1)):
        requests.append(next(blocks).request)
        if index in (20, 90):
            os.kill(int(pids.read_text().split()[-1]), signal.SIGKILL)
    granted = stream.metrics()["requests_granted"]
    assert requests == list(range(200))
    assert granted == 200, "a retried task must get its old ids again, not new ones"
    assert len(pids.read_text().split()) == actors + 2


def job(prepared, number: int = 0, **options) -> Job:
    values = {"rank": 0, "world_size": 1, "first": 0, "count": 9, **options}
    explorer, window = values.pop("explorer", "random"), values.pop("window", 9)
    return Job(number, experiment(prepared.experiment, explorer__type=explorer, pool__window=window), (), **values)


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


def test_one_stream_serves_one_job_after_another(opened, reference, prepared):
    """Each job gets its own rows from its first request on; what is left over of the one before is dropped and counted."""
    config = experiment(prepared.experiment, explorer__type="random", train__steps=40, pool__rows_per_request=64)
    other = experiment(config, explorer__sigma=0.1, pool__rows_per_request=32, train__seed=1)
    stream = opened(config)
    rows = []
    for one in (config, other, config):
        blocks = stream.begin(one, reference, 0)
        rows.append([next(blocks) for _ in range(5)])  # and leave the rest
        time.sleep(1)  # for the pool to fill the window
    assert stream.dropped > 0
    assert stream.metrics()["dropped_blocks"] == stream.dropped
    for before, again in zip(rows[0], rows[2], strict=True):
        np.testing.assert_array_equal(before.anchor, again.anchor)
        np.testing.assert_array_equal(before.inputs, again.inputs)
    assert [len(block) for block in rows[1]] == [32] * 5
    assert [block.request for block in rows[1]] == [0, 1, 2, 3, 4]


def test_a_pass_that_is_used_up_is_followed_by_another(opened, reference, prepared):
    config = experiment(
        prepared.experiment, explorer__type="random", train__steps=40, pool__rows_per_request=64, pool__slot_length=4
    )
    blocks = opened(config, slots=2).begin(config, reference, 0)
    assert [next(blocks).request for _ in range(20)] == list(range(20))


def test_a_request_that_fails_reaches_the_student_as_an_error_and_the_stream_goes_on(opened, reference, prepared):
    class Broken(TeacherGenerator):
        def _synthesize(self, grant):
            block = TeacherGenerator._synthesize(self, grant)
            if self.seed == 13 and grant.request == 2:
                raise ValueError("no such latent")
            return block

    config = experiment(prepared.experiment, explorer__type="random", train__steps=40, pool__rows_per_request=64)
    stream = opened(config, Broken)
    blocks = stream.begin(experiment(config, train__seed=13), reference, 0)
    with pytest.raises(GenerationFailed, match="ValueError: no such latent"):
        for _ in range(3):
            next(blocks)
    assert int(next(stream.begin(config, reference, 7))["request"][0]) == 7


def test_closing_a_stream_ends_its_processes(ray_cluster, storage, reference, prepared, processes):
    def pool() -> set[int]:
        return processes(b"ray::MapWorker") | processes(b"ray::SplitCoordinator")

    before = pool()
    config = experiment(prepared.experiment, explorer__type="random", train__steps=40)
    stream = SyntheticStream(config.pool, storage.root)
    next(stream.begin(config, reference, 0))
    assert len(pool() - before) == 2
    stream.close()
    deadline = time.time() + 10
    while pool() - before:
        assert time.time() < deadline, "the pool is still there"
        time.sleep(0.2)
