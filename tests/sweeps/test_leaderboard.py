"""The table is kept while trials run."""

import pandas as pd
import pytest

from tests.helpers.owners import held
from tests.helpers.trials import METRIC, VALUES, opened, sweep
from tgt_ray.core import records
from tgt_ray.core.owner import NotOwner
from tgt_ray.core.storage import Storage
from tgt_ray.sweeps import leaderboard
from tgt_ray.sweeps.leaderboard import Leaderboard


def test_the_table_is_written_whenever_a_trial_ends(tmp_path, caplog):
    config, folder = sweep(), Storage(tmp_path)
    journal = opened(folder, config)
    board = Leaderboard(config, held(folder), journal, "board")
    done, failed = journal.begin(VALUES, 0), journal.begin(VALUES, 1)
    caplog.set_level("INFO", "tgt_ray")
    board.look({"1": "running", "2": "running"})
    journal.report(done, {"step": 500, METRIC: 90.0, f"test_{METRIC}": 89.0})
    journal.end(done, "finished")
    board.ended(done)
    assert records.read_table(folder, "trials").status.tolist() == ["finished", "running"]
    journal.end(failed, "failed", "out of luck")
    board.ended(failed)
    table = records.read_table(folder, "trials")
    assert table.set_index("trial").reason.to_dict() == {"1": None, "2": "out of luck"}
    assert pd.read_csv(tmp_path / "trials.csv").trial.astype(str).tolist() == table.trial.tolist()
    lines = caplog.messages
    assert len(lines) == 2
    assert (
        lines[0].startswith("[1/6] 1 finished, balanced_accuracy 90 at step 500") and "synthetic_ratio 0.5" in lines[0]
    )
    assert "2 failed" in lines[1] and lines[1].endswith(": out of luck")


def test_what_has_not_ended_is_interrupted_at_the_end_and_an_overtaken_owner_writes_nothing(tmp_path):
    config, folder = sweep(), Storage(tmp_path)
    journal = opened(folder, config)
    board = Leaderboard(config, held(folder), journal, "board")
    journal.begin(VALUES, 0)
    board.look({"1": "running"})
    board.close()
    assert records.read_table(folder, "trials").status.tolist() == ["interrupted"]
    (tmp_path / "owner-000002.lock").write_text("{}")
    before = (tmp_path / "trials.csv").read_bytes()
    with pytest.raises(NotOwner, match="another command has taken over"):
        board.write()
    with pytest.raises(NotOwner):
        journal.begin(VALUES, 1)
    assert (tmp_path / "trials.csv").read_bytes() == before


def test_in_a_log_lines_at_growing_distances_say_how_far_it_is(tmp_path, caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(leaderboard.time, "monotonic", lambda: now[0])
    caplog.set_level("INFO", "tgt_ray")
    config, folder = sweep(), Storage(tmp_path)
    journal = opened(folder, config)
    board = Leaderboard(config, held(folder), journal, "board")
    board.look({})  # nothing runs yet
    journal.begin(VALUES, 0)
    board.look({"1": "running"})
    for _ in range(240):
        now[0] += 0.5
        board.look({"1": "running"})
    said = [line.partition(" in ")[2] for line in caplog.messages]
    assert said == ["3 s", "6 s", "12 s", "24 s", "48 s", "1 min 36 s"]
    assert all(line.startswith("sweep: 0 of 6 trials ended, 1 running, in ") for line in caplog.messages)
