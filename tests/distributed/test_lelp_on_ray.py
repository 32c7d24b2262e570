"""LELP on Ray: the teacher's embeddings reach workers and come with the stream's rows."""

import shutil

import numpy as np
import pytest

from tests.helpers.experiments import changed
from tgt_ray.core.errors import ConfigError
from tgt_ray.entrypoints import api
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps.config import SweepConfig

pytestmark = pytest.mark.ray


def lelp(base: Experiment, **overrides) -> Experiment:
    values = {"objective.type": "lelp", "train.steps": 60, "train.eval_every": 30, "pool.rows_per_request": 64}
    return changed(base, values, **overrides)


@pytest.mark.slow
def test_a_run_on_ray_equals_a_local_one(ray_cluster, prepared, storage, tmp_path):
    config = lelp(prepared.experiment, explorer__type="random")
    runs = []
    for on_ray in (True, False):
        # Each asks the teacher for its embeddings itself.
        own = tmp_path / ("ray" if on_ray else "local")
        shutil.copytree(storage.path("teachers"), own / "teachers")
        runs.append(api.run(config, storage=str(own), name="lelp", local=not on_ray).metrics)
    on_ray, local = runs
    for name in ("loss", "kl_real", "kl_synthetic", "subclass_kl_real", "subclass_kl_synthetic"):
        np.testing.assert_allclose(on_ray[f"train_{name}"], local[f"train_{name}"], rtol=0.01, err_msg=name)


@pytest.mark.slow
def test_two_workers_train_with_generators_that_look_at_them(ray_cluster, prepared, storage):
    config = lelp(prepared.experiment, train__workers=2, pool__cpus_per_actor=0.3)
    run = api.run(config, storage=storage.root, name="lelp-two-workers")
    assert run.metrics.step.tolist() == [30, 60] and (run.metrics["train_subclass_kl_synthetic"] > 0).all()


@pytest.mark.slow
def test_what_does_not_fit_is_refused_before_training_and_in_a_sweep_fails_its_trial(ray_cluster, prepared, storage):
    wide = lelp(prepared.experiment, explorer__type="none", objective__subclasses=50)
    with pytest.raises(ConfigError, match=r"objective\.subclasses: 50, but at most \d+ fit: class \d"):
        api.run(wide, storage=storage.root, name="lelp-refused")
    assert not storage.exists("lelp-refused")
    sweep = SweepConfig.model_validate(
        {
            "experiment": lelp(prepared.experiment, explorer__type="none").model_dump(mode="json"),
            "space": {"objective.subclasses": {"choice": [2, 50]}},
            "search": {"algorithm": "grid", "controls": [], "scheduler": "none", "concurrent": 1},
        }
    )
    trials = api.run_sweep(sweep, storage=storage.root, name="lelp-sweep").trials.set_index("objective.subclasses")
    assert trials.status.to_dict() == {2: "finished", 50: "failed"}
    assert "objective.subclasses: 50, but at most" in trials.reason[50]


@pytest.mark.slow
def test_a_sweep_over_objectives_has_what_each_of_them_needs(ray_cluster, prepared, storage):
    sweep = SweepConfig.model_validate(
        {
            "experiment": lelp(prepared.experiment, objective__type="distillation", explorer__type="random").model_dump(
                mode="json"
            ),
            "space": {"objective.type": {"choice": ["distillation", "lelp"]}},
            "search": {"algorithm": "grid", "controls": [], "scheduler": "none", "concurrent": 1},
        }
    )
    trials = api.run_sweep(sweep, storage=storage.root, name="lelp-types").trials
    assert set(trials.status) == {"finished"} and set(trials["objective.type"]) == {"distillation", "lelp"}
