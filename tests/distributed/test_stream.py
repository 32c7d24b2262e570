"""The stream's contract on a real local Ray: every row once, in order, with its provenance, and lag within bounds."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from tests.helpers.blocks import equal
from tests.helpers.experiments import changed
from tgt_ray.distributed.pool_actor import GenerationFailed, TeacherGenerator
from tgt_ray.distributed.stream import SyntheticStream, num_requests
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.store import load_teacher
from tgt_ray.teacher.synthesizer import Recipe, Synthesizer
from tgt_ray.training.checkpoint import snapshot
from tgt_ray.training.generation import inline_blocks
from tgt_ray.training.run import StudentRun

pytestmark = pytest.mark.ray


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


def test_every_request_comes_once_in_order_and_equals_the_local_one(opened, reference, prepared, storage):
    config = changed(
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
        Synthesizer(teacher, prepared.prepared.anchors, Recipe(64, pixels=True)), config, run.student, 0, lambda: 0
    )
    for index, block in enumerate(blocks):
        assert (block.request, block.version, block.explorer) == (index, -1, "random")
        assert np.isin(block.anchor, prepared.prepared.anchors.ids).all()
        expected = next(local)
        np.testing.assert_array_equal(block.anchor, expected.anchor)
        np.testing.assert_allclose(block.inputs, expected.inputs, atol=1e-5)
        np.testing.assert_allclose(block.columns["logits"], expected.columns["logits"], atol=1e-3)


def test_lag_is_bounded_by_window_and_snapshots(opened, reference, prepared):
    config = changed(
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

    config = changed(
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


@pytest.mark.chaos
@pytest.mark.parametrize("explorer", ["random", "interpolation"])
def test_rows_of_a_generator_that_is_killed_within_a_request_are_the_same(
    explorer, opened, reference, prepared, storage
):
    died = Path(storage.root) / f"died-{explorer}"

    class DiesOnce(TeacherGenerator):
        def _synthesize(self, grant):
            block = TeacherGenerator._synthesize(self, grant)
            if grant.request == 13 and not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return block

    config = changed(
        prepared.experiment, explorer__type=explorer, train__steps=40, pool__rows_per_request=64, pool__slot_length=8
    )
    stream, found = opened(config, DiesOnce), []
    for _ in ("killed", "calm"):
        blocks = stream.begin(config, reference, 0)
        found.append([next(blocks) for _ in range(num_requests(config, 1))])
    assert died.exists() and len(found[0]) == 20
    for killed, calm in zip(*found, strict=True):
        assert equal(killed, calm)


def test_one_stream_serves_one_job_after_another(opened, reference, prepared):
    """Each job gets its own rows from its first request on; what is left of the one before is dropped and counted."""
    config = changed(prepared.experiment, explorer__type="random", train__steps=40, pool__rows_per_request=64)
    other = changed(config, explorer__sigma=0.1, pool__rows_per_request=32, train__seed=1)
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


@pytest.mark.slow
def test_a_pass_that_is_used_up_is_followed_by_another(opened, reference, prepared):
    config = changed(
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

    config = changed(prepared.experiment, explorer__type="random", train__steps=40, pool__rows_per_request=64)
    stream = opened(config, Broken)
    blocks = stream.begin(changed(config, train__seed=13), reference, 0)
    with pytest.raises(GenerationFailed, match="ValueError: no such latent"):
        for _ in range(3):
            next(blocks)
    assert next(stream.begin(config, reference, 7)).request == 7


def test_closing_a_stream_ends_its_processes(ray_cluster, storage, reference, prepared, processes):
    def pool() -> set[int]:
        return processes(b"ray::MapWorker") | processes(b"ray::SplitCoordinator")

    before = pool()
    config = changed(prepared.experiment, explorer__type="random", train__steps=40)
    stream = SyntheticStream(config.pool, storage.root)
    next(stream.begin(config, reference, 0))
    assert len(pool() - before) == 2
    stream.close()
    deadline = time.time() + 10
    while pool() - before:
        assert time.time() < deadline, "the pool is still there"
        time.sleep(0.2)
