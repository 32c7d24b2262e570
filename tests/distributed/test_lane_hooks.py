"""What a lane's workers report of their streams is summed up by the first of them."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from tests.helpers.owners import held
from tgt_ray.core.errors import NotWritten
from tgt_ray.core.owner import NotOwner
from tgt_ray.core.storage import Storage
from tgt_ray.distributed import lane_worker
from tgt_ray.distributed.lane_worker import LaneHooks, LaneSetup, LaneWorker
from tgt_ray.distributed.messages import Run
from tgt_ray.experiment.experiment import Experiment


def said(made: int, wait: float) -> dict:
    return {"requests_granted": 3.0, "rows_made": made, "rows_found": 10, "teacher_seconds": wait, "bank": "k"}


@pytest.mark.parametrize("rank", [0, 1])
def test_rows_of_all_workers_are_summed(rank, tmp_path, monkeypatch):
    def gathered(mine, at, world_size):
        assert (at, world_size) == (rank, 2)
        return [mine, said(30, 0.5)] if rank == 0 else [None, None]

    monkeypatch.setattr(lane_worker, "gathered", gathered)
    stream = SimpleNamespace(metrics=lambda: said(20, 0.25), world_size=2)
    item = SimpleNamespace(id="run", folder=str(tmp_path))
    found = LaneHooks(item, None, stream, rank, {}, None).stream_metrics()
    assert found == ({**said(50, 0.75), "rows_found": 20} if rank == 0 else {})


def test_a_worker_tells_a_board_that_is_back_of_no_run_that_is_over(monkeypatch):
    worker, told = object.__new__(LaneWorker), []
    worker.board, worker.rank, worker.setup = None, 0, LaneSetup("a", None, Experiment(), "root")
    monkeypatch.setattr(lane_worker, "HeldRun", lambda *args: SimpleNamespace(tell=told.append))
    monkeypatch.setattr(LaneWorker, "_lane", lambda self: None)
    monkeypatch.setattr(LaneWorker, "_measure", lambda self, item: self.link.tell("while it has it"))
    worker.work(Run("7", Experiment(), (), "folder", measures=True))
    assert told == ["while it has it"] and worker.link.tell is None


def test_a_run_without_synthetic_rows_says_nothing(tmp_path):
    item = SimpleNamespace(id="run", folder=str(tmp_path))
    assert LaneHooks(item, None, None, 1, {}, None).stream_metrics() == {}


def test_a_lane_whose_driver_was_overtaken_writes_no_checkpoint(tmp_path, monkeypatch):
    owned = held(Storage(tmp_path / "sweep"))
    item = Run("7", None, (), str(tmp_path / "sweep" / "train" / "7"), held=owned)
    hooks = LaneHooks(item, SimpleNamespace(), None, 0, {}, None)
    (tmp_path / "sweep" / "owner-000002.lock").write_text("{}")
    run = SimpleNamespace(plan=SimpleNamespace(world_size=1))
    monkeypatch.setattr("tgt_ray.training.checkpoint.rest_of", lambda run, reader: None)
    with pytest.raises(NotOwner, match="another command has taken over"):
        hooks.report(run, {"step": 5})
    assert not (tmp_path / "sweep" / "train").exists()


@pytest.mark.parametrize("workers, device", [(2, "cpu"), (1, "cuda"), (1, "cpu")])
def test_a_run_whose_files_cannot_be_written_is_over_at_once_and_says_why(workers, device, monkeypatch):
    said = list[tuple]()

    def full(self, item):
        raise NotWritten("state.pt: cannot be written (storage full)")

    worker = LaneWorker.__new__(LaneWorker)
    worker.rank, worker.world_size, worker.device = 0, workers, device
    worker.board, worker.stream, worker.held = None, None, None
    link = SimpleNamespace(call=lambda *args: said.append(args))
    monkeypatch.setattr(lane_worker, "HeldRun", lambda *args: link)
    monkeypatch.setattr(LaneWorker, "_lane", lambda self: None)
    monkeypatch.setattr(LaneWorker, "_load", full)
    item = SimpleNamespace(id="7", measures=False)
    with pytest.raises(NotWritten) if workers > 1 else nullcontext():  # the others wait in a step of their own
        worker.work(item)
    assert said == [("end", "7", "state.pt: cannot be written (storage full)", [], True)]


@pytest.mark.parametrize("since, sent", [(None, [300]), (0, [100, 200, 300]), (200, [300]), (300, [300]), (400, [300])])
def test_a_run_that_goes_on_sends_what_may_have_been_lost_and_in_any_case_its_last_report(since, sent):
    run = Run("7", None, (), "x", since=since)
    history = [{"step": step} for step in (100, 200, 300)]
    assert [each["step"] for each in run.to_send_again(history)] == sent and run.to_send_again([]) == []
