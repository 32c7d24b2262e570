"""A run takes what is in the bank, and has made what isn't."""

import errno
import logging
import time

import numpy as np
import pytest

from tests.helpers.experiments import changed
from tests.teacher.bank.test_chunks import block as made_block
from tests.teacher.bank.test_chunks import check, same
from tgt_ray.core.config import validate
from tgt_ray.core.errors import NotWritten
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.bank.bank import Bank
from tgt_ray.training.banked import BankedRows, Maker, bank_of, blocks, may_have_rows, reused_rows, uses_bank

ROWS = 5


class Teacher:
    """Makes rows, and remembers which."""

    def __init__(self):
        self.asked = []

    def __call__(self, request: int):
        self.asked.append(request)
        return made_block(request, ROWS)


def rows(storage: Storage, total: int | None = None) -> tuple[BankedRows, Teacher]:
    teacher, bank = Teacher(), Bank(storage, "k")
    return BankedRows(bank, Maker(bank, teacher), ROWS, total, seed=3), teacher


def first(rows: BankedRows, count: int, start: int = 0) -> list:
    each = blocks(rows, start)
    return [next(each) for _ in range(count)]


def test_the_second_run_makes_nothing_and_sees_the_same(tmp_path):
    own, teacher = rows(Storage(tmp_path))
    for number, block in enumerate(first(own, 4)):
        check(block, made_block(number, ROWS))
    assert teacher.asked == [0, 1, 2, 3] and own.make.made == 20 and own.make.seconds > 0 and own.found == 0
    later, again = rows(Storage(tmp_path))
    for number, block in enumerate(first(later, 6)):
        check(block, made_block(number, ROWS))
    assert again.asked == [4, 5] and (later.make.made, later.found) == (10, 20)


@pytest.mark.parametrize("device, counted", [("cpu", False), ("cuda", True)])
def test_waiting_costs_the_teacher_nothing_but_on_a_gpu(tmp_path, device, counted):
    """On a CPU a busy machine makes rows no dearer; on a GPU the process waits while the device works."""

    def slow(request: int):
        time.sleep(0.3)
        return made_block(request, ROWS)

    maker = Maker(Bank(Storage(tmp_path), "k"), slow, device)
    maker(0)
    assert maker.seconds > 0 and (maker.seconds >= 0.3) == counted
    later = Bank(Storage(tmp_path), "k")
    later.look()
    assert later.read(0).seconds == pytest.approx(maker.seconds, rel=1e-3)


def test_a_resumed_run_begins_where_it_was(tmp_path):
    own, teacher = rows(Storage(tmp_path))
    check(first(own, 1, start=7)[0], made_block(7, ROWS))
    assert teacher.asked == [7]


def test_a_small_bank_is_used_epoch_after_epoch(tmp_path):
    own, teacher = rows(Storage(tmp_path), total=3 * ROWS)
    taken = first(own, 12)
    assert teacher.asked == [0, 1, 2]
    inputs = np.concatenate([each.inputs for each in taken]).reshape(4, 15, -1)
    rows_of = [sorted(map(bytes, epoch)) for epoch in inputs]
    assert rows_of[0] == rows_of[1] == rows_of[2] == rows_of[3]
    assert not same(inputs[1], inputs[0]) and not same(inputs[1], inputs[2])
    assert own.make.made == 15 and own.found == 45
    other, idle = rows(Storage(tmp_path), total=3 * ROWS)
    assert all(same(a.inputs, b.inputs) for a, b in zip(first(other, 12), taken, strict=True)) and idle.asked == []


def test_rows_of_every_epoch_are_compared_with_rows_of_none(tmp_path):
    own, teacher = rows(Storage(tmp_path), total=3 * ROWS)
    first(own, 3)
    assert own.seen_and_fresh() is None, "no row has come twice"
    first(own, 1, start=3)
    seen, fresh = own.seen_and_fresh()
    check(seen, made_block(0, ROWS))
    check(fresh, made_block(3, ROWS))
    assert teacher.asked == [0, 1, 2, 3] and own.epochs == 2


