"""A signal and the objective that needs it, added from outside the package: on Ray and in one process."""

import shutil

import pytest

from tests.helpers.experiments import changed
from tests.helpers.own_signals import Matching
from tgt_ray.entrypoints import api

pytestmark = [pytest.mark.ray, pytest.mark.slow]

QUICK = {"train.steps": 40, "train.eval_every": 20, "train.batch_size": 16, "pool.rows_per_request": 64}
PARTS = ("kl", "ruled_out", "maps", "vector")


@pytest.fixture(scope="module")
def runs(ray_cluster, prepared, storage, tmp_path_factory):
    """The reports of one experiment, on Ray and without it, with the teacher pass done by each for itself."""
    config = changed(prepared.experiment, {**QUICK, "explorer.type": "random", "objective.type": Matching().type})
    assert isinstance(config.objective, Matching)
    out = {}
    for name in ("ray", "local"):
        own = tmp_path_factory.mktemp(name)
        shutil.copytree(storage.path("teachers"), own / "teachers")
        out[name] = api.run(config, storage=str(own), name="run", local=name == "local").metrics
    return out


def test_a_signal_from_outside_travels_to_students_on_ray(runs):
    for name, history in runs.items():
        for part in PARTS:
            assert history[f"train_{part}"].iloc[-1] < history[f"train_{part}"].iloc[0], (name, part)


def test_it_says_the_same_on_ray_and_in_one_process(runs):
    for part in PARTS:
        ours, theirs = (runs[name][f"train_{part}"].to_list() for name in ("ray", "local"))
        assert ours == pytest.approx(theirs, rel=1e-3), part
