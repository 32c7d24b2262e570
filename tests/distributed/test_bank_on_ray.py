"""Lanes share the rows of a bank: each request is made once, whoever needs it, also where generators are killed."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from tests.helpers.experiments import changed
from tgt_ray.core.storage import Storage
from tgt_ray.distributed import stream as stream_module
from tgt_ray.distributed.board import start_board
from tgt_ray.distributed.messages import BankPlace
from tgt_ray.distributed.pool_actor import TeacherGenerator
from tgt_ray.distributed.stream import SyntheticStream, num_requests
from tgt_ray.experiment.pool import threads_of
from tgt_ray.teacher.bank.bank import Bank
from tgt_ray.teacher.bank.key import machine
from tgt_ray.teacher.store import load_teacher
from tgt_ray.training import checkpoint
from tgt_ray.training.banked import bank_of
from tgt_ray.training.generation import synthesizer_of
from tgt_ray.training.student import build_student

pytestmark = pytest.mark.ray


@pytest.fixture
def config(prepared):
    return changed(
        prepared.experiment,
        explorer__type="random",
        train__steps=60,
        pool__rows_per_request=64,
        pool__slot_length=8,
        fit_check__on_low="skip",
    )


@pytest.fixture
def lane(ray_cluster, storage, prepared, config, tmp_path):
    """A function that opens a lane's stream; all share a board, and a bank that is empty at first."""
    board, streams = start_board(f"board of {tmp_path}", config, []), []
    root = Storage(tmp_path)
    (tmp_path / "teachers").symlink_to(storage.path("teachers"))
    reference = (ray.put(prepared.prepared),)
    made_on = machine(threads_of(config.pool), "cpu", config.explorer.libraries)

    def make(generator: type = TeacherGenerator, config=config, **options):
        stream = SyntheticStream(config.pool, root.root, generator=generator, board=board, **options)
        streams.append(stream)

        number = len(streams)

        def begin(snapshot=None, version=-1, run=f"run of lane {number}", first=0, **values):
            own = changed(config, **{f"train__{name}": value for name, value in values.items()})
            place = BankPlace(bank_of(own, prepared.prepared, root, made_on).key, made_on, run)
            return stream.begin(own, reference, first, snapshot, version, place)

        return stream, begin

    yield make
    for stream in streams:
        stream.close()
    ray.kill(board)


def alone(config, prepared, storage, count):
    """The rows that a run makes by itself."""
    data, record = prepared.prepared.student, prepared.prepared.teacher
    teacher = load_teacher(config.teacher, record, data.spec, data.num_classes, storage)
    synthesizer = synthesizer_of(config, prepared.prepared, teacher)
    return [synthesizer(request, config.train.seed, config.explorer, shown=0) for request in range(count)]


def equal(one, other) -> bool:
    return all(
        np.array_equal(a, b)
        for a, b in (
            (one.inputs, other.inputs),
            (one.anchor, other.anchor),
            (one.columns["logits"], other.columns["logits"]),
        )
    )


def test_a_second_run_takes_the_rows_of_the_first_bit_for_bit(lane, config, prepared, storage):
    count = num_requests(config, 1)
    stream, begin = lane()
    blocks = begin()
    first = [next(blocks) for _ in range(count)]
    said = stream.metrics()
    assert said["rows_made"] == count * 64 and said["rows_found"] == said["teacher_seconds_saved"] == 0
    assert said["teacher_seconds"] > 0 and said["bank_bytes"] > 0 and said["bank_damaged"] == 0
    stream.finish()
    blocks = begin()
    again = [next(blocks) for _ in range(count)]
    assert stream.metrics()["rows_made"] == 0 and stream.metrics()["rows_found"] == count * 64
    assert stream.metrics()["teacher_seconds"] == 0 and stream.metrics()["bank"] == said["bank"]
    assert stream.metrics()["teacher_seconds_saved"] == pytest.approx(said["teacher_seconds"], rel=0.5)
    expected = alone(config, prepared, storage, count)
    assert all(equal(a, c) and equal(b, c) for a, b, c in zip(first, again, expected, strict=True))
    assert [each.request for each in again] == list(range(count))