def test_a_resumed_run_makes_again_what_its_epoch_needs(tmp_path):
    own, _ = rows(Storage(tmp_path / "one"), total=3 * ROWS)
    taken = first(own, 6)
    lost, teacher = rows(Storage(tmp_path / "other"), total=3 * ROWS)
    assert same(first(lost, 1, start=5)[0].inputs, taken[5].inputs)
    assert set(teacher.asked) <= {0, 1, 2}


def test_a_full_disk_costs_one_line_and_no_run(tmp_path, monkeypatch, caplog):
    own, teacher = rows(Storage(tmp_path))
    first(own, 2)

    def full(*args, **options):
        raise NotWritten("bank: cannot be written") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Storage, "write", full)
    caplog.set_level(logging.WARNING)
    taken = first(own, 5)
    check(taken[4], made_block(4, ROWS))
    assert teacher.asked == [0, 1, 2, 3, 4] and (own.make.made, own.make.unkept) == (25, 15)
    assert caplog.messages == ["bank: cannot be written; the run goes on, and its further synthetic rows are not kept"]


def test_a_bank_that_takes_nothing_costs_one_request_a_block(tmp_path, monkeypatch):
    own, teacher = rows(Storage(tmp_path), total=8 * ROWS)

    def full(*args, **options):
        raise NotWritten("bank: cannot be written") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Storage, "write", full)
    first(own, 12)
    assert len(teacher.asked) == 12


@pytest.mark.parametrize(
    "bank, total",
    [
        ({}, None),
        ({"mode": "reuse"}, 1024),
        ({"mode": "reuse", "rows": 300}, 512),
        ({"mode": "reuse", "rows": 0.5}, 1792),
    ],
)
def test_how_large_a_bank_is(bank, total):
    experiment = validate(
        Experiment,
        {
            "explorer": {"type": "random"},
            "train": {"steps": 100, "batch_size": 64, "synthetic_ratio": 0.5},
            "pool": {"rows_per_request": 256, "bank": bank},
        },
    )
    assert reused_rows(experiment) == total


@pytest.mark.parametrize(
    "settings, uses",
    [
        ({"explorer": {"type": "random"}}, True),
        ({"explorer": {"type": "random"}, "pool": {"bank": {"mode": "none"}}}, False),
        ({"explorer": {"type": "gradient"}}, False),
        ({"explorer": {"type": "none"}}, False),
    ],
)
def test_which_runs_use_a_bank(settings, uses):
    assert uses_bank(validate(Experiment, settings)) is uses


def test_whether_a_storage_seems_to_have_an_experiments_rows(prepared, tmp_path):
    """Generators start with a lane only where it doesn't; of a student nothing follows."""
    storage, ready = Storage(tmp_path), prepared.prepared
    own = changed(prepared.experiment, explorer__type="random")
    assert not may_have_rows(own, ready.teacher, storage)
    bank_of(own, ready, storage, {"threads": 1})
    for name, content in {"0": "{}", "1": "no record"}.items():
        (tmp_path / "bank" / name).mkdir()
        (tmp_path / "bank" / name / "bank.json").write_text(content)
    assert may_have_rows(changed(own, train__steps=7), ready.teacher, storage)
    assert not may_have_rows(changed(own, explorer__sigma=0.123), ready.teacher, storage)
    assert not may_have_rows(changed(own, pool__bank={"mode": "none"}), ready.teacher, storage)
    other = {**ready.teacher, "labeler": {**ready.teacher["labeler"], "identity": "another"}}
    assert not may_have_rows(own, other, storage)


def test_a_storage_that_cannot_be_listed_seems_to_have_none(prepared, tmp_path, monkeypatch):
    storage, ready = Storage(tmp_path), prepared.prepared
    own = changed(prepared.experiment, explorer__type="random")
    bank_of(own, ready, storage, {"threads": 1})

    def fails(folder):
        raise PermissionError(13, "Permission denied", "bank")

    monkeypatch.setattr("tgt_ray.teacher.bank.bank.banks", fails)
    assert not may_have_rows(own, ready.teacher, storage)
