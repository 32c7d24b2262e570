"""A running sweep on one screen, and the line that says how far it is."""

import io

import pytest
from rich.console import Console

from tests.helpers.trials import METRIC, fresh, sweep, trial
from tgt_ray.distributed.run_queue import LaneState, Overview
from tgt_ray.sweeps.journal import Known
from tgt_ray.sweeps.screen import LANES, Pace, line_of, screen
from tgt_ray.sweeps.table import trial_table
from tgt_ray.sweeps.watch import Seen

SWEEP = sweep()
STEPS = SWEEP.experiment.train.steps
#: What trials do that have not ended.
NOW = {"run": "running", "new": "running", "a": "running", "b": "running", "c": "pending"}


def running(name: str, step: int, score: float = 70.0, **more) -> Known:
    out = trial(name, score, None, tested=False)
    speed = {"train_s": 10.0, "wait_share": 0.2, "requests_granted": 50.0, "generator_utilisation": 0.5}
    out.result.update({"step": step, **speed, **more})
    return out


def ended(name: str, score: float, step: int = STEPS, tested: bool = True) -> Known:
    out = trial(name, score, "finished" if tested else "stopped early", tested)
    out.result["step"] = step
    return out


def lane(number: int, run: str | None, ready: bool = True) -> LaneState:
    return LaneState(f"lane-{number}", run, ready, 2, f"group{number}")


SEEN = Seen(
    Overview((lane(0, "run"), lane(1, "new"), lane(2, None), lane(3, None, ready=False)), 1),
    {"lane-0": ["10.0.0.1"], "lane-1": ["10.0.0.2"], "lane-2": []},
    7,
)


def drawn(width: int, height: int, trials: list, seen: Seen | None = SEEN, left: float | None = 200.0) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, record=True)
    console.print(screen(SWEEP, trial_table(SWEEP, trials, NOW), seen, 65, left, width, height))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("width", [80, 100])
def test_a_sweep_is_one_screen(width):
    control = trial("c", 80.0, values={"control": "one_hot"})
    many = [ended(f"done{n}", 60.0 + n) for n in range(30)]
    lines = drawn(width, 24, [control, *many, running("run", STEPS // 2), fresh("new")])
    assert len(lines) <= 24 and max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert lines[0] == "time: 1 min 5 s, about 3 min 20 s left"
    assert lines[1] == f"best so far: done29, validation {METRIC} 89 at step {STEPS}"
    assert f"lane-0 on 10.0.0.1: run, step {STEPS // 2} of {STEPS}, {STEPS // 20} steps/s, waits for rows 20%" in text
    assert "lane-1 on 10.0.0.2: new, has no report yet" in text
    assert "lane-2: waits for a trial" in text and "lane-3: starts" in text
    assert "generators: 7 of 8 alive, 5 requests/s, 50% busy" in text and "waiting for a lane: 1 trial" in text
    assert f"31 of {SWEEP.num_trials} trials ended" in text


def test_a_running_trial_shows_its_step_of_all():
    lines = drawn(200, 40, [running("a", STEPS // 2)])
    assert any(f"{STEPS // 2}/{STEPS}" in line and "running" in line for line in lines)


def test_what_is_not_known_yet_is_left_out():
    lines = drawn(80, 24, [fresh("a")], seen=None, left=None)
    assert lines[0] == "time: 1 min 5 s" and "best so far" not in lines[1] and not any("lane" in line for line in lines)


def test_of_many_lanes_the_rest_is_counted():
    seen = Seen(Overview(tuple(lane(n, "run" if n % 2 else None) for n in range(LANES + 4)), 0), {}, 0)
    lines = drawn(100, 40, [running("run", 1)], seen)
    assert "and 4 more lanes, 2 of them with a trial" in lines and "waiting for a lane" not in "\n".join(lines)


def test_the_line_says_how_far_it_is():
    table = trial_table(SWEEP, [ended("a", 90.0), running("b", 10), fresh("c")], NOW)
    assert line_of(SWEEP, table, 125, 60) == (
        f"sweep: 1 of 6 trials ended, 1 running, in 2 min 5 s, about 1 min left;"
        f" best so far: a, validation {METRIC} 90 at step {STEPS}"
    )
    assert line_of(SWEEP, trial_table(SWEEP, [fresh("c")], NOW), 3, None) == (
        "sweep: 0 of 6 trials ended, 0 running, in 3 s"
    )


def left(trials: list, before: list | None = None) -> float | None:
    pace = Pace()
    pace.begin(100.0, trial_table(SWEEP, before or [fresh("a")], NOW))
    pace.begin(150.0, trial_table(SWEEP, trials, NOW))  # of the second trial: nothing begins anew
    return pace.left_s(SWEEP, trial_table(SWEEP, trials, NOW), 200.0)


def test_time_left_follows_from_the_steps_of_all_trials():
    assert left([fresh("a")]) is None, "nobody can tell before the first report"
    assert left([running("a", STEPS // 2)]) == pytest.approx(100 * 5.5 / 0.5), "five and a half of six are left"
    assert left([ended("a", 90.0), running("b", STEPS // 2)]) == pytest.approx(100 * 4.5 / 1.5)
    everything = [ended(name, 90.0) for name in "abcdef"]
    assert left(everything) == 0.0


def test_trials_are_taken_to_be_stopped_as_early_as_others_were():
    stopped = ended("a", 50.0, STEPS // 5, tested=False)
    assert left([stopped]) == pytest.approx(100 * 5), "five more of the same length"
    assert left([stopped, running("b", STEPS // 2)]) == pytest.approx(100 * (0.5 + 4 * 0.2) / 0.7, rel=0.01)


def test_what_was_done_before_a_resume_is_no_speed():
    before = [ended("a", 90.0), running("b", STEPS // 2)]
    after = [ended("a", 90.0), ended("b", 90.0)]
    assert left(after, before) == pytest.approx(100 * 4 / 0.5)
