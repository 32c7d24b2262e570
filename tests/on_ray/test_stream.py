"""The stream's contract on a real local Ray: every row once, in order, with its provenance, and lag within bounds."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from tgt_ray.coordinator import Job, start_coordinator
from tgt_ray.experiment import Experiment, with_overrides
from tgt_ray.explorers import Gradient, Random
from tgt_ray.loop import StudentRun
from tgt_ray.stream import SyntheticStream, TeacherGenerator, pack, unpack
from tgt_ray.synthesis import Synthesizer, inline_blocks
from tgt_ray.teacher import load_teacher

pytestmark = pytest.mark.ray


def experiment(base: Experiment, **overrides: object) -> Experiment:
    return Experiment.model_validate(
        with_overrides(base.model_dump(mode="json"), [(k.replace("__", "."), v) for k, v in overrides.items()])
    )


def read_all(stream: SyntheticStream) -> list[dict[str, np.ndarray]]:
    stream.begin(0)
    blocks = iter(stream)
    out = [next(blocks) for _ in range(stream.count)]
    stream.close()
    return out


def test_a_request_survives_packing():
    block = {
        "inputs": np.random.rand(5, 1, 8, 8).astype(np.float32),
        "teacher_logits": np.random.rand(5, 10).astype(np.float32),
        "anchor": np.arange(5),
        "request": np.full(5, 7),
        "version": np.full(5, -1),
        "explorer": np.full(5, "random"),
    }
    again = unpack(pack(block))
    assert set(again) == set(block)
    for name, values in block.items():
        np.testing.assert_array_equal(again[name], values)


def test_every_request_comes_once_in_order_and_equals_the_local_one(ray_cluster, prepared, storage):
    config = experiment(
        prepared.experiment,
        explorer__type="random",
        train__steps=100,
        pool__rows_per_request=64,
        pool__slot_length=8,
        pool__actors=2,
    )
    blocks = read_all(SyntheticStream(config, (ray.put(prepared.prepared),), storage.root))
    assert len(blocks) == 100 * 32 // 64
    run = StudentRun(config, prepared.prepared.student)
    data = prepared.prepared.student
    teacher = load_teacher(config.teacher, prepared.prepared.teacher, data.input_shape, data.num_classes, storage)
    local = inline_blocks(Synthesizer(teacher, prepared.prepared.anchors, 64), config, run.student, 0, lambda: 0)
    for index, block in enumerate(blocks):
        assert (block["request"] == index).all() and (block["version"] == -1).all()
        assert (block["explorer"] == "random").all()
        assert np.isin(block["anchor"], prepared.prepared.anchors.ids).all()
        expected = next(local)
        np.testing.assert_array_equal(block["anchor"], expected["anchor"])
        np.testing.assert_allclose(block["inputs"], expected["inputs"], atol=1e-5)
        np.testing.assert_allclose(block["teacher_logits"], expected["teacher_logits"], atol=1e-3)


def test_lag_is_bounded_by_window_and_snapshots(ray_cluster, prepared, storage):
    config = experiment(
        prepared.experiment, train__steps=120, pool__rows_per_request=64, pool__window=3, pool__snapshot_every=10
    )
    stream = SyntheticStream(config, (ray.put(prepared.prepared),), storage.root)
    run = StudentRun(config, prepared.prepared.student)
    stream.publish(0, run.snapshot())
    stream.begin(0)
    blocks, lags, steps_per_block = iter(stream), [], 2  # 64 rows, 32 a step
    for step in range(0, 120, steps_per_block):
        block = next(blocks)
        lags.append(step - block["version"][0])
        time.sleep(0.02)  # a student slower than its generators: what is granted ahead is as old as it can get
        if (step + steps_per_block) % 10 == 0:
            stream.publish(step + steps_per_block, run.snapshot())
    stream.close()
    # Granted at most `window` requests ahead of the one in use, with a snapshot at most `snapshot_every` steps old.
    assert max(lags) <= 3 * steps_per_block + 10 + steps_per_block
    assert max(lags) > 0 and min(lags) >= 0


@pytest.mark.chaos
@pytest.mark.parametrize("actors", [1, 2])
def test_kill_9_of_a_generator_loses_and_repeats_nothing(actors, ray_cluster, prepared, storage):
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
    stream = SyntheticStream(config, (ray.put(prepared.prepared),), storage.root, generator=RecordsItsProcess)
    stream.begin(0)
    requests, blocks = [], iter(stream)
    for index in range(stream.count):
        requests.append(int(next(blocks)["request"][0]))
        if index in (20, 90):
            os.kill(int(pids.read_text().split()[-1]), signal.SIGKILL)
    granted = stream.metrics()["requests_granted"]
    stream.close()
    assert requests == list(range(200))
    assert granted == 200, "a retried task must get its old ids again, not new ones"
    assert len(pids.read_text().split()) == actors + 2


def test_grants_follow_the_window_and_are_remembered(ray_cluster):
    coordinator = start_coordinator()
    early = coordinator.grant.remote(0, 0, -1, 0.0, 0.0)
    assert not ray.wait([early], timeout=0.3)[0], "nothing is granted before the worker has begun"
    ray.get(coordinator.begin.remote(Job(Random(), seed=0, rank=1, world_size=2, first=5, count=9, window=2)))
    assert ray.get(early).request == 5 * 2 + 1
    assert ray.get(coordinator.grant.remote(1, 0, -1, 0.0, 0.0)).request == 6 * 2 + 1
    third = coordinator.grant.remote(0, 1, -1, 0.0, 0.0)
    assert not ray.wait([third], timeout=0.3)[0], "the window is full"
    assert ray.get(coordinator.grant.remote(1, 0, -1, 0.0, 0.0)).request == 6 * 2 + 1, "a retry gets the same request"
    ray.get(coordinator.consumed.remote(6))
    assert ray.get(third).request == 7 * 2 + 1
    ray.get(coordinator.consumed.remote(9))
    assert ray.get(coordinator.grant.remote(0, 2, -1, 0.0, 0.0)).request == 8 * 2 + 1
    assert ray.get(coordinator.grant.remote(0, 3, -1, 0.0, 0.0)) is None, "all that is wanted has been granted"


def test_an_on_policy_grant_waits_for_a_snapshot_and_carries_only_newer_ones(ray_cluster):
    coordinator = start_coordinator()
    ray.get(coordinator.begin.remote(Job(Gradient(), seed=0, rank=0, world_size=1, first=0, count=9, window=9)))
    first = coordinator.grant.remote(0, 0, -1, 0.0, 0.0)
    assert not ray.wait([first], timeout=0.3)[0]
    ray.get(coordinator.publish.remote(0, b"weights"))
    grant = ray.get(first)
    assert grant.version == 0 and ray.get(grant.snapshot[0]) == b"weights"
    assert ray.get(coordinator.grant.remote(0, 1, 0, 0.0, 0.0)).snapshot == ()
    waiting = coordinator.grant.remote(0, 2, 0, 0.0, 0.0)
    assert ray.get(waiting).version == 0
    ray.get(coordinator.end.remote())
    assert ray.get(coordinator.grant.remote(0, 3, 0, 0.0, 0.0)) is None


def test_a_broken_generator_reaches_the_student_as_an_error(ray_cluster, prepared, storage):
    class Broken(TeacherGenerator):
        def __call__(self, batch):
            raise ValueError("no such latent")
            yield

    config = experiment(prepared.experiment, explorer__type="random", train__steps=10)
    stream = SyntheticStream(config, (ray.put(prepared.prepared),), storage.root, generator=Broken)
    stream.begin(0)
    with pytest.raises(Exception, match="no such latent"):
        next(iter(stream))
    stream.close()
