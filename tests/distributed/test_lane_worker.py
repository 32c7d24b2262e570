"""A worker of a lane that is stopped in the middle of a request, in this process, with its pool on a real local Ray."""

import io

import numpy as np
import pytest
import ray
import torch

from tests.helpers.experiments import changed
from tgt_ray.distributed.board import start_board
from tgt_ray.distributed.lane_worker import LaneHooks, LaneSetup, LaneWorker
from tgt_ray.distributed.messages import Run
from tgt_ray.training.files import STATE_FILE
from tgt_ray.training.reader import SyntheticReader

pytestmark = pytest.mark.ray

#: A step uses 16 rows. After 20 steps 320 rows are used: 6 requests of 48 rows, and 32 rows of the seventh.
SETTINGS = {"train.steps": 60, "train.eval_every": 20, "train.batch_size": 32, "pool.rows_per_request": 48}


@pytest.fixture
def taken(monkeypatch) -> list[tuple[int, int, int, bytes]]:
    """Step, request, version and content of each row that a student is given; no step has rows of two requests."""
    found: list[tuple[int, int, int, bytes]] = []
    take = SyntheticReader.take

    def spied(self, count, step):
        inputs, columns = take(self, count, step)
        found.extend((step, self.rest.request, self.rest.version, row.numpy().tobytes()) for row in inputs)
        return inputs, columns

    monkeypatch.setattr(SyntheticReader, "take", spied)
    return found


@pytest.mark.slow
def test_rows_that_were_used_before_a_stop_never_come_again(ray_cluster, prepared, storage, taken, monkeypatch):
    config, folder = changed(prepared.experiment, SETTINGS), storage.within("stopped-within-a-request")
    assert config.explorer.on_policy
    board = start_board("test of stops", config, ["lane"])
    item = Run("run", config, (ray.put(prepared.prepared),), folder.root)
    ray.get(board.submit.remote(item))

    def work() -> None:
        worker = LaneWorker(LaneSetup("lane", board, config, storage.root), 0, 1)
        try:
            worker.get_ready()
            taken_run = worker.take()
            assert taken_run is not None and taken_run.id == item.id, "a worker that asks again gets its run again"
            worker.work(taken_run)
        finally:
            worker.close()

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LaneHooks, "send", killed)
        with pytest.raises(KeyboardInterrupt):
            work()
    assert len(taken) == 320
    state = torch.load(io.BytesIO(folder.read(STATE_FILE)), weights_only=True)
    (rest,) = state["reading"]["rests"]
    assert rest["request"] == 6 and len(rest["inputs"]) == 16
    work()
    assert len(taken) == 60 * 16
    assert [content for *_, content in taken[320:336]] == [row.numpy().tobytes() for row in rest["inputs"]]
    assert len({content for *_, content in taken}) == len(taken), "no row comes twice"
    assert [request for _, request, _, _ in taken] == [row // 48 for row in range(60 * 16)]
    assert all(version >= 20 for *_, version, _ in taken[336:]), "later requests look at the student of the checkpoint"
    answer = ray.get(board.next_report.remote(item.id, 60))
    assert [report["step"] for report in answer.history] == [20, 40, 60] and answer.reason is None
    lags = [step - version for step, _, version, _ in taken]
    assert answer.history[-1]["lag_p50"] == np.percentile(lags, 50), "of the whole run"
    assert answer.history[-1]["lag_max"] == max(lags)
    ray.kill(board)
