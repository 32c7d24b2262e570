"""Files of a sweep that are cut off, empty, missing or something else: mended, or refused in one line."""

import json
import pickle
from pathlib import Path

import optuna
import pytest
from ray import tune
from ray.train._internal.storage import StorageContext
from ray.tune.experiment import Trial

from tests.helpers.trials import METRIC
from tgt_ray.core.config import validate
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import Damaged
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.resume import mend
from tgt_ray.sweeps.search import ControlledSearch, make_search, note_failure
from tgt_ray.sweeps.study import mend as mend_study
from tgt_ray.sweeps.study import open_journal

STATE = optuna.trial.TrialState
SWEEP = validate(
    SweepConfig,
    {
        "space": {"train.synthetic_ratio": {"uniform": [0.1, 0.9]}},
        "search": {"trials": 5, "controls": ["one_hot"]},
    },
)
#: Trials by id: what Tune says of them, and their reports.
REPORTS = {
    "c": ("TERMINATED", [10.0, 20.0]),
    "done": ("TERMINATED", [30.0, 40.0]),
    "stopped": ("TERMINATED", [15.0]),
    "failed": ("ERROR", [12.0]),
    "running": ("PENDING", [25.0]),
}


@pytest.fixture
def folder(tmp_path) -> Storage:
    """The folder of a sweep that was interrupted: a control and three trials have ended, one goes on."""
    out = Storage(tmp_path / "mine")
    out.write(json.dumps({"format": 2, "concurrent": 1, "fingerprints": {}}).encode(), "record.json")
    search = make_search(SWEEP, out)
    trials = [_trial(tmp_path, search, number, name) for number, name in enumerate(REPORTS, 1)]
    state = tmp_path / "mine" / "tune"
    note_failure(out, "failed", "the trial's process was lost")
    search.save(str(state / "searcher-state-2026.pkl"))
    (state / "search_gen_state-2026.json").write_bytes(pickle.dumps({"counter": 5}))
    (state / "callback-states-2026.pkl").write_bytes(pickle.dumps({}))
    data = [(each.get_json_state()) for each in trials]
    (state / "experiment_state-2026.json").write_text(json.dumps({"trial_data": data, "runner_data": {}}))
    return out


def _trial(root, search: ControlledSearch, number: int, name: str) -> Trial:
    """What Tune writes of a trial, and tells the search."""
    status, scores = REPORTS[name]
    values = search.suggest(name)
    place = root / "mine" / "tune" / name
    place.mkdir(parents=True)
    storage = StorageContext(str(root / "mine"), "tune", trial_dir_name=name)
    trial = Trial("any", config=values, trial_id=name, storage=storage, stub=True, _setup_default_resource=False)
    trial.placement_group_factory = tune.PlacementGroupFactory([{"CPU": 1}])
    results = [{"step": 100 * n, "training_iteration": n, METRIC: s} for n, s in enumerate(scores, 1)]
    results[-1] |= {"c": {f"test_{METRIC}": 21.0}, "done": {f"test_{METRIC}": 41.0}}.get(name, {})
    results[-1]["done"] = name != "running"
    trial.status, trial.experiment_tag, trial.run_metadata.last_result = status, f"{number}_x", results[-1]
    (place / "params.json").write_text(json.dumps(values))
    (place / "result.json").write_text("".join(json.dumps(result) + "\n" for result in results))
    for result in results if name in ("failed", "running") else results[:-1]:
        search.on_trial_result(name, result)
    if name != "running":
        search.on_trial_complete(name, {**results[-1], "config/control": "one_hot"}, error=status == "ERROR")
    return trial


def study(folder: Storage) -> optuna.Study:
    return optuna.load_study(study_name="mine", storage=open_journal(journal(folder)))


def journal(folder: Storage) -> Path:
    return Path(folder.base, "optuna_journal.log")


def facts(found: optuna.Study) -> list[tuple]:
    """What a study says of trials, but for those that were lost; the last report of one is its value."""
    keep = [each for each in found.trials if each.user_attrs]
    return sorted((t.user_attrs["trial"], t.state, t.params, t.values, t.intermediate_values) for t in keep)


def test_a_whole_sweep_stays_as_it_is(folder, caplog):
    before = journal(folder).read_bytes()
    assert mend(SWEEP, folder)
    assert journal(folder).read_bytes() == before and not caplog.records


