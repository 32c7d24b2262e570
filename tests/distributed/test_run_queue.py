"""Which lane gets which run: the queue alone, as plain Python."""

import subprocess
import sys
from dataclasses import replace

import pytest

from tests.helpers.experiments import changed
from tgt_ray.distributed.messages import Answer, Forgotten, Opened, Run
from tgt_ray.distributed.run_queue import LaneState, Overview, RunQueue
from tgt_ray.experiment.experiment import Experiment


def run(name: str, **overrides: object) -> Run:
    return Run(name, changed(Experiment(), **overrides), (), "folder")


def begin(queue: RunQueue, lane: str) -> Run | None:
    """What a worker of the lane is given at once."""
    call = queue.asked(lane)
    return queue.again(lane) or queue.take(lane, call)


@pytest.fixture
def queue() -> RunQueue:
    return RunQueue(Experiment(), ["a", "b"])


def test_it_needs_no_ray():
    code = "import sys; sys.modules['ray'] = None; import tgt_ray.distributed.run_queue"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_runs_go_to_lanes_in_their_order(queue):
    for name in ("one", "two", "three"):
        queue.submit(run(name))
    assert [begin(queue, "a").id, begin(queue, "b").id] == ["one", "two"]
    queue.end("two", None, [])
    assert begin(queue, "b").id == "three"


def test_any_lane_may_measure_a_student_as_it_is(queue):
    queue.submit(replace(run("speed", train__workers=2), measures=True))
    assert begin(queue, "a").id == "speed" and queue.rebuilds == 0


def test_a_worker_waits_where_there_is_no_run(queue):
    call = queue.asked("a")
    assert not queue.may_take("a", call)
    queue.submit(run("one"))
    assert queue.may_take("a", call)


def test_reports_come_once_each_and_then_the_end(queue):
    queue.submit(run("one"))
    begin(queue, "a")
    for step in (100, 100, 200):  # again, after a resume
        queue.report("one", {"step": step})
    assert [queue.answer("one", after) for after in (-1, 100, 200)] == [
        Answer({"step": 100}),
        Answer({"step": 200}),
        None,
    ]
    queue.end("one", "it broke", [{"step": 100}])
    assert queue.answer("one", 200) == Answer(None, "it broke", [{"step": 100}])
    queue.end("one", "x: cannot be written", [], unwritten=True)
    assert queue.answer("one", 200) == Answer(None, "x: cannot be written", [], True)


def test_a_run_that_fails_by_itself_is_begun_again_as_often_as_its_settings_say(queue):
    queue.submit(run("one", train__max_failures=1))
    assert begin(queue, "a").id == "one"
    queue.trouble("one", "index out of range", own=True)
    queue.trouble("one", "another worker of it was lost")
    assert begin(queue, "a").id == "one"
    queue.trouble("one", "index out of range", own=True)
    assert begin(queue, "a") is None
    why = "it failed 2 times, train.max_failures is 1: index out of range"
    assert queue.answer("one", -1) == Answer(None, why, [])


def test_lost_processes_are_no_failures_of_a_run_unless_they_are_lost_at_one_step_again_and_again(queue):
    queue.submit(run("one", train__max_failures=0))
    for step in (0, 100, 200, 300, 300, 300):
        assert begin(queue, "a").id == "one"
        queue.report("one", {"step": step} if step else {"step": 50})
    queue.trouble("one", "out of memory")
    queue.lane_lost("a", "it has no worker")  # counts once with the lane's next worker
    assert begin(queue, "a") is None
    why = "its workers were lost 3 times after step 300: out of memory"
    assert queue.answer("one", 300) == Answer(None, why, [])


@pytest.fixture
def forgetful() -> RunQueue:
    """A queue that has lost what it knew; lane c is given up."""
    return RunQueue(Experiment(), ["a", "b", "c"], anew=True)


def told(queue: RunQueue, cancelled: set[str] = frozenset(), asking=(), open_=("a", "b")) -> None:
    queue.tell_lanes(
        [Opened(name, Experiment()) for name in asking], [Opened(name, Experiment()) for name in open_], cancelled, 1
    )


def test_no_run_is_given_out_twice_after_all_was_forgotten(forgetful):
    with pytest.raises(Forgotten):
        forgetful.report("one", {"step": 100})
    forgetful.submit(run("one"))  # by its trial, before its lane has said that it has it
    forgetful.submit(run("two"))
    forgetful.submit(run("one"))  # again, since the trial lost an answer
    call = forgetful.asked("b")
    assert not forgetful.may_take("b", call), "the driver has said nothing yet"
    with pytest.raises(Forgotten):  # it may not know that it has to
        forgetful.may_open("c")
    told(forgetful)
    assert forgetful.may_open("c") and forgetful.open_lane("c") is None and forgetful.rebuilds == 1
    assert not forgetful.may_take("b", call), "lane a may have the run"
    reports = [{"step": 100}, {"step": 200}]
    assert forgetful.hold(Opened("a", Experiment(), "group"), run("one"), reports)
    assert forgetful.hold(Opened("a", Experiment()), run("one"), reports), "said twice"
    assert forgetful.take("b", call).id == "two"
    assert forgetful.answer("one", 100) == Answer({"step": 200})
    assert not forgetful.hold(Opened("b", Experiment()), run("one"), []), "lane a has it"
    assert forgetful.lane_lost("a", "it has no worker") == "group" and forgetful.open_lane("a") is not None
    assert begin(forgetful, "a").id == "one"


