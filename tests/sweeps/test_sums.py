"""What all trials have made and found is in a sweep's table, in its record and in its last lines."""

from typing import Any

import numpy as np
import safetensors.numpy

from tests.helpers.owners import held
from tests.helpers.trials import METRIC, opened, sweep, trial
from tgt_ray.core import records
from tgt_ray.core.kept import STUDENT_FILE, WEIGHTS_FILE
from tgt_ray.core.storage import Storage
from tgt_ray.entrypoints.summary import SweepResult
from tgt_ray.sweeps.driver import finish
from tgt_ray.sweeps.table import trial_table


def reported(made: int, found: int, seconds: float, saved: float, bank: str, size: int) -> dict[str, Any]:
    times = {"teacher_seconds": seconds, "teacher_seconds_saved": saved}
    about = {"bank": bank, "bank_bytes": size, "bank_damaged": 0}
    return {"step": 50, METRIC: 70.0, "rows_made": made, "rows_found": found, **times, **about}


def test_trials_are_summed_at_the_end_of_a_sweep(tmp_path):
    config, folder = sweep(), Storage(tmp_path)
    trials = [
        trial("1", 70.0, result=reported(12_000, 4_320, 40.5, 10.0, "k", 20_000_000)),
        trial("2", 70.0, number=2, result=reported(288, 180_000, 0.5, 600.0, "k", 24_000_000)),
        trial("3", 70.0, number=3, result=reported(0, 0, 0.0, 0.0, "l", 1_000_000)),
        trial("4", 60.0, number=4, values={"control": "distillation"}),
    ]
    table = trial_table(config, trials)
    assert {"rows_made", "rows_found", "teacher_seconds", "teacher_seconds_saved", "bank"} <= set(table.columns)
    journal = opened(folder, config)
    journal.keep_record({"format": 3, "kind": "sweep", "teacher": {"labeler": {}}})
    for known in trials:
        begun = journal.begin(known.values, None)
        journal.report(begun, known.result)
        journal.end(begun, "finished")
    folder.write(safetensors.numpy.save({"weight": np.zeros(1)}), "train", "1", WEIGHTS_FILE)
    folder.write(b"{}", "train", "1", STUDENT_FILE)
    found = finish(config, held(folder), journal, {"the worker of lane-0": 1})
    record = records.read_json(folder, "record.json")
    assert record["replaced"] == {"the worker of lane-0": 1}
    assert record["kind"] == "sweep" and record["ledger"] == {
        "rows_made": 12_288,
        "rows_found": 184_320,
        "rows_not_kept": 0,
        "bank_damaged": 0,
        "teacher_seconds": 41.0,
        "teacher_seconds_saved": 610.0,
        "bank_bytes": 24_000_000,
        "banks": ["k"],
    }
    lines = repr(SweepResult("results/s", config, found, None, record)).splitlines()
    assert (
        "synthetic rows: 12,288 made, 184,320 found; the teacher took 41 s and the bank saved about 10 min 10 s; 24 MB"
        in lines
    )
