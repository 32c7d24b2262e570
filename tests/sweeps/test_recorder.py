"""What Tune says of trials comes into the journal first, and an error of keeping it ends the sweep."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.helpers.owners import held
from tests.helpers.trials import METRIC, opened, search_of, sweep
from tgt_ray.core import patience
from tgt_ray.core.errors import NotWritten
from tgt_ray.core.owner import NotOwner
from tgt_ray.core.storage import Storage
from tgt_ray.sweeps import recorder as subject
from tgt_ray.sweeps.journal import Journal, Known
from tgt_ray.sweeps.recorder import Recorder

CONFIG = sweep(controls=[])


class Around:
    """A recorder, and what it has told others."""

    def __init__(self, folder: Storage):
        journal = opened(folder, CONFIG)
        self.search = search_of(folder, CONFIG, journal)
        self.told: list[tuple[str, str]] = []
        self.broken: Exception | None = None
        self.closed = 0
        listeners = [self.reported], [self.ended], self.looked, [self.close]
        self.recorder = Recorder(CONFIG, held(folder), journal, self.search, *listeners)

    def reported(self, known: Known) -> None:
        if self.broken:
            raise self.broken
        self.told.append((known.name, f"step {known.step}"))

    def ended(self, known: Known) -> None:
        self.told.append((known.name, str(known.status)))

    def looked(self, now: dict[str, str]) -> None:
        self.now = now

    def close(self) -> None:
        self.closed += 1

    def trial(self, number: int = 1) -> Any:
        config = self.search.suggest(f"tune{number}")
        return SimpleNamespace(
            config=config, status="RUNNING", last_result=None, error_file=None, get_error=lambda: None
        )

    def report(self, trial: Any, step: int, seconds: float = 1.0, **more: Any) -> None:
        tunes = {"trial_id": "tune1", "pid": 5, "done": False, "config": {"x": 1}, "time_total_s": seconds}
        trial.last_result = {"step": step, METRIC: step / 10, **tunes, **more}
        self.recorder.on_trial_result(1, [trial], trial, trial.last_result)


@pytest.fixture
def around(tmp_path) -> Around:
    return Around(Storage(tmp_path))


def test_reports_and_ends_come_into_the_journal_without_what_is_tunes_own(around, tmp_path):
    done, cut, bad, on = (around.trial(number) for number in range(1, 5))
    lost = around.trial(5)
    for trial in (done, cut, bad, on, lost):
        around.report(trial, 250)
    around.report(done, 500, 3.0, **{f"test_{METRIC}": 49.0})
    for trial in (done, cut):
        trial.last_result["done"] = True
    for trial in (done, cut, on):  # Tune stops the last one at an interruption
        around.recorder.on_trial_complete(2, [], trial)
    around.report(bad, 250, failure="ValueError: out of luck", unwritten=False, done=True)
    around.recorder.on_trial_complete(2, [], bad)
    lost.get_error = lambda: RuntimeError("x\nRayActorError: its process was lost")
    around.recorder.on_trial_error(2, [], lost)
    found = Journal.read(Storage(tmp_path))
    assert {each.name: each.status for each in found.trials.values()} == {
        "1": "finished",
        "2": "stopped early",
        "3": "failed",
        "4": None,
        "5": "failed",
    }
    assert found.trials[3].reason == "ValueError: out of luck" and found.trials[1].seconds == 3.0
    assert found.trials[1].result == {"step": 500, METRIC: 50.0, f"test_{METRIC}": 49.0}
    assert around.told[-4:] == [("1", "finished"), ("2", "stopped early"), ("3", "failed"), ("5", "failed")]


def test_what_a_resumed_trial_says_again_counts_once_and_its_seconds_go_on(around, tmp_path):
    around.report(around.trial(), 250, 10.0)
    again = Around(Storage(tmp_path))
    trial = again.trial()
    again.report(trial, 250, 1.0)
    assert not again.told
    again.report(trial, 500, 2.5)
    assert again.told == [("1", "step 500")]
    assert [each["step"] for each in Journal.read(Storage(tmp_path)).trials[1].reports] == [250, 500]
    assert Journal.read(Storage(tmp_path)).trials[1].seconds == 12.5


def test_an_error_of_keeping_results_ends_the_sweep_and_no_trial(around):
    trial = around.trial()
    around.broken = NotWritten("journal.jsonl: cannot be written (No space left on device)")
    around.report(trial, 250)  # Tune would call the trial failed if this raised
    around.broken = None
    around.report(trial, 500)
    assert not around.told, "nothing follows from it"
    with pytest.raises(NotWritten, match="No space left"):
        around.recorder.on_step_end(2, [trial])
    around.recorder.on_experiment_end([trial])
    assert around.closed == 1 and isinstance(around.recorder.error, NotWritten)


def test_after_an_error_of_the_storage_nothing_waits_for_it_any_more(around, monkeypatch):
    tries, waited = list[str](), list[float]()
    monkeypatch.setattr(patience.time, "sleep", waited.append)

    def write() -> None:
        tries.append("try")
        if len(tries) < 3:
            raise NotWritten("trials.csv: cannot be written (storage full)")

    around.recorder.closed.append(lambda: patience.patiently(write))
    around.recorder.error = NotWritten("journal.jsonl: cannot be written (storage full)")
    around.recorder.on_experiment_end([])
    assert len(tries) == 1 and not waited and "journal" in str(around.recorder.error)
    around.recorder.error = None
    around.recorder.on_experiment_end([])
    assert len(tries) == 3 and len(waited) == 1 and around.recorder.error is None


def test_a_trial_whose_files_cannot_be_written_ends_the_sweep_and_goes_on_with_it(around, tmp_path):
    trial = around.trial()
    around.report(trial, 250)
    said = "train/1/state.pt: cannot be written (No space left on device)"
    around.report(trial, 250, failure=said, unwritten=True, done=True)
    around.recorder.on_trial_complete(2, [], trial)
    with pytest.raises(NotWritten) as err:
        around.recorder.on_step_end(2, [trial])
    assert str(err.value) == said
    assert [each.name for each in Journal.read(Storage(tmp_path)).unfinished] == ["1"]


def test_an_overtaken_driver_ends_although_there_is_nothing_to_write(around, tmp_path, monkeypatch):
    trial = around.trial()
    around.recorder.on_step_end(1, [trial])
    assert around.now == {"1": "running"}
    Path(tmp_path, "owner-000002.lock").write_text("{}")
    monkeypatch.setattr(subject, "BEAT_S", -1.0)
    with pytest.raises(NotOwner, match="another command has taken over"):
        around.recorder.on_step_end(2, [trial])