def test_a_lane_that_says_nothing_for_too_long_is_taken_to_have_no_run(forgetful):
    forgetful.submit(run("one"))
    told(forgetful)
    call = forgetful.asked("b")
    assert not forgetful.may_take("b", call)
    forgetful.give_up_waiting()
    assert forgetful.take("b", call).id == "one"
    assert not forgetful.hold(Opened("a", Experiment()), run("one"), []), "it comes too late"


def test_what_was_cancelled_before_all_was_forgotten_stays_so(forgetful):
    forgetful.submit(run("queued"))
    told(forgetful, cancelled={"queued", "held"}, asking=("b",), open_=("a",))
    assert forgetful.answer("queued", -1) == Answer(None, None, [])
    assert not forgetful.hold(Opened("a", Experiment()), run("held"), [])
    forgetful.submit(run("one"))
    assert begin(forgetful, "b").id == "one"


def test_a_worker_that_was_lost_while_it_waited_is_sent_away(queue):
    lost = queue.asked("a")
    successor = queue.asked("a")
    queue.submit(run("one"))
    assert queue.may_take("a", lost) and queue.take("a", lost) is None
    assert queue.take("a", successor).id == "one"


def test_a_cancelled_run_leaves_the_queue_and_one_that_has_begun_is_over(queue):
    queue.submit(run("one"))
    queue.submit(run("two"))
    begin(queue, "a")
    queue.cancel("one")
    queue.cancel("two")
    assert queue.is_over("one") and queue.answer("one", 0) is None, "its worker ends it"
    assert queue.answer("two", 0) == Answer(None, None, []) and not queue.queue


def test_a_lane_is_rebuilt_for_a_run_of_another_shape_as_often_as_it_may():
    queue = RunQueue(Experiment(), ["a"], max_rebuilds=1)
    queue.submit(run("wide", train__workers=2))
    assert begin(queue, "a") is None, "the lane is to be opened again"
    assert queue.open_lane("a").train.workers == 2
    assert begin(queue, "a").id == "wide"
    queue.end("wide", None, [])
    queue.submit(run("wider", train__workers=4))
    assert "search.max_rebuilds 1 is used up" in queue.answer("wider", 0).reason


def test_a_lane_whose_workers_never_asked_is_given_up_and_its_run_goes_to_another(queue):
    queue.open_lane("a")
    queue.placed("a", "group-1")
    assert queue.lane_lost("a", "no room") == "group-1"
    assert queue.open_lane("a") is None and queue.open_lane("b") is not None
    queue.lane_lost("b", "no room either")
    queue.submit(run("one"))
    assert queue.answer("one", 0).reason == "no lane could be started: no room either"


def test_a_lane_whose_processes_are_lost_while_it_starts_is_opened_again_but_not_for_ever(queue):
    queue.submit(run("one"))
    for _ in range(2):
        assert queue.open_lane("a") is not None
        queue.lane_lost("a", "its controller has died", process=True)
    assert queue.open_lane("a") is not None and begin(queue, "a").id == "one", "it has started, and counts anew"
    queue.lane_lost("a", "its controller has died", process=True)
    for _ in range(3):
        assert queue.open_lane("a") is not None
        queue.lane_lost("a", "its controller has died", process=True)
    assert queue.open_lane("a") is None


def test_lanes_that_are_not_warm_are_opened_for_one_run_each():
    queue = RunQueue(Experiment(), ["a"], warm=False)
    assert not queue.may_open("a")
    queue.submit(run("one", train__workers=2))
    assert queue.may_open("a") and queue.open_lane("a").train.workers == 2
    assert begin(queue, "a").id == "one"
    queue.end("one", None, [])
    call = queue.asked("a")
    assert queue.may_take("a", call) and queue.take("a", call) is None, "it ends with its run"


def test_a_lane_that_could_not_be_started_leaves_its_run_to_the_others():
    queue = RunQueue(Experiment(), ["a", "b"], warm=False)
    queue.submit(run("one"))
    queue.open_lane("a")
    queue.lane_lost("a", "no place")
    assert queue.may_open("a") and queue.open_lane("a") is None, "it ends"
    assert queue.may_open("b") and queue.open_lane("b") is not None
    assert begin(queue, "b").id == "one"


def test_closing_ends_lanes_and_runs(queue):
    queue.submit(run("one"))
    begin(queue, "a")
    queue.close()
    assert queue.is_over("one") and queue.open_lane("b") is None and begin(queue, "b") is None


def test_the_overview_says_what_lanes_do():
    queue = RunQueue(changed(Experiment(), train__workers=2, pool__actors=3), ["a", "b", "c"])
    for name in ("one", "two"):
        queue.submit(run(name, train__workers=2, pool__actors=3))
    begin(queue, "a")
    queue.placed("a", "group")
    queue.lane_lost("c", "it broke")
    assert queue.overview() == Overview(
        (LaneState("a", "one", True, 6, "group"), LaneState("b", None, False, 6, None)), queued=1
    )
