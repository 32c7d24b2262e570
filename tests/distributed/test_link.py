"""Callers of a board that was lost tell it what they know, before they ask it again."""

from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from tgt_ray.distributed import link as subject
from tgt_ray.distributed.link import HeldRun, Link
from tgt_ray.distributed.messages import Forgotten, Opened, Run
from tgt_ray.experiment.experiment import Experiment

LOST = ActorUnavailableError("it comes back", None)


class Board:
    """What looks like the actor's handle: each call takes the next of its answers, the last one again and again."""

    def __init__(self, **answers):
        self.calls: list[str] = []
        for name, given in answers.items():
            setattr(self, name, SimpleNamespace(remote=self._answers(name, given)))

    def _answers(self, name, given):
        def answer(*args):
            self.calls.append(name)
            return given.pop(0) if len(given) > 1 else given[0]

        return answer


def get(answer, timeout=None):
    if isinstance(answer, Exception):
        raise answer
    return answer


@pytest.fixture(autouse=True)
def now(monkeypatch):
    """The clock, which sleeping moves."""
    at = [0.0]
    monkeypatch.setattr(subject, "ray", SimpleNamespace(get=get, wait=lambda asked, timeout: (asked, [])))
    clock = SimpleNamespace(monotonic=lambda: at[0], sleep=lambda seconds: at.__setitem__(0, at[0] + seconds))
    monkeypatch.setattr(subject, "time", clock)
    return at


@pytest.mark.parametrize("error", [LOST, Forgotten("7")])
def test_a_board_that_is_back_is_told_before_it_is_asked_again(error):
    board = Board(report=[error, "kept"], submit=[LOST, None])
    assert Link(board, lambda board: get(board.submit.remote())).call("report") == "kept"
    assert board.calls == ["report", "submit", "submit", "report"], "not asked while it can't be told"


def test_a_board_that_does_not_come_back_is_waited_for_a_while(now):
    with pytest.raises(ActorUnavailableError):
        Link(Board(report=[LOST])).call("report", within=5.0)
    assert 5.0 < now[0] < 6.0


def test_a_board_that_was_ended_is_not_waited_for(now):
    with pytest.raises(ActorDiedError):
        Link(Board(report=[ActorDiedError()])).call("report")
    assert now[0] == 0.0


def test_a_run_is_not_over_since_its_board_was_lost(now):
    board = Board(cancelled=[LOST, LOST, None], report=[None])
    held = HeldRun(board, Opened("a", Experiment()), Run("7", Experiment(), (), "folder"))
    held.report({"step": 50})
    assert held.reports == [{"step": 50}] and not held.is_over()
    assert board.calls.count("cancelled") == 1, "it is asked again after a moment"
    now[0] += 1
    assert not held.is_over() and board.calls.count("cancelled") == 2
    now[0] += 1
    assert not held.is_over() and held.is_over()
