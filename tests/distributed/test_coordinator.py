"""What the coordinator remembers of its grants, without Ray around it."""

import asyncio
from types import SimpleNamespace

import pytest

from tests.helpers.experiments import changed
from tgt_ray.distributed.claims import Claims
from tgt_ray.distributed.coordinator import Coordinator
from tgt_ray.distributed.messages import BankPlace, Grant, Job, Spent
from tgt_ray.experiment.experiment import Experiment

WINDOW, LENGTH = 3, 8


def job(number: int, **values) -> Job:
    sets = {"explorer.type": "random", "pool.window": WINDOW, "pool.slot_length": LENGTH}
    experiment = changed(Experiment(), sets)
    return Job(number, experiment, (), **{"rank": 0, "world_size": 1, "first": 0, "count": 10**6, **values})


async def ask(coordinator: Coordinator, slot: int, place: int, number: int = 0) -> Grant:
    return await asyncio.wait_for(coordinator.grant(slot, place, number, -1, Spent()), timeout=5)


def test_what_is_remembered_does_not_grow_with_the_requests():
    async def story() -> None:
        coordinator = Coordinator()
        await coordinator.begin(job(0), None, -1)
        slots = 20
        for index in range(slots * LENGTH):
            grant = await ask(coordinator, *divmod(index, LENGTH))
            assert grant.request == index
            await coordinator.consumed(0, index + 1 - (index % WINDOW))
            assert len(coordinator.granted) <= WINDOW
        assert len(coordinator.used_up) <= slots

    asyncio.run(story())


def test_a_retried_task_gets_what_is_wanted_again_and_nothing_for_what_is_used_up():
    """Two tasks side by side; one is killed, and asks again from its first place."""

    async def story() -> None:
        coordinator = Coordinator()
        await coordinator.begin(job(0), None, -1)
        for slot, place in ((0, 0), (1, 0), (0, 1)):
            await ask(coordinator, slot, place)
        await coordinator.consumed(0, 1)
        assert (await ask(coordinator, 0, 2)).request == 3
        assert await ask(coordinator, 0, 0) == Grant(0), "used up"
        assert [(await ask(coordinator, 0, place)).request for place in (1, 2)] == [2, 3]
        assert (await ask(coordinator, 1, 0)).request == 1
        assert (await coordinator.stream_metrics())["requests_granted"] == 4, "no new ones"

    asyncio.run(story())


def test_a_retried_task_gets_nothing_for_what_an_earlier_job_had():
    async def story() -> None:
        coordinator = Coordinator()
        await coordinator.begin(job(0), None, -1)
        for place in range(3):
            await ask(coordinator, 0, place)
        await coordinator.consumed(0, 1)  # and the other two are on their way when the job ends
        await coordinator.begin(job(1, first=7), None, -1)
        assert not coordinator.granted
        assert [(await ask(coordinator, 0, place)).request for place in range(5)] == [None, None, None, 7, 8]
        # Blocks of an earlier job must not look like the present one's: they may be delivered now for the first time.
        assert [(await ask(coordinator, 0, place)).number for place in range(5)] == [0, 0, 0, 1, 1]
        await coordinator.consumed(1, 8)
        assert [(await ask(coordinator, 0, place)).request for place in range(5)] == [None] * 4 + [8]
        await coordinator.consumed(0, 10**6)  # said late of the job before
        assert (await ask(coordinator, 0, 4)).request == 8

    asyncio.run(story())


def test_requests_that_were_made_ahead_are_not_used_ones():
    async def story():
        coordinator = Coordinator()
        await coordinator.begin(job(0), None, -1, frozenset({0, 2}))
        granted = [(await ask(coordinator, 0, 0)).request]
        await coordinator.consumed(0, 2)
        granted += [(await ask(coordinator, 0, place)).request for place in (1, 2)]
        said = [await coordinator.stream_metrics(below) for below in (2, 3, 4)]
        return granted, [each["requests_granted"] for each in said], [each["requests_used"] for each in said]

    assert asyncio.run(story()) == ([1, 3, 4], [3, 3, 3], [1, 1, 2])


def test_what_was_to_be_in_the_bank_and_is_not_is_made_once():
    async def run():
        coordinator = Coordinator()
        await coordinator.begin(job(0), None, -1, frozenset({0, 1}))
        await coordinator.demand(0, 0)
        granted = [(await ask(coordinator, 0, place)).request for place in range(2)]
        await coordinator.demand(0, 1)  # it has been passed over
        return [*granted, (await ask(coordinator, 0, 2)).request]

    assert asyncio.run(run()) == [0, 2, 1]


class Board:
    """Knows who makes what, as the board does."""

    def __init__(self):
        claims = Claims()

        async def claim(*args):
            return claims.claim(*args)

        async def release(owner):
            claims.release(owner)

        self.claim, self.release = (SimpleNamespace(remote=each) for each in (claim, release))


def test_what_lies_beyond_the_window_is_made_where_it_is_demanded():
    """Rows of a bank were removed that the worker was to take again, and generators have made nothing yet."""

    async def story() -> None:
        coordinator = Coordinator()
        await coordinator.begin(job(0, count=10), None, -1, frozenset(range(10)))
        await coordinator.demand(0, 7)
        assert (await ask(coordinator, 0, 0)).request == 7
        await coordinator.demand(0, 7)
        await coordinator.demand(0, 8)
        assert (await ask(coordinator, 0, 1)).request == 8, "each once"
        await coordinator.consumed(0, 10)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(coordinator.grant(0, 2, 0, -1, Spent()), timeout=0.2)

    asyncio.run(story())


def test_a_worker_that_begins_again_gets_its_claims_back_at_once():
    """Its process was killed, with its coordinator, after it had claimed what lies in its window."""

    async def story() -> None:
        board = Board()

        async def begun(run: str, rank: int = 0, first: int = 0) -> Coordinator:
            coordinator = Coordinator(board)
            await coordinator.begin(job(0, rank=rank, first=first, bank=BankPlace("k", {}, run)), None, -1)
            return coordinator

        lost = await begun("run")
        assert [(await ask(lost, 0, place)).request for place in range(WINDOW)] == [0, 1, 2]
        other = await begun("another run")
        elsewhere = asyncio.create_task(other.grant(0, 0, 0, -1, Spent()))
        await asyncio.sleep(0.01)
        again = await begun("run")
        assert [(await ask(again, 0, place)).request for place in range(WINDOW)] == [0, 1, 2]
        assert not elsewhere.done(), "all in its window is made by the run that has claimed it"
        await again.finish()
        await other.demand(0, 1)
        assert (await asyncio.wait_for(elsewhere, timeout=5)).request == 1

    asyncio.run(story())


def test_nobody_waits_for_rows_that_are_not_kept():
    released = []

    class Board:
        """Knows that another lane makes everything."""

        class claim:
            @staticmethod
            async def remote(*args):
                return False

        class release:
            @staticmethod
            async def remote(name):
                released.append(name)

    async def run():
        coordinator = Coordinator(Board)
        await coordinator.begin(job(0, bank=BankPlace("k", {})), None, -1)
        assert not await coordinator._is_mine(0)
        await coordinator.unkept(0)
        await coordinator.unkept(0)
        return await coordinator._is_mine(0)

    assert asyncio.run(run()) and len(released) == 2
