"""A signal and the objective that needs it, added from outside the package, as commands: on Ray and in one process."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.helpers.own_signals import Matching
from tests.helpers.places import ROOT
from tgt_ray.core.config import validate
from tgt_ray.core.loading import with_overrides
from tgt_ray.experiment.experiment import Experiment

QUICK = {"train.steps": 40, "train.eval_every": 20, "train.batch_size": 16, "pool.rows_per_request": 64}


@pytest.fixture(scope="module")
def runs(prepared, storage, tmp_path_factory):
    """The last report of one experiment, on Ray and without it, with the teacher pass done by each for itself."""
    folder = tmp_path_factory.mktemp("own")
    how = {**QUICK, "explorer.type": "random", "objective.type": Matching().type}
    plain = with_overrides(prepared.experiment.model_dump(mode="json"), list(how.items()))
    assert isinstance(validate(Experiment, plain).objective, Matching)
    (folder / "experiment.yaml").write_text(yaml.safe_dump(plain))
    out = {}
    for name, options in (("ray", []), ("local", ["--local"])):
        own = folder / name
        (own / "teachers").parent.mkdir()
        (own / "teachers").symlink_to(Path(storage.path("teachers")))
        command = [sys.executable, "-m", "tgt_ray.train", "experiment.yaml", "--storage", str(own), "--name", "run"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*command, *options], cwd=folder, capture_output=True, text=True, timeout=250, env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        out[name] = pd.read_json(own / "run" / "metrics.jsonl", lines=True)
    return out


def test_a_signal_from_outside_travels_to_students_on_ray(runs):
    for name, history in runs.items():
        for part in ("kl", "ruled_out", "maps", "vector"):
            assert history[f"train_{part}"].iloc[-1] < history[f"train_{part}"].iloc[0], (name, part)


def test_it_says_the_same_on_ray_and_in_one_process(runs):
    for part in ("kl", "ruled_out", "maps", "vector"):
        ours, theirs = (runs[name][f"train_{part}"].to_list() for name in ("ray", "local"))
        assert ours == pytest.approx(theirs, rel=1e-3), part
