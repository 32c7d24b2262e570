"""A sweep that is stopped at some line of its journal and goes on has the table of an undisturbed one.

So has one of which parts are killed; tests/chaos has more of it.
"""

import json
import pickle
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from tests.helpers.experiments import changed
from tgt_ray.core import lines
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import with_overrides
from tgt_ray.entrypoints import api
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.journal import Journal

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]

#: What of a table says how a sweep has gone, and not on which lane or how long.
SAME = ["trial", "number", "status", "reason", "control", "train.synthetic_ratio", "step", "train_loss"]


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def sweep(prepared) -> Any:
    """(algorithm) -> a sweep of a control and three short trials, whose rows don't depend on the student."""

    def make(algorithm: str) -> SweepConfig:
        how = {"train.steps": 60, "train.eval_every": 20, "fit_check.on_low": "skip"}
        experiment = changed(prepared.experiment, how, explorer={"type": "random"}).model_dump(mode="json")
        grid = {"choice": [0.2, 0.4, 0.6]}
        ratios = grid if algorithm == "grid" else {"uniform": [0.2, 0.6]}
        search = {"algorithm": algorithm, "trials": 3, "controls": ["one_hot"], "scheduler": "none", "concurrent": 1}
        return SweepConfig.model_validate(
            {"experiment": experiment, "space": {"train.synthetic_ratio": ratios}, "search": search}
        )

    return make


@pytest.fixture(scope="module")
def calm(ray_cluster, storage, sweep) -> Any:
    """(algorithm) -> the table of the undisturbed sweep."""
    tables: dict[str, pd.DataFrame] = {}

    def make(algorithm: str) -> pd.DataFrame:
        if algorithm not in tables:
            tables[algorithm] = facts(api.run_sweep(sweep(algorithm), storage=storage.root, name=f"calm-{algorithm}"))
        return tables[algorithm]

    return make


def facts(result: api.SweepResult) -> pd.DataFrame:
    table = result.trials
    scores = [name for name in table.columns if name.removeprefix("test_") == result.config.search.metric]
    return table[[*SAME, *scores]].sort_values("number").reset_index(drop=True)


def stopped_at(number: int, monkeypatch: pytest.MonkeyPatch, begin: Any, meanwhile: Any = lambda: None) -> bool:
    """Run a sweep until the journal has so many lines, and nothing is written any more; return whether it got there.

    - meanwhile: called just before
    """
    write = Journal._write

    def until(self, kind, **about):
        write(self, kind, **about)
        if self._writer.last == number:
            meanwhile()
            raise Killed

    with monkeypatch.context() as changing:
        changing.setattr(Journal, "_write", until)
        try:
            begin()
        except Killed:
            return True
    return False


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def planted(folder: Path, file: Path) -> None:
    """Write files of Tune's names whose reading would make a file."""
    folder.mkdir()
    content = pickle.dumps(Payload(file))
    for name in ("tuner.pkl", "trainable.pkl", "searcher-state-2026.pkl", "callback-states-2026.pkl"):
        (folder / name).write_bytes(content)
    state = {"_type": "CLOUDPICKLE_FALLBACK", "value": content.hex()}
    for name in ("experiment_state-2026.json", "search_gen_state-2026.json"):
        (folder / name).write_text(json.dumps({"trial_data": [], "runner_data": state}))


def test_a_sweep_that_was_stopped_goes_on_elsewhere_without_any_other_file(sweep, calm, storage, monkeypatch, tmp_path):
    wanted, refused = calm("random"), list[str]()

    def meanwhile() -> None:
        """Two more commands, while the first one works."""
        for more in ({"config": sweep("grid")}, {"resume": True}):
            with pytest.raises(ConfigError) as err:
                api.run_sweep(storage=storage.root, name="stopped", **more)
            refused.append(str(err.value))

    begin = partial(api.run_sweep, sweep("random"), storage=storage.root, name="stopped")
    assert stopped_at(9, monkeypatch, begin, meanwhile)
    assert "--name stopped: exists already" in refused[0]
    assert "--resume: 'stopped' in" in refused[1] and "last sign of life" in refused[1]
    assert not list(Path(storage.path("stopped")).glob("owner-*")), "the folder is given back"
    table = Path(storage.path("stopped", "trials.csv"))
    assert set(pd.read_csv(table).status) == {"finished", "interrupted"} and not storage.exists("stopped", "tune")
    shutil.copytree(storage.path("stopped"), storage.path("moved"))
    for name in ("optuna_journal.log", "record.json", "sweep.yaml", "trials.csv", "trials.parquet"):
        Path(storage.path("moved", name)).unlink()
    planted(Path(storage.path("moved", "tune")), tmp_path / "executed")
    found = api.run_sweep(storage=storage.root, name="moved", resume=True)
    pd.testing.assert_frame_equal(facts(found), wanted)
    assert not (tmp_path / "executed").exists()
    assert found.best is not None and storage.exists("moved", "best", "student.safetensors")
    assert sorted(path.name for path in Path(storage.path("moved", "train")).iterdir()) == ["1", "2", "3", "4"]
    assert set(pd.read_csv(table).status) == {"finished", "interrupted"}, "the original stays as it was"


