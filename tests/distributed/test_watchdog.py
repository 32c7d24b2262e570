"""A process that gives no sign of life is ended, one that works on something long is not, and late reports are said."""

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from tgt_ray.distributed import pulse, watchdog
from tgt_ray.distributed.pulse import Place, Sign
from tgt_ray.distributed.watchdog import BOARD, Late, Signs, Watchdog

HERE, WORKER, TRIAL = (Place("node", number, 0.0) for number in range(3))


class Story:
    """A watchdog of 60 s that looks every 5 s.

    - said: signs that the board has; None: it doesn't answer
    """

    def __init__(self, monkeypatch):
        self.now, self.said, self.ended, self.there = 0.0, None, [], True
        board = SimpleNamespace(signs=SimpleNamespace(remote=lambda: self))
        ready = lambda asked, timeout: (asked if self.said is not None else [], [])  # noqa: E731
        monkeypatch.setattr(watchdog, "ray", SimpleNamespace(wait=ready, get=lambda asked: self.said))
        monkeypatch.setattr(watchdog, "end_process", self.end)
        self.dog = Watchdog(board, 60, lambda: self.now)

    def end(self, place: Place) -> bool:
        self.ended.append(place)
        return self.there

    def go_on(self, seconds: int, *silent: Place, reports=None) -> None:
        """Let time pass, in which the board answers, and all processes but some give signs of life."""
        for _ in range(seconds // 5):
            self.now += 5
            processes = {
                place: Sign(who, "lane-0", "works", None, 1 if place in silent else int(self.now))
                for place, who in ((WORKER, "the worker"), (TRIAL, "the trial"))
            }
            self.said = Signs(HERE, processes, reports or {})
            self.dog.look()

    def hang(self, seconds: int) -> None:
        for _ in range(seconds // 5):
            self.now, self.said = self.now + 5, None
            self.dog.look()


@pytest.fixture
def story(monkeypatch) -> Story:
    return Story(monkeypatch)


def test_a_process_that_is_silent_for_too_long_is_ended(story, caplog):
    story.go_on(600)
    assert not story.ended, "they live, whatever they do for so long"
    story.go_on(60, WORKER)
    assert not story.ended
    story.go_on(10, WORKER)
    assert story.ended == [WORKER]
    (line,) = caplog.messages
    assert line.startswith("the worker has given no sign of life for 65 s (the last one said: works)")


def test_nothing_is_said_of_a_process_that_has_ended_in_order(story, caplog):
    story.go_on(10)
    story.there = False
    story.go_on(70, TRIAL)
    assert story.ended == [TRIAL] and not caplog.messages


def test_a_board_that_hangs_is_ended_and_others_are_not_taken_to_hang_with_it(story, caplog):
    story.go_on(10)
    story.hang(60)
    assert HERE not in story.ended
    story.hang(5)
    assert story.ended == [HERE], "what others say can't be heard"
    assert caplog.messages[0].startswith(BOARD)


def test_a_board_that_is_back_hears_of_processes_again(story):
    story.go_on(10)
    story.hang(50)
    processes = {WORKER: Sign("the worker", "lane-0", "works", None, 99)}
    story.now, story.said = story.now + 5, Signs(Place("node", 9, 1.0), processes, {})
    story.dog.look()
    story.go_on(55, TRIAL)
    assert not story.ended


def test_a_late_report_is_said_once_with_what_its_lane_does(story, caplog):
    for count in range(4):
        story.go_on(20, reports={"lane-0": ("trial 7", count)})
    story.go_on(200, reports={"lane-0": ("trial 7", 3)})
    (line,) = caplog.messages
    assert line.startswith(
        "trial 7: no report for 105 s (usually one comes after 20 s): the trial works; the worker works"
    )


def test_a_report_is_late_by_what_is_usual():
    late = Late(60)
    assert not late.look({"a": ("7", 0)}, 0.0) and not late.look({"a": ("7", 0)}, 60.0)
    assert late.look({"a": ("7", 0)}, 61.0) == [("a", "7", 61.0, None)]
    assert not late.look({"a": ("7", 0)}, 500.0), "said already"
    assert not late.look({"a": ("7", 1)}, 500.0) and not late.look({"a": ("7", 1)}, 2900.0), "usually it takes 500 s"
    assert late.look({"a": ("7", 1)}, 3001.0) == [("a", "7", 2501.0, 500.0)]
    assert not late.look({"a": ("8", 0)}, 3002.0), "another run"


def test_only_the_very_process_is_ended(monkeypatch):
    monkeypatch.setattr(
        pulse, "ray", SimpleNamespace(get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "n"))
    )
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(child.pid).create_time()
    assert not pulse.end_process(Place("n", child.pid, started - 1)) and child.poll() is None
    assert pulse.end_process(Place("n", child.pid, started)) and child.wait(timeout=10) == -9
    assert not pulse.end_process(Place("n", child.pid, started))
