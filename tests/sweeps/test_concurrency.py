"""How many trials fit on a cluster, and what of a sweep is checked before it starts."""

import pytest

from tests.helpers.experiments import changed
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.distributed import lanes
from tgt_ray.distributed.teacher_tasks import prepare_on_ray, teacher_on_ray
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps.concurrency import check_concurrency, checked, most_demanding
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.space import Distribution


def test_lanes_are_counted_for_the_most_demanding_trial_of_the_space():
    space = {"train.workers": {"choice": [1, 4]}, "explorer.type": {"choice": ["none", "random"]}}
    demanding = most_demanding(
        SweepConfig.model_validate({"experiment": {"explorer": {"type": "none"}}, "space": space})
    )
    assert demanding.train.workers == 4 and demanding.streams


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"pool__actor_resources": {"generator": 0.5}}, "on a node with 0.4 CPU, 0.5 generator; "),
        ({"pool__gpus_per_actor": 1}, "on a node with 0.4 CPU, 1 GPU; "),
    ],
)
def test_a_place_that_only_the_teacher_needs_and_no_node_has_is_refused(asked, says, monkeypatch, digits, tmp_path):
    """Trials that make no rows have no generators, but the sweep's teacher is made ready where one would be."""

    def never(*args, **more):
        raise AssertionError("Ray was asked for what no node has, and would wait for ever")

    base = changed(Experiment(), explorer__type="random", **asked)
    sweep = SweepConfig.model_validate(
        {"experiment": base.model_dump(mode="json"), "space": {"explorer.type": {"choice": ["none"]}}}
    )
    for module in ("sweeps.concurrency", "distributed.teacher_tasks", "distributed.teacher_pass"):
        monkeypatch.setattr(f"tgt_ray.{module}.nodes", lambda: [{"CPU": 2.0}])
    monkeypatch.setattr(lanes.ray, "remote", never)
    assert check_concurrency(sweep) == 3, "the trials fit"
    with pytest.raises(ConfigError, match=rf"{says}the cluster's 1 node\(s\) have: 2 CPU"):
        teacher_on_ray(sweep.experiment, digits, Storage(tmp_path))
    record = {role: {"identity": role} for role in ("labeler", "generator")}
    with pytest.raises(ConfigError, match=says):
        prepare_on_ray(sweep.experiment, record, digits, Storage(tmp_path), beside_lanes=False)


def test_a_sweep_is_checked_on_rows_that_its_trials_make():
    space = {"explorer.type": Distribution(choice=["none", "random"])}
    for written in ("none", "gradient"):
        experiment = changed(Experiment(), explorer__type=written)
        plan = checked(SweepConfig(experiment=experiment, space=space))
        assert plan.streams and plan.explorer.type == ("random" if written == "none" else written)
