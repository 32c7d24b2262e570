"""Writes that fail are tried again for a while, and then given up in one line."""

import errno
import logging

import pytest

from tests.helpers.owners import held
from tgt_ray.core import patience
from tgt_ray.core.errors import NotWritten
from tgt_ray.core.owner import NotOwner
from tgt_ray.core.patience import FIRST_S, LONGEST_S, PATIENCE_S, none_left, patiently
from tgt_ray.core.storage import Storage


class Clock:
    """Time that passes while somebody sleeps, and nobody does."""

    def __init__(self) -> None:
        self.now, self.pauses = 100.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    out = Clock()
    monkeypatch.setattr(patience.time, "monotonic", lambda: out.now)
    monkeypatch.setattr(patience.time, "sleep", out.sleep)
    return out


class Writes:
    """Fails until a time has come.

    - until: the time
    - number: of the error
    """

    def __init__(self, clock: Clock, until: float, number: int = errno.ENOSPC):
        self.clock, self.until, self.number, self.tries = clock, until, number, 0

    def __call__(self) -> str:
        self.tries += 1
        if self.clock.now < self.until:
            raise NotWritten("a/state.pt: cannot be written (x)") from OSError(self.number, "x")
        return "written"


def test_a_write_that_succeeds_says_nothing(clock, caplog):
    caplog.set_level(logging.INFO, "tgt_ray")
    assert patiently(Writes(clock, 0.0)) == "written" and not clock.pauses and not caplog.messages


def test_a_write_is_tried_again_after_growing_pauses_and_says_so_twice(clock, caplog):
    write = Writes(clock, clock.now + 0.7 * PATIENCE_S)
    assert patiently(write) == "written" and write.tries == len(clock.pauses) + 1
    begun, over = caplog.messages
    assert begun == "a/state.pt: cannot be written (x); tried again for 60 s"
    assert over.startswith("the storage can be written again, after 4")
    most = [min(LONGEST_S, FIRST_S * 2**number) for number in range(len(clock.pauses))]
    assert all(long / 2 <= pause <= long for pause, long in zip(clock.pauses, most, strict=True))


def test_pauses_of_two_that_fail_together_differ(clock):
    for _ in range(2):
        patiently(Writes(clock, clock.now + 0.9 * PATIENCE_S))
    half = len(clock.pauses) // 2
    assert clock.pauses[:half] != clock.pauses[half : 2 * half]


def test_it_is_given_up_after_its_time_and_not_before(clock):
    began, write = clock.now, Writes(clock, float("inf"))
    with pytest.raises(NotWritten) as err:
        patiently(write)
    assert str(err.value) == "a/state.pt: cannot be written (x), tried for 60 s"
    assert clock.now - began == pytest.approx(PATIENCE_S), "the last try is at its very end"


@pytest.mark.parametrize("number", patience.HOPELESS)
def test_what_time_does_not_heal_is_refused_at_once(clock, number):
    write = Writes(clock, float("inf"), number)
    with pytest.raises(NotWritten, match=r"cannot be written \(x\)$"):
        patiently(write)
    assert write.tries == 1 and not clock.pauses


def test_where_it_has_failed_for_long_nothing_waits_any_more(clock):
    write = Writes(clock, float("inf"))
    with none_left(), pytest.raises(NotWritten):
        patiently(write)
    assert write.tries == 1 and not clock.pauses
    assert patiently(Writes(clock, clock.now + 1.0)) == "written"


def test_other_errors_are_not_tried_again(clock):
    def broken() -> None:
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        patiently(broken)
    assert not clock.pauses


def test_who_owns_no_more_gives_up_at_once_and_makes_no_folder(tmp_path, clock):
    owned = held(Storage(tmp_path / "run"))
    write = Writes(clock, float("inf"))

    def removed() -> None:
        for each in (tmp_path / "run").iterdir():
            each.unlink()
        (tmp_path / "run").rmdir()
        write()

    with pytest.raises(NotOwner, match="run: somebody has removed the folder while this command worked on it"):
        owned.patiently(removed)
    assert write.tries == 1 and len(clock.pauses) == 1 and not list(tmp_path.iterdir())


def test_what_is_given_up_in_a_run_s_folder_says_how_to_go_on(tmp_path, clock):
    with pytest.raises(NotWritten, match=r"tried for 60 s; go on with --resume once it can be written$"):
        held(Storage(tmp_path)).patiently(Writes(clock, float("inf")))
