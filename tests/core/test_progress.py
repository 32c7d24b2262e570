"""Long phases say how far they are and what is left, short ones nothing."""

import logging

import pytest

from tgt_ray.core import progress as subject
from tgt_ray.core.progress import duration, progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(subject.time, "monotonic", lambda: now[0])
    return now


def test_a_phase_of_three_seconds_says_nothing(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress("decoding images", 29, "images") as phase:
        for _ in range(29):
            clock[0] += 0.1
            phase.advance()
    assert caplog.messages == []


def test_a_long_phase_says_at_growing_distances_how_far_it_is_and_what_is_left(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress("decoding images", 1000, "images") as phase:
        for _ in range(1000):
            clock[0] += 0.125
            phase.advance()
    assert caplog.messages == [
        "decoding images: 24 of 1,000 images in 3 s, about 2 min 2 s left",
        "decoding images: 48 of 1,000 images in 6 s, about 1 min 59 s left",
        "decoding images: 96 of 1,000 images in 12 s, about 1 min 53 s left",
        "decoding images: 192 of 1,000 images in 24 s, about 1 min 41 s left",
        "decoding images: 384 of 1,000 images in 48 s, about 1 min 17 s left",
        "decoding images: 768 of 1,000 images in 1 min 36 s, about 29 s left",
    ]


def test_what_was_done_before_a_resume_is_no_speed(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress("training", 200, "steps", done=100) as phase:
        clock[0] += 5
        phase.advance(10)
    assert caplog.messages == ["training: 110 of 200 steps in 5 s, about 45 s left"]


def test_where_nobody_knows_how_much_there_is_only_what_is_done_is_said(clock, caplog):
    caplog.set_level(logging.INFO)
    with progress("reading", None, "rows") as phase:
        clock[0] += 4
        phase.to(1200)
    assert caplog.messages == ["reading: 1,200 rows in 4 s"]


def test_a_phase_ends_also_where_its_work_fails(clock):
    ended = []

    class Display:
        def update(self, phase):
            pass

        def end(self, phase):
            ended.append(phase.what)

    with subject.shown_by(Display()):
        with pytest.raises(KeyError), progress("failing", 1, "rows"):
            raise KeyError
        with progress("fine", 1, "rows"):
            pass
    with progress("of nobody's", 1, "rows"):
        pass
    assert ended == ["failing", "fine"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (3, "3 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (119, "1 min 59 s"),
        (200, "3 min 20 s"),
        (600, "10 min"),
        (7500, "2 h 5 min"),
        (9000, "2 h 30 min"),
        (1e6, "11 d 13 h"),
    ],
)
def test_durations(seconds, said):
    assert duration(seconds) == said