@pytest.mark.slow
def test_generators_start_once_a_row_is_missing(lane, config, prepared, storage, tmp_path):
    """Where the bank has all rows of a run there are none; where one is damaged, they make that one."""
    count = num_requests(config, 1)
    first, begin = lane()
    blocks = begin()
    for _ in range(count):
        next(blocks)
    first.generators.call("finish")  # and the files of single requests aren't joined
    first.close()
    stream, begin = lane(at_once=False)
    blocks = begin()
    again = [next(blocks) for _ in range(count)]
    assert stream.generators is None
    assert stream.metrics()["rows_made"] == 0 and stream.metrics()["rows_found"] == count * 64
    (damaged,) = tmp_path.glob("bank/*/request-00000007.arrow")
    blocks = begin()
    next(blocks)
    damaged.unlink()
    once_more = again[:1] + [next(blocks) for _ in range(count - 1)]
    assert stream.metrics()["rows_made"] == 64 and stream.metrics()["rows_found"] == (count - 1) * 64
    assert all(equal(a, b) for a, b in zip(once_more, again, strict=True))
    blocks = begin(steps=90)
    longer = [next(blocks) for _ in range(count + count // 2)]
    assert stream.metrics()["rows_made"] == count // 2 * 64
    expected = alone(config, prepared, storage, len(longer))
    assert all(equal(a, b) for a, b in zip(longer, expected, strict=True))


def test_a_run_that_uses_its_bank_again_makes_it_anew_where_it_is_gone(lane, config, tmp_path):
    """It goes on in its second epoch, and its lane has no generators yet."""
    config = changed(config, pool__bank={"mode": "reuse", "rows": 512}, train__steps=120)
    stream, begin = lane(config=config, at_once=False)
    blocks = begin(first=20)
    block = next(blocks)  # of rows of several requests, more than the window has
    assert len(block) == 64 and stream.metrics()["rows_made"] >= 3 * 64
    assert len(next(blocks)) == 64


@pytest.mark.slow
def test_rows_that_were_made_ahead_hide_none_that_were_found(lane, config, tmp_path):
    """As where a trial is stopped: its generators have filled their window."""
    stream, begin = lane()
    blocks = begin()
    for _ in range(5):
        next(blocks)
    time.sleep(1)
    stream.finish()
    there = Bank(Storage(tmp_path), stream.bank.key)
    there.look()
    count = len(there.requests)
    assert there.requests == set(range(count)) and 5 < count < num_requests(config, 1) - 1
    blocks = begin()
    for _ in range(count + 1):
        next(blocks)
    time.sleep(1)
    said = stream.metrics()
    assert said["rows_made"] > 64, "nothing was made ahead, so nothing is tested"
    assert said["rows_found"] == count * 64


@pytest.mark.slow
def test_two_lanes_that_start_together_make_each_request_once(lane, config, prepared, storage):
    count = num_requests(config, 1)
    lanes, rows = [lane(), lane()], [[], []]
    for number, (_, begin) in enumerate(lanes):  # so that both pools have started
        next(begin(seed=number + 1))

    def work(number: int) -> None:
        blocks = lanes[number][1]()
        for _ in range(count):
            rows[number].append(next(blocks))
            time.sleep(0.05)

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    made = [stream.metrics()["rows_made"] for stream, _ in lanes]
    assert sum(made) == count * 64 and min(made) > 0
    expected = alone(config, prepared, storage, count)
    for own in rows:
        assert all(equal(a, b) for a, b in zip(own, expected, strict=True))


def test_rows_explored_for_one_student_serve_another(lane, config, prepared):
    """The second student takes half as many rows, all of which lie at a share of the training that the first had."""
    config = changed(config, explorer={"type": "gradient"}, pool__bank={"mode": "shared"}, pool__snapshot_every=4)
    student = build_student(config, prepared.prepared.student)
    stream, begin = lane(config=config)
    blocks = begin(snapshot=checkpoint.snapshot(student), version=0, run="first")
    count, rows = num_requests(config, 1), []
    for step in range(count):
        rows.append(next(blocks))
        stream.publish(step + 1, checkpoint.snapshot(student))
    assert stream.metrics()["rows_made"] == count * 64
    assert {(each.origin, each.steps) for each in rows} == {("first", 60)} and rows[-1].version > 0
    stream.finish()
    blocks = begin(snapshot=checkpoint.snapshot(student), version=0, run="second", synthetic_ratio=0.25)
    again = [next(blocks) for _ in range(count // 2)]
    assert stream.metrics()["rows_made"] == 0 and {each.origin for each in again} == {"first"}
    assert all(equal(a, b) for a, b in zip(again, rows[::2], strict=True))


@pytest.mark.slow
def test_what_a_lost_lane_has_claimed_is_made_by_another(lane, config, monkeypatch, tmp_path):
    """The first lane claims requests and doesn't make them as long as anybody waits for them."""
    over = tmp_path / "over"

    class Stuck(TeacherGenerator):
        def _synthesize(self, grant):
            while grant.request > 1 and not over.exists():
                time.sleep(0.1)
            return TeacherGenerator._synthesize(self, grant)

    monkeypatch.setattr(stream_module, "DEMAND_S", 0.3)
    stuck, begin = lane(Stuck)
    blocks = begin()
    next(blocks)
    time.sleep(1)  # it has claimed what lies in its window
    _, begin_other = lane()
    blocks = begin_other()
    assert [next(blocks).request for _ in range(2)] == [0, 1]
    taken = []
    waiting = threading.Thread(target=lambda: taken.extend(next(blocks) for _ in range(4)))
    waiting.start()
    waiting.join(timeout=1.5)
    assert not taken, "the first lane makes it, as far as anybody knows"
    stuck.finish()  # its run is over
    waiting.join(timeout=30)
    assert [each.request for each in taken] == [2, 3, 4, 5]
    over.touch()  # else its process would stay, and hold its share of a CPU


@pytest.mark.chaos
def test_kill_9_of_a_generator_loses_and_repeats_nothing_of_a_bank(lane, config, prepared, storage, tmp_path):
    class RecordsItsProcess(TeacherGenerator):
        def __init__(self, setup):
            TeacherGenerator.__init__(self, setup)
            with (Path(setup.storage_root) / "pool_pids").open("a") as file:
                file.write(f"{os.getpid()}\n")

    config = changed(config, train__steps=400, pool__slot_length=16)
    stream, begin = lane(RecordsItsProcess, config)
    blocks, count, rows = begin(), num_requests(config, 1), []
    for index in range(count):
        rows.append(next(blocks))
        if index in (20, 90):
            os.kill(int((tmp_path / "pool_pids").read_text().split()[-1]), signal.SIGKILL)
    assert [each.request for each in rows] == list(range(count))
    assert stream.metrics()["requests_granted"] == count
    assert all(equal(a, b) for a, b in zip(rows, alone(config, prepared, storage, count), strict=True))
    stream.finish()
    bank = Bank(Storage(tmp_path), stream.bank.key)
    bank.look()
    assert bank.requests == set(range(count)) and bank.damaged == 0
