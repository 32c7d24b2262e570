"""A sweep's folder, made of one run without Ray."""

import shutil
from pathlib import Path

import pandas as pd

from tgt_ray.core import records
from tgt_ray.core.storage import Storage
from tgt_ray.entrypoints.summary import RunResult


def sweep_of(run: RunResult, folder: Path) -> Path:
    """Make the folder of a sweep whose best trial, `aaaa`, and control, `cccc`, have the student of the run."""
    for place in ("best", "train/aaaa", "train/cccc"):
        shutil.copytree(run.folder, folder / place)
        (folder / place / "record.json").unlink()
    result = run.record["result"]
    rows = [
        {**result, "trial": "aaaa", "status": "finished", "control": None, "train.seed": 3},
        {**result, "trial": "cccc", "status": "finished", "control": "one_hot", "balanced_accuracy": 40.0},
        {"trial": "bbbb", "status": "failed", "control": None},
    ]
    storage = Storage(folder)
    records.write_table(storage, pd.DataFrame(rows), "trials")
    records.write_json(storage, rows[0], "best", "metrics.json")
    record = {name: run.record[name] for name in ("fingerprints", "data", "teacher", "environment")}
    search = {"metric": "balanced_accuracy", "mode": "max"}
    config = {"experiment": run.record["experiment"], "space": {}, "search": search}
    records.write_json(storage, {"kind": "sweep", "name": "my-sweep", "config": config, **record}, "record.json")
    return folder
