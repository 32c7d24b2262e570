"""Who is stopped early."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from tests.helpers.trials import METRIC, VALUES, opened, sweep
from tgt_ray.core.storage import Storage
from tgt_ray.sweeps.journal import Journal
from tgt_ray.sweeps.schedulers import ControlledASHA


def asha(journal: Journal) -> ControlledASHA:
    out = ControlledASHA(journal, time_attr="step", max_t=900, grace_period=100, reduction_factor=3)
    out.set_search_properties(METRIC, "max")
    return out


def tunes(name: str, control: str | None = None) -> Any:
    """A trial as Tune has it, whose own id is another one each time."""
    config = {"trial": name, **({"control": control} if control else VALUES)}
    return SimpleNamespace(trial_id=f"tune{next(COUNT)}", config=config, status="RUNNING", is_saving=False)


COUNT = itertools.count()


def rungs(scheduler: ControlledASHA) -> list:
    return scheduler._brackets[0]._rungs


def test_controls_neither_stop_nor_stop_others(tmp_path):
    scheduler = asha(Journal.read(Storage(tmp_path)))
    for name, score in (("1", 80.0), ("2", 85.0)):
        trial = tunes(name, "one_hot")
        scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(None, trial, {"step": 900, METRIC: score}) == TrialScheduler.CONTINUE
        scheduler.on_trial_complete(None, trial, {"step": 900, METRIC: score})
    searched = tunes("3")
    scheduler.on_trial_add(None, searched)
    assert scheduler.on_trial_result(None, searched, {"step": 100, METRIC: 60.0}) == TrialScheduler.CONTINUE


@pytest.mark.parametrize("killed_after", range(1, 14))
def test_after_a_resume_rungs_and_decisions_are_those_of_an_undisturbed_sweep(tmp_path, killed_after):
    """Three trials at a time, whose reports come in turn; the driver is killed after one of them."""
    calm, _ = follow(Storage(tmp_path / "calm"), None)
    killed, scheduler = follow(Storage(tmp_path / "killed"), killed_after)
    assert killed == calm and {status for _, status in calm} == {"finished", "stopped early"}
    assert rungs(scheduler) == rungs(asha(Journal.read(Storage(tmp_path / "calm"))))


def test_a_score_that_was_no_number_is_none_in_the_journal_and_stays_one_for_asha(tmp_path):
    journal = opened(Storage(tmp_path), sweep(controls=[]))
    known = journal.begin(VALUES, 0)
    journal.report(known, {"step": 100, METRIC: float("nan")})
    journal.end(known, "failed", "not finite")
    assert [list(recorded) for _, recorded in rungs(asha(journal))] == [[], [], ["1"]]


def follow(folder: Storage, killed_after: int | None) -> tuple[list[tuple[str, str]], ControlledASHA]:
    """Train six trials of which some are stopped; return how they have ended, and the scheduler."""
    config = sweep(controls=[], trials=6)
    journal, count = opened(folder, config), itertools.count(1)
    scheduler, running = asha(journal), dict[str, Any]()
    while journal.ended < 6:
        while len(running) < 3 and len(journal.trials) < 6:
            begin(scheduler, running, journal.begin(VALUES, len(journal.trials)).name)
        for name in list(running):
            known = journal.of(name)
            metrics = {"step": known.step + 100, METRIC: 50.0 + 7 * known.number % 31 + known.step / 100}
            journal.report(known, metrics)
            if next(count) == killed_after:  # the decision is lost
                journal, running = opened(folder, config), {}
                scheduler = asha(journal)
                for each in journal.unfinished:
                    begin(scheduler, running, each.name)
                    if each.reports:  # its lane says it again
                        decide(scheduler, running, journal, each.name, each.result)
                break
            decide(scheduler, running, journal, name, metrics)
    return [(each.name, str(each.status)) for each in journal.trials.values()], scheduler


def begin(scheduler: ControlledASHA, running: dict[str, Any], name: str) -> None:
    running[name] = tunes(name)
    scheduler.on_trial_add(None, running[name])


def decide(scheduler: ControlledASHA, running: dict[str, Any], journal: Journal, name: str, metrics: dict) -> None:
    if scheduler.on_trial_result(None, running[name], metrics) == TrialScheduler.STOP:
        scheduler.on_trial_complete(None, running.pop(name), metrics)
        journal.end(journal.of(name), "finished" if metrics["step"] >= 900 else "stopped early")