#: What is killed at which line of the journal, all in one sweep: those that cost it least.
KILLED = {
    4: "ray::_StatsActor",
    5: "ray::_AutoscalingCoordinatorActor",
    8: "ray::Board",
    9: "ray::MapWorker(MapBatches(TeacherGenerator))",
    12: "ray::SynchronizationActor",
}


def test_five_parts_that_are_killed_cost_no_trial(sweep, calm, storage, monkeypatch):
    wanted, write, killed = calm("random"), Journal._write, []

    def kill(self, kind, **about):
        write(self, kind, **about)
        if (title := KILLED.get(self._writer.last)) is not None:
            there = [each for each in psutil.Process().children(recursive=True) if title in " ".join(each.cmdline())]
            killed.extend([title] if there else [])
            for each in there:
                each.kill()

    monkeypatch.setattr(Journal, "_write", kill)
    own_rows = [("experiment.pool.bank.mode", "none")]  # those of the undisturbed sweep would need no generator
    config = SweepConfig.model_validate(with_overrides(sweep("random").model_dump(mode="json"), own_rows))
    found = api.run_sweep(config, storage=storage.root, name="killed")
    assert killed == list(KILLED.values()), "all were there to be killed"
    pd.testing.assert_frame_equal(facts(found), wanted)


@pytest.mark.slow
def test_a_finished_sweep_can_get_more_trials(sweep, calm, storage):
    wanted = calm("random")
    shutil.copytree(storage.path("calm-random"), storage.path("more"))
    more = api.run_sweep(storage=storage.root, name="more", resume=True, sets={"search.trials": 4})
    pd.testing.assert_frame_equal(facts(more)[:4], wanted)
    assert len(more.trials) == 5 and set(more.trials.status) == {"finished"}
    assert more.record["config"]["search"]["trials"] == 4
    again = api.run_sweep(storage=storage.root, name="more", resume=True)
    pd.testing.assert_frame_equal(facts(again), facts(more))


#: Lines of the journal of an undisturbed sweep: two at its beginning, and five for each trial.
LINES = 2 + 4 * 5


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, LINES))
@pytest.mark.parametrize("algorithm", ["random", "grid"])
def test_stopped_at_any_line_of_the_journal_it_has_the_table_of_an_undisturbed_one(
    sweep, calm, storage, monkeypatch, algorithm, number
):
    wanted, name = calm(algorithm), f"{algorithm}-{number}"
    assert len(lines.read(storage.within(f"calm-{algorithm}"), "journal")[0]) == LINES
    assert stopped_at(number, monkeypatch, partial(api.run_sweep, sweep(algorithm), storage=storage.root, name=name))
    found = api.run_sweep(storage=storage.root, name=name, resume=True)
    pd.testing.assert_frame_equal(facts(found), wanted)


@pytest.mark.slow
def test_stopped_three_times_it_has_the_table_of_an_undisturbed_one(sweep, calm, storage, monkeypatch):
    wanted = calm("random")
    goes_on = partial(api.run_sweep, storage=storage.root, name="thrice", resume=True)
    assert stopped_at(5, monkeypatch, partial(api.run_sweep, sweep("random"), storage=storage.root, name="thrice"))
    for number in (8, 13):
        assert stopped_at(number, monkeypatch, goes_on)
    pd.testing.assert_frame_equal(facts(goes_on()), wanted)
