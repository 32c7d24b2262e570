"""The table is kept while trials run."""

import copy

import pandas as pd

from tests.helpers.trials import sweep, trial
from tgt_ray.core import records
from tgt_ray.core.storage import Storage
from tgt_ray.distributed.ray_train import study_of
from tgt_ray.sweeps import leaderboard
from tgt_ray.sweeps.leaderboard import Leaderboard
from tgt_ray.sweeps.search import make_search


def test_the_table_is_written_whenever_a_trial_ends(tmp_path, caplog):
    config, folder = sweep(), Storage(tmp_path)
    board, search = Leaderboard(config, folder), make_search(config, folder)
    done, failed = trial("a", 90.0, "RUNNING"), trial("b", None, "RUNNING", error=RuntimeError("out of luck"))
    caplog.set_level("INFO", "tgt_ray")
    board.on_trial_complete(1, [done, failed], done)
    assert records.read_table(folder, "trials").status.tolist() == ["finished", "running"]
    board.on_trial_error(2, [done, failed], failed)
    table = records.read_table(folder, "trials")
    assert table.set_index("trial").reason.to_dict() == {"a": None, "b": "out of luck"}
    assert study_of(search).user_attrs == {"error b": "out of luck"}
    assert pd.read_csv(tmp_path / "trials.csv").trial.tolist() == table.trial.tolist()
    lines = caplog.messages
    assert len(lines) == 2
    assert (
        lines[0].startswith("[1/6] a finished, balanced_accuracy 90 at step 500") and "synthetic_ratio 0.5" in lines[0]
    )
    assert "b failed" in lines[1] and lines[1].endswith(": out of luck")


def test_in_a_log_lines_at_growing_distances_say_how_far_it_is(tmp_path, caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(leaderboard.time, "monotonic", lambda: now[0])
    caplog.set_level("INFO", "tgt_ray")
    trials, board = [trial("a", None, "RUNNING")], Leaderboard(sweep(), Storage(tmp_path))
    board.on_step_end(0, trials)  # nothing runs yet
    board.on_trial_start(0, trials, trials[0])
    for _ in range(240):
        now[0] += 0.5
        board.on_step_end(1, trials)
    said = [line.partition(" in ")[2] for line in caplog.messages]
    assert said == ["3 s", "6 s", "12 s", "24 s", "48 s", "1 min 36 s"]
    assert all(line.startswith("sweep: 0 of 6 trials ended, 1 running, in ") for line in caplog.messages)
    assert copy.deepcopy(board).pace.began == 100.0, "Tune stores it"
