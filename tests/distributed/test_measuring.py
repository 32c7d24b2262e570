"""A lane measures a student once none has anything to do; what keeps it from that is said, and costs no result."""

from types import SimpleNamespace

import pytest
from ray.exceptions import GetTimeoutError, RayActorError

from tgt_ray.core.storage import Storage
from tgt_ray.distributed import link, measuring
from tgt_ray.distributed.messages import Answer
from tgt_ray.distributed.run_queue import LaneState, Overview
from tgt_ray.experiment.experiment import Experiment


def lane(run: str | None = None, ready: bool = True) -> LaneState:
    return LaneState("lane-0", run, ready, 1, None)


class Board:
    """What looks like the actor's handle, and answers at once.

    - overviews: of looks at the lanes, the last one again and again
    """

    def __init__(self, *overviews: Overview, answer: Answer | Exception | None = None):
        self.overviews, self.answer, self.submitted, self.cancelled = list(overviews), answer, [], []
        for name in ("overview", "submit", "next_report", "cancel"):
            setattr(self, name, SimpleNamespace(remote=getattr(self, f"_{name}")))

    def _overview(self):
        return self.overviews.pop(0) if len(self.overviews) > 1 else self.overviews[0]

    def _submit(self, run):
        self.submitted.append(run)

    def _next_report(self, run_id, after):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def _cancel(self, run_id):
        self.cancelled.append(run_id)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(link, "ray", SimpleNamespace(get=lambda value, timeout=None: value))
    monkeypatch.setattr(measuring, "TO_END_S", 0.1)
    monkeypatch.setattr(measuring, "LOOK_S", 0.01)


def measured(board, tmp_path):
    return measuring.measured_by_a_lane(board, Experiment(), ("prepared",), Storage(tmp_path))


def test_it_waits_for_the_last_run_to_end(tmp_path):
    found = {"student": {"bytes": 1}}
    busy, idle = Overview((lane("run"), lane()), 0), Overview((lane(), lane()), 0)
    board = Board(busy, busy, idle, answer=Answer({"step": 0, "speed": found}))
    assert measured(board, tmp_path) == found
    (run,) = board.submitted
    assert run.measures and run.folder == str(tmp_path) and run.prepared == ("prepared",)


@pytest.mark.parametrize(
    "overview",
    [Overview((lane("run"),), 0), Overview((lane(),), 1), Overview((lane(ready=False),), 0), Overview((), 0)],
)
def test_without_a_free_lane_nothing_is_measured(tmp_path, overview):
    board = Board(overview)
    assert measured(board, tmp_path) == {"lacking": "no lane was free"} and not board.submitted


@pytest.mark.parametrize(
    "answer, why",
    [
        (Answer(None, "its workers were lost 4 times"), "its workers were lost 4 times"),
        (Answer(None), "it was stopped"),
        (GetTimeoutError(), "it took more than 60 s"),
        (RayActorError(), "the actor between this process and the lanes was lost"),
    ],
)
def test_what_goes_wrong_is_said(tmp_path, answer, why):
    board = Board(Overview((lane(),), 0), answer=answer)
    assert measured(board, tmp_path) == {"lacking": why}
    assert board.cancelled == (["speed"] if isinstance(answer, GetTimeoutError) else [])
