"""What workers say reaches the driver's log: once, with the run's name, and never without a bound."""

import asyncio
import logging
from types import SimpleNamespace

import pytest
from ray.exceptions import RayError

from tests.helpers.owners import held
from tgt_ray.core import progress
from tgt_ray.core.storage import Storage
from tgt_ray.distributed import lines
from tgt_ray.distributed.board import Board
from tgt_ray.distributed.lines import MOST, Line, LinesOfRuns, handed_on, say
from tgt_ray.distributed.messages import Answer, Run
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps import trial as subject
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.trial import LaneTrial

log = logging.getLogger("tgt_ray.somewhere")


def warning(text: str) -> Line:
    return Line("tgt_ray.somewhere", logging.WARNING, text)


def info(text: str) -> Line:
    return Line("tgt_ray.somewhere", logging.INFO, text)


def test_what_concerns_all_runs_is_said_once_whatever_its_figures():
    heard: list[Line] = []
    with handed_on(heard.append):
        for free in ("3 kB", "2 kB"):
            log.warning("%s are free", free, extra={"once": "%s are free"})
    assert [line.text for line in heard] == ["3 kB are free", "2 kB are free"]
    kept = LinesOfRuns()
    for run, line in zip(("trial a", "trial b"), heard, strict=True):
        kept.add(run, line)
    assert [line.text for line in kept.take()] == ["3 kB are free"]


def test_what_is_for_the_user_is_handed_on_and_the_rest_stays(monkeypatch, capsys):
    monkeypatch.setattr(progress, "FIRST_S", 0.0)
    monkeypatch.setattr(logging.Logger, "hasHandlers", lambda self: False)  # as in a worker; pytest has its own
    heard: list[Line] = []
    with handed_on(heard.append, all_of_them=False):
        log.warning("100 %% of %s", "it")
        log.info("found")
        log.debug("detail")
        with progress.progress("training", 2, "steps") as phase:
            phase.advance()
        log.error("failed")
        logging.getLogger("another").warning("not ours")
    log.warning("later")
    assert heard == [warning("100 % of it"), info("found")]
    own = capsys.readouterr().err
    assert "failed" in own and "training: 1 of 2 steps" in own and "100 % of it" in own, "the worker's own log has all"
    assert not logging.getLogger("tgt_ray").handlers


def test_a_sweep_names_the_trials(monkeypatch, tmp_path):
    submitted: list[Run] = []
    called = SimpleNamespace(call=lambda method, run: submitted.append(run))
    monkeypatch.setattr(subject, "following", lambda board, run: called)
    monkeypatch.setattr(subject, "Pulse", lambda *args: None)
    monkeypatch.setattr(LaneTrial, "trial_id", "3f2a81c0")  # Tune's own, which appears nowhere
    owned = held(Storage(tmp_path))
    trial = LaneTrial.__new__(LaneTrial)
    LaneTrial.setup(trial, {"trial": "7", "train.steps": 5}, SweepConfig(), None, (), owned, {"8": 250})
    trial.reset_config({"trial": "8", "control": "one_hot"})
    assert [(run.id, run.called, run.since) for run in submitted] == [("7", "trial 7", 0), ("8", "trial 8", 250)]
    assert [run.folder for run in submitted] == [str(tmp_path / "train" / name) for name in "78"]
    assert submitted[0].held is owned and submitted[0].experiment.train.steps == 5


def test_a_trial_whose_files_cannot_be_written_says_so_to_the_sweep(monkeypatch):
    trial = LaneTrial.__new__(LaneTrial)
    trial.name, trial.seen, trial.last_step = "7", 0, 5
    said = "x: cannot be written (No space left on device)"
    trial.link = SimpleNamespace(call=lambda *args: Answer(None, said, [], unwritten=True))
    assert trial.step() == {"failure": said, "unwritten": True, "done": True}


def test_a_process_that_cannot_be_reached_stops_nothing():
    def lost(line: Line) -> None:
        raise RayError("gone")

    with handed_on(lost):
        log.warning("any")


def test_a_line_is_kept_once_for_a_run_whoever_says_it():
    kept = LinesOfRuns()
    for run, line in [
        ("trial a", warning("2 threads")),
        ("trial a", warning("2 threads")),  # its second worker
        ("trial b", warning("2 threads")),
        ("trial a", info("a prefix is left off")),
        ("trial b", info("a prefix is left off")),
        ("", warning("no name")),
    ]:
        kept.add(run, line)
    texts = ["trial a: 2 threads", "trial b: 2 threads", "trial a: a prefix is left off", "no name"]
    assert [line.text for line in kept.take()] == texts and not kept.take()
    kept.add("trial a", warning("2 threads"))
    assert not kept.take(), "also after it was taken, as where a lost worker was replaced"


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_lines_have_a_bound_and_those_that_are_lost_are_counted(level):
    kept = LinesOfRuns()
    for number in range(MOST + 7):
        kept.add("trial a", Line("tgt_ray", level, f"line {number}"))
    assert len(kept.take()) == MOST
    kept.ended("trial a")
    kept.ended("trial b")
    assert [line.text for line in kept.take()] == [
        "trial a: 7 more lines are only in the logs of its workers, which Ray keeps"
    ]
    kept.all_ended()
    assert not kept.take()


def test_the_board_gives_lines_to_who_listens_until_all_have_ended(caplog, monkeypatch):
    monkeypatch.setattr(lines, "MOST", 2)

    async def story() -> None:
        board = Board(Experiment(), ["a"])
        await board.submit(Run("one", Experiment(), (), "folder", "trial one"))
        await board.submit(Run("two", Experiment(), (), "folder"))
        listening = asyncio.create_task(board.listen())
        await asyncio.sleep(0.01)
        assert not listening.done()
        await board.say("one", warning("is damaged"))
        say(await listening)
        await board.say(None, warning("before any run"))
        for text in "xyz":
            await board.say("two", warning(text))
        await board.close()
        await board.say("one", warning("late"))
        await board.end("one", None, [])
        await board.hush()
        say(await board.listen())
        assert await board.listen() is None

    asyncio.run(story())
    assert caplog.messages == [
        "trial one: is damaged",
        "before any run",
        "x",
        "trial one: late",
        "the run: 2 more lines are only in the logs of its workers, which Ray keeps",
    ]
