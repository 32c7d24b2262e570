"""Who gets which run: the board without Ray around it."""

import asyncio

import pytest

from tests.helpers.experiments import changed
from tgt_ray.distributed.board import Board
from tgt_ray.distributed.messages import Opened, Run
from tgt_ray.experiment.experiment import Experiment


def run(name: str, **overrides: object) -> Run:
    return Run(name, changed(Experiment(), **overrides), (), "folder")


def test_runs_go_to_free_lanes_in_their_order_and_reports_come_back():
    async def story() -> None:
        board = Board(Experiment(), ["a", "b"])
        for name in ("one", "two", "three"):
            await board.submit(run(name))
        assert (await board.take("a")).id == "one"
        assert (await board.take("b")).id == "two"
        await board.report("one", {"step": 100, "loss": 1.0})
        await board.report("one", {"step": 100, "loss": 1.0})  # again, after a resume
        await board.report("one", {"step": 200, "loss": 0.5})
        await board.end("one", None, [{"step": 100}, {"step": 200}])
        answers = [await board.next_report("one", after) for after in (-1, 100, 200)]
        assert [answer.metrics and answer.metrics["step"] for answer in answers] == [100, 200, None]
        assert answers[2].reason is None and len(answers[2].history) == 2
        assert (await board.take("a")).id == "three"
        waiting = asyncio.create_task(board.take("b"))
        await board.end("two", "it broke", [])
        assert (await board.next_report("two", 0)).reason == "it broke"
        await asyncio.sleep(0.01)
        assert waiting.done() is False
        await board.close()
        assert await waiting is None and await board.open_lane("a") is None

    asyncio.run(story())


def test_a_lane_that_lost_its_worker_gets_its_run_again_until_that_is_too_often():
    async def story() -> None:
        board = Board(Experiment(), ["a"])
        await board.open_lane("a")
        await board.submit(run("one"))
        assert [(await board.take("a")).id for _ in range(3)] == ["one"] * 3
        await board.trouble("one", "out of memory")
        again = asyncio.create_task(board.take("a"))
        answer = await board.next_report("one", 0)
        assert answer.reason == "its workers were lost 3 times after step 0: out of memory"
        await board.submit(run("two"))
        assert (await again).id == "two", "the lane goes on"

    asyncio.run(story())


def test_a_worker_that_was_lost_while_it_waited_does_not_get_the_next_run():
    async def story() -> None:
        board = Board(Experiment(), ["a"])
        lost = asyncio.create_task(board.take("a"))
        await asyncio.sleep(0.01)
        successor = asyncio.create_task(board.take("a"))
        await asyncio.sleep(0.01)
        await board.submit(run("one"))
        assert (await successor).id == "one" and await lost is None

    asyncio.run(story())


def test_a_lane_that_is_lost_with_its_run_is_opened_again_for_it():
    async def story() -> None:
        board = Board(Experiment(), ["a", "b"])
        await board.submit(run("one"))
        await board.open_lane("a")
        await board.take("a")
        await board.placed("a", "group")
        assert await board.lane_lost("a", "controller lost") == "group"
        assert await board.open_lane("a") is not None
        assert (await board.take("a")).id == "one"

    asyncio.run(story())


def test_where_no_lane_can_be_started_runs_fail_with_the_reason():
    async def story() -> None:
        board = Board(Experiment(), ["a", "b"])
        await board.submit(run("early"))
        for lane in ("a", "b"):
            await board.open_lane(lane)
            await board.lane_lost(lane, "no module named x")
            assert await board.open_lane(lane) is None
        await board.submit(run("late"))
        for name in ("early", "late"):
            assert "no module named x" in (await board.next_report(name, 0)).reason

    asyncio.run(story())


@pytest.mark.parametrize("taken", [False, True])
def test_a_cancelled_run_frees_its_lane(taken: bool):
    async def story() -> None:
        board = Board(Experiment(), ["a"])
        await board.submit(run("one"))
        await board.submit(run("two"))
        if taken:
            await board.take("a")
            told = asyncio.create_task(board.cancelled(Opened("a", Experiment()), run("one"), []))
            await asyncio.sleep(0.01)
            assert not told.done()
        await board.cancel("one")
        if taken:
            await told
        if taken:
            await board.end("one", None, [])
        assert (await board.next_report("one", 0)).metrics is None
        assert (await board.take("a")).id == "two"

    asyncio.run(story())


def test_a_run_of_another_shape_gets_a_lane_of_its_own_and_lanes_keep_to_their_shape():
    async def story() -> None:
        board = Board(Experiment(), ["a", "b"], max_rebuilds=1)
        for lane in ("a", "b"):
            await board.open_lane(lane)
        await board.submit(run("wide", pool__actors=2))
        assert await board.take("a") is None, "it ends, to be opened with other resources"
        assert (await board.open_lane("a")).pool.actors == 2
        await board.submit(run("narrow"))
        assert (await board.take("a")).id == "wide"
        await board.end("wide", None, [])
        waiting = asyncio.create_task(board.take("a"))
        assert (await board.take("b")).id == "narrow"
        await board.submit(run("wide again", pool__actors=2))
        assert (await waiting).id == "wide again"
        await board.submit(run("no rows", explorer__type="none", pool__actors=3))
        await board.end("narrow", None, [])
        assert (await board.take("b")).id == "no rows", "it needs no pool, so that any does"
        await board.submit(run("third", pool__actors=3))
        assert "search.max_rebuilds 1" in (await board.next_report("third", 0)).reason

    asyncio.run(story())


def test_cold_lanes_open_for_one_run_each():
    async def story() -> None:
        board = Board(Experiment(), ["a"], warm=False)
        opening = asyncio.create_task(board.open_lane("a"))
        await asyncio.sleep(0.01)
        assert not opening.done(), "without a run there is no lane"
        await board.submit(run("one", pool__actors=2))
        assert (await opening).pool.actors == 2
        assert (await board.take("a")).id == "one"
        await board.submit(run("two"))
        await board.end("one", None, [])
        assert await board.take("a") is None
        assert (await board.open_lane("a")).pool.actors == 1
        assert (await board.take("a")).id == "two"

    asyncio.run(story())


def test_what_a_lost_worker_has_claimed_is_made_by_others():
    """At once, whether its run is begun again, in this lane or in another one, or is given up."""

    async def story() -> None:
        board = Board(Experiment(), ["a", "b"])
        for name in ("one", "two"):
            await board.submit(run(name))
        await board.take("a")
        await board.take("b")

        async def freed_by(request: int, event) -> bool:
            assert await board.claim("k", request, ("one", 1)) and not await board.claim("k", request, ("two", 0))
            await event
            return await board.claim("k", request, ("two", 0))

        assert await freed_by(0, board.take("a")), "its lane asks again"
        assert await freed_by(3, board.take("a"))
        assert await freed_by(1, board.lane_lost("a", "out of memory")), "it was lost too often"
        assert (await board.next_report("one", 0)).reason
        assert await freed_by(2, board.end("one", None, []))

    asyncio.run(story())