@pytest.mark.parametrize("share", [0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_the_whole_lines_of_a_cut_journal_go_on_with_what_tune_knows(folder, share, caplog):
    expected, content = study(folder), journal(folder).read_bytes()
    wanted, said = facts(expected), expected.user_attrs
    journal(folder).write_bytes(content[: int(share * len(content))])
    assert mend(SWEEP, folder)
    assert facts(study(folder)) == wanted and study(folder).user_attrs == said
    (message,) = caplog.messages
    assert "optuna_journal.log: is damaged (" in message and "whole lines go on" in message
    assert [t.state for t in study(folder).trials if not t.user_attrs] in ([], [STATE.FAIL]), "nothing is left open"


@pytest.mark.parametrize("content", [None, b"", b"garbage\n", b"\x00\xff\n", b"{}\n", b'{"op_code":5,"trial_id":7}\n'])
def test_a_journal_that_is_none_is_made_anew(folder, content):
    wanted = facts(study(folder))
    journal(folder).unlink()
    if content is not None:
        journal(folder).write_bytes(content)
    assert mend(SWEEP, folder)
    assert facts(study(folder)) == wanted


def test_a_line_that_was_destroyed_ends_what_goes_on(folder):
    wanted, lines = facts(study(folder)), journal(folder).read_bytes().splitlines(keepends=True)
    for number in range(0, len(lines), 4):
        journal(folder).write_bytes(b"".join([*lines[:number], b"garbage\n", *lines[number + 1 :]]))
        assert mend(SWEEP, folder)
        assert facts(study(folder)) == wanted, number


def test_the_search_goes_on_with_the_mended_study(folder):
    journal(folder).unlink()
    assert mend(SWEEP, folder)
    search = make_search(SWEEP, folder, resume=True)
    search.restore(str(Path(folder.base, "tune", "searcher-state-2026.pkl")))
    search.on_trial_result("running", {"step": 200, METRIC: 26.0})
    search.on_trial_complete("running", {"step": 300, METRIC: 27.0, f"test_{METRIC}": 28.0})
    assert set(search.suggest("new")) == {"train.synthetic_ratio"}, "the control was begun before"
    trials = {each.user_attrs["trial"]: each for each in study(folder).trials}
    assert trials["running"].value == 27.0 and trials["running"].intermediate_values == {100: 25.0, 200: 26.0}
    assert trials["new"].state == STATE.RUNNING and len(trials) == 5


def test_points_that_tune_had_not_noted_before_a_kill_are_tried_again(tmp_path, folder):
    grid = validate(
        SweepConfig,
        {"space": {"train.synthetic_ratio": {"choice": [0.2, 0.4]}}, "search": {"algorithm": "grid", "controls": []}},
    )
    out = Storage(tmp_path / "grid")
    (tmp_path / "grid").mkdir()
    make_search(grid, out).suggest("lost")
    mend_study(grid, journal(out), "grid", [])
    search = make_search(grid, out, resume=True)
    found = [search.suggest(name)["train.synthetic_ratio"] for name in "ab"]
    assert sorted(found) == [0.2, 0.4]


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"\x80\x05garbage", b"{}", b"[]"])
@pytest.mark.parametrize(
    "name", ["experiment_state-2026.json", "search_gen_state-2026.json", "searcher-state-2026.pkl", "record.json"]
)
def test_what_nothing_stands_in_for_is_refused_in_one_line(folder, name, content):
    parts = (name,) if name == "record.json" else ("tune", name)
    path = Path(folder.path(*parts))
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    folder.write(b"1", "trials.parquet")
    with pytest.raises(Damaged, match=rf"{name.partition('-')[0]}.*: is damaged \(it .*\); restore it") as refused:
        mend(SWEEP, folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("keep", [0.2, 0.8])
def test_a_cut_state_is_refused(folder, keep):
    for name in ("experiment_state-2026.json", "searcher-state-2026.pkl"):
        path = Path(folder.path("tune", name))
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        with pytest.raises(Damaged, match=name):
            mend(SWEEP, folder)
        path.write_bytes(content)
    assert mend(SWEEP, folder)


def test_a_sweep_that_was_killed_before_its_first_trial_begins_afresh(folder):
    Path(folder.path("tune", "experiment_state-2026.json")).unlink()
    assert not mend(SWEEP, folder)


def test_what_follows_from_other_files_is_written_anew(folder, caplog):
    tune_folder = Path(folder.path("tune"))
    (tune_folder / "callback-states-2026.pkl").write_bytes(b"garbage")
    (tune_folder / "done" / "params.json").write_bytes(b'{"train.syn')
    (tune_folder / "stopped" / "params.json").unlink()
    results = (tune_folder / "done" / "result.json").read_bytes()
    (tune_folder / "done" / "result.json").write_bytes(results[:-10])
    assert mend(SWEEP, folder)
    assert (tune_folder / "done" / "result.json").read_bytes() == results.splitlines(keepends=True)[0]
    assert "result.json: 1 report(s) are damaged" in caplog.text
    assert not (tune_folder / "callback-states-2026.pkl").exists()
    values = {each.user_attrs["trial"]: each.params for each in study(folder).trials}
    assert all(json.loads(folder.read("tune", name, "params.json")) == values[name] for name in ("done", "stopped"))
    assert "callback-states-2026.pkl: is damaged" in caplog.text and "params.json: is damaged" in caplog.text
    assert mend(SWEEP, folder)


def test_a_sweep_whose_folder_was_renamed_keeps_its_study(folder, tmp_path):
    wanted, content = facts(study(folder)), journal(folder).read_bytes()
    Path(folder.base).rename(tmp_path / "other")
    renamed = Storage(tmp_path / "other")
    assert mend(SWEEP, renamed)
    assert journal(renamed).read_bytes() == content
    assert facts(make_search(SWEEP, renamed, resume=True)._ot_study) == wanted
    note_failure(renamed, "running", "lost")
    journal(renamed).write_bytes(journal(renamed).read_bytes()[:-20])
    assert mend(SWEEP, renamed), "also where its journal is cut off"
