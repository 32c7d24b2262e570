"""What fits on a cluster, and the cluster launcher file."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tgt_ray.distributed import cluster
from tgt_ray.distributed.resources import count_lanes, lane_bundles
from tgt_ray.distributed.teacher_tasks import prepare_on_ray, teacher_on_ray
from tgt_ray.experiment.experiment import Experiment

ROOT = Path(__file__).parent.parent.parent


def experiment(**overrides: object) -> Experiment:
    from tgt_ray.core.loading import with_overrides

    return Experiment.model_validate(
        with_overrides(Experiment().model_dump(mode="json"), [(k.replace("__", "."), v) for k, v in overrides.items()])
    )


def test_the_launcher_file_passes_ray_s_own_validation():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(config))
    assert set(config["available_node_types"]) == {"head", "students", "generators"}


def test_the_launcher_file_s_validation_can_fail():
    import jsonschema
    from ray.autoscaler._private.util import validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text()) | {"not_a_key": 1}
    with pytest.raises(jsonschema.ValidationError):
        validate_config(config)


def test_two_default_runs_fit_on_two_cpus_and_one_on_one():
    assert count_lanes(experiment(), at_most=8, nodes=[{"CPU": 2.0}]) == 2
    assert count_lanes(experiment(), at_most=8, nodes=[{"CPU": 1.0}]) == 1
    assert count_lanes(experiment(), at_most=8, nodes=[{"CPU": 2.0}, {"CPU": 2.0}]) == 4


def test_a_run_without_synthetic_rows_counts_no_generator():
    plain = experiment(train__synthetic_ratio=0.0)
    assert lane_bundles(plain) == [{"CPU": 0.5}]


def test_custom_resources_place_the_pool_on_its_node_type():
    placed = experiment(train__gpus_per_worker=1, pool__actor_resources={"generator": 0.5})
    students, generators = {"CPU": 4.0, "GPU": 1.0}, {"CPU": 16.0, "generator": 1.0}
    assert count_lanes(placed, at_most=8, nodes=[students, generators]) == 1
    assert count_lanes(placed, at_most=8, nodes=[students, students, generators]) == 2
    assert count_lanes(placed, at_most=8, nodes=[students, students]) == 0


@pytest.mark.ray
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_more_workers_than_the_cluster_can_place_are_refused_with_the_arithmetic(command, tmp_path):
    prefix = "experiment." if command == "sweep" else ""
    sets = ["--set", f"{prefix}train.workers=64", "--set", f"{prefix}train.batch_size=64"]
    sets += ["--set", f"{prefix}train.cpus_per_worker=4"]
    done = subprocess.run(
        [sys.executable, "-m", f"tgt_ray.{command}", "--storage", str(tmp_path / "s"), *sets],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "64 x train worker of 4 CPU" in line and "train.workers" in line and "have:" in line
    assert not list((tmp_path / "s").glob("*/*"))


@pytest.mark.ray
def test_a_folder_that_another_node_does_not_see_is_refused(monkeypatch, tmp_path, ray_cluster):
    import ray

    from tgt_ray.core.errors import ConfigError
    from tgt_ray.core.storage import Storage

    storage = Storage(tmp_path)
    cluster.check_shared(storage)  # one node: nothing to share
    here = ray.nodes()[0]
    other = here | {"NodeID": "another", "NodeManagerAddress": "10.0.0.7"}
    monkeypatch.setattr(ray, "nodes", lambda: [here, other])
    monkeypatch.setattr(cluster, "_sees", lambda node_id, path: ray.put(False))
    with pytest.raises(ConfigError, match=r"2 nodes, and 10\.0\.0\.7 does not see"):
        cluster.check_shared(storage)
    assert not list(tmp_path.iterdir())


def test_lanes_are_counted_for_the_most_demanding_trial_of_the_space():
    from tgt_ray.sweeps.concurrency import most_demanding
    from tgt_ray.sweeps.config import SweepConfig

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
    from tgt_ray.core.errors import ConfigError
    from tgt_ray.core.storage import Storage
    from tgt_ray.distributed import lanes
    from tgt_ray.sweeps.concurrency import check_concurrency
    from tgt_ray.sweeps.config import SweepConfig

    def never(*args, **more):
        raise AssertionError("Ray was asked for what no node has, and would wait for ever")

    base = experiment(explorer__type="random", **asked)
    sweep = SweepConfig.model_validate(
        {"experiment": base.model_dump(mode="json"), "space": {"explorer.type": {"choice": ["none"]}}}
    )
    for module in ("sweeps.concurrency", "distributed.teacher_tasks", "distributed.teacher_pass"):
        monkeypatch.setattr(f"tgt_ray.{module}.nodes", lambda: [{"CPU": 2.0}])
    monkeypatch.setattr(lanes.ray, "remote", never)
    assert check_concurrency(sweep) == 3, "the trials fit"
    with pytest.raises(ConfigError, match=rf"{says}the cluster's 1 node\(s\) have: 2 CPU"):
        teacher_on_ray(sweep.experiment, digits, Storage(tmp_path))
    record = {role: {"fingerprint": role} for role in ("labeler", "generator")}
    with pytest.raises(ConfigError, match=says):
        prepare_on_ray(sweep.experiment, record, digits, Storage(tmp_path), beside_lanes=False)


def test_controls_neither_stop_nor_stop_others():
    from types import SimpleNamespace

    from ray.tune.schedulers import TrialScheduler

    from tgt_ray.sweeps.schedulers import ControlledASHA

    scheduler = ControlledASHA(
        time_attr="step", metric="score", mode="max", max_t=500, grace_period=200, reduction_factor=3
    )
    trials = [SimpleNamespace(trial_id=str(i), config={"control": "one_hot"}, status="RUNNING") for i in range(2)]
    for trial, score in zip(trials, (80.0, 85.0), strict=True):
        scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(None, trial, {"step": 500, "score": score}) == TrialScheduler.CONTINUE
        scheduler.on_trial_complete(None, trial, {"step": 500, "score": score})
    searched = SimpleNamespace(trial_id="2", config={}, status="RUNNING", is_saving=False)
    scheduler.on_trial_add(None, searched)
    assert scheduler.on_trial_result(None, searched, {"step": 200, "score": 60.0}) == TrialScheduler.CONTINUE
