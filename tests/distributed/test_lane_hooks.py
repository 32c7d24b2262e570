"""What a lane's workers report of their streams is summed up by the first of them."""

from types import SimpleNamespace

import pytest

from tgt_ray.distributed import lane_worker
from tgt_ray.distributed.lane_worker import LaneHooks


def said(made: int, wait: float) -> dict:
    return {"requests_granted": 3.0, "rows_made": made, "rows_found": 10, "teacher_seconds": wait, "bank": "k"}


@pytest.mark.parametrize("rank", [0, 1])
def test_rows_of_all_workers_are_summed(rank, tmp_path, monkeypatch):
    def gathered(mine, at, world_size):
        assert (at, world_size) == (rank, 2)
        return [mine, said(30, 0.5)] if rank == 0 else [None, None]

    monkeypatch.setattr(lane_worker, "gathered", gathered)
    stream = SimpleNamespace(metrics=lambda: said(20, 0.25), world_size=2)
    board = SimpleNamespace(cancelled=SimpleNamespace(remote=lambda run: None))
    item = SimpleNamespace(id="run", folder=str(tmp_path))
    found = LaneHooks(item, board, stream, rank, {}, None).stream_metrics()
    assert found == ({**said(50, 0.75), "rows_found": 20} if rank == 0 else {})


def test_a_run_without_synthetic_rows_says_nothing(tmp_path):
    item = SimpleNamespace(id="run", folder=str(tmp_path))
    assert LaneHooks(item, None, None, 1, {}, None).stream_metrics() == {}
