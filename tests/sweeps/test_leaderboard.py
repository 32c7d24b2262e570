"""The table is kept while trials run."""

import pandas as pd

from tests.helpers.trials import sweep, trial
from tgt_ray.core import records
from tgt_ray.core.storage import Storage
from tgt_ray.distributed.ray_train import study_of
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
