"""One experiment on Ray Train: the same as in one process, with one worker and with two."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from tests.helpers.experiments import changed
from tests.helpers.stops import interrupted
from tgt_ray.entrypoints import api

pytestmark = pytest.mark.ray


def small(prepared, **overrides):
    values = {"train.steps": 120, "train.eval_every": 60, "pool.rows_per_request": 64}
    return changed(prepared.experiment, values, **overrides)


@pytest.fixture(scope="module")
def off_policy(ray_cluster, prepared, storage):
    """The same off-policy experiment in one process and on Ray, each with rows that it makes itself."""
    config = small(prepared, explorer__type="random", pool__bank={"mode": "none"})
    return (
        api.run(config, storage=storage.root, name="random-local", local=True),
        api.run(config, storage=storage.root, name="random-ray"),
    )


def test_off_policy_rows_give_the_same_training_locally_and_on_ray(off_policy):
    local, on_ray = off_policy
    for column in ("step", "train_loss", "train_kl_real", "train_kl_synthetic"):
        np.testing.assert_allclose(local.metrics[column], on_ray.metrics[column], rtol=0.01, err_msg=column)
    last = [run.metrics.iloc[-1]["test_balanced_accuracy"] for run in off_policy]
    assert abs(last[0] - last[1]) < 1.0
    assert local.metrics.iloc[0].isna()["test_balanced_accuracy"], "the test split is measured once, at the end"


def test_a_run_on_ray_leaves_its_files_and_record(off_policy, storage):
    _, on_ray = off_policy
    for name in ("experiment.yaml", "record.json", "metrics.jsonl", "student.safetensors"):
        assert storage.exists("random-ray", name), name
    record = json.loads(storage.read("random-ray", "record.json"))
    assert record["mode"] == "ray" and record["experiment"]["train"]["seed"] == 0
    assert record["teacher"]["labeler"]["pretrained_on"] == "full"
    local = off_policy[0].record["speed"]["student"]
    assert all(record["speed"]["student"][name] == local[name] for name in ("parameters", "cpu")), record["speed"]
    assert {"labeler", "generator", "data", "teacher_cache"} <= set(record["fingerprints"])
    assert 0 <= on_ray.metrics.iloc[-1]["wait_share"] <= 1
    assert 0 < on_ray.metrics.iloc[-1]["generator_utilisation"] <= 1


def test_a_run_that_diverges_fails_with_its_reason(ray_cluster, prepared, storage):
    config = small(prepared, explorer__type="none", train__optimizer="sgd", train__learning_rate=1e30)
    with pytest.raises(api.RunFailed, match="not finite"):
        api.run(config, storage=storage.root, name="diverges")


@pytest.mark.slow
@pytest.mark.parametrize("begun_locally", [True, False])
def test_what_was_begun_on_ray_can_be_finished_locally_and_the_other_way_round(
    begun_locally, off_policy, prepared, storage, monkeypatch
):
    config, name = small(prepared, explorer__type="random"), f"begun-locally-{begun_locally}"

    with monkeypatch.context() as patch:
        patch.setattr("tgt_ray.entrypoints.api._log_report", interrupted)
        with pytest.raises(KeyboardInterrupt):
            api.run(config, storage=storage.root, name=name, local=begun_locally)
    resumed = api.run(config, storage=storage.root, name=name, local=not begun_locally, resume=True)
    assert resumed.metrics.step.tolist() == [60, 120]
    whole = off_policy[0].metrics
    np.testing.assert_allclose(resumed.metrics["train_loss"], whole["train_loss"], rtol=0.01)


@pytest.mark.slow
def test_augmented_rows_that_the_teacher_labels_are_the_same_on_ray_and_here(ray_cluster, prepared, storage):
    """Real rows (consistent teaching) and synthetic ones (function matching)."""
    augment = {"shift": 1, "flip": True, "consistent": True, "versions": 4}
    config = small(prepared, explorer={"type": "augment"}, train__augment=augment, pool__bank={"mode": "none"})
    here, there = (
        api.run(config, storage=storage.root, name=f"augmented-{local}", local=local).metrics for local in (True, False)
    )
    np.testing.assert_allclose(there["train_loss"], here["train_loss"], rtol=0.01)


@pytest.mark.slow
def test_two_workers_train_as_one_batch(ray_cluster, prepared, storage):
    config = small(prepared, explorer__type="random", train__workers=2, pool__cpus_per_actor=0.3)
    run = api.run(config, storage=storage.root, name="two-workers")
    assert len(run.metrics) == 2 and run.metrics.iloc[-1]["step"] == 120
    assert run.metrics.iloc[-1]["test_balanced_accuracy"] > 60


@pytest.mark.slow
def test_each_of_two_workers_goes_on_with_its_own_rows(ray_cluster, prepared, storage, monkeypatch):
    """After 60 steps of 16 rows each worker has used 10 of the 50 rows of its 20th request."""
    how = {"train__workers": 2, "pool__cpus_per_actor": 0.3, "pool__rows_per_request": 50}
    config, name = small(prepared, **how), "two-workers-stopped"
    assert config.explorer.on_policy

    def state() -> dict:
        return torch.load(io.BytesIO(storage.read(name, "checkpoint", "state.pt")), weights_only=True)

    with monkeypatch.context() as patch:
        patch.setattr("tgt_ray.entrypoints.api._log_report", interrupted)
        with pytest.raises(KeyboardInterrupt):
            api.run(config, storage=storage.root, name=name)
    if state()["step"] == 60:  # else both were quicker than the interruption
        assert [(rest["request"], len(rest["inputs"])) for rest in state()["reading"]["rests"]] == [(38, 40), (39, 40)]
    resumed = api.run(config, storage=storage.root, name=name, resume=True)
    assert resumed.metrics.step.tolist() == [60, 120] and resumed.metrics.iloc[-1]["test_balanced_accuracy"] > 60
    assert state()["step"] == 120 and state()["reading"] is None


@pytest.mark.slow
def test_two_workers_share_a_second_phase_and_norms_by_source(ray_cluster, prepared, storage):
    phase = {"type": "lws", "share": 0.5}
    how = {"train__second_phase": phase, "train__batch_norm": "per_source", "train__augment": {"mixup": 0.2}}
    config = small(prepared, explorer__type="random", train__workers=2, pool__cpus_per_actor=0.3, **how)
    alone, shared = (
        api.run(config, storage=storage.root, name=f"two-phases-{local}", local=local) for local in (True, False)
    )
    assert shared.metrics.step.tolist() == [60, 120]
    # Each worker normalises its own half of a batch, so the two are close and not equal;
    # a head on fresh weights is right on 10 to 20 %.
    scores = [run.metrics.iloc[-1]["test_balanced_accuracy"] for run in (alone, shared)]
    assert min(scores) > 35 and abs(scores[0] - scores[1]) < 10


OWN_EXPLORER = """
from tgt_ray.teacher.explorers import Explorer


class Shrink(Explorer):
    factor: float = 0.5

    def explore(self, latents, near):
        return latents * self.factor
"""


@pytest.mark.slow
def test_a_component_of_the_users_own_runs_on_ray_by_its_name(prepared, storage, tmp_path):
    """As a user does it: a module in the working directory, named in a file, given to the command."""
    (tmp_path / "mine.py").write_text(OWN_EXPLORER)
    data = small(prepared, explorer__type="random").model_dump(mode="json")
    data["explorer"] = {"type": "mine:Shrink", "factor": 0.9}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(data))
    command = [sys.executable, "-m", "tgt_ray.train", "experiment.yaml", "--storage", storage.root, "--name", "own"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(storage.read("own", "record.json"))["experiment"]["explorer"]["type"] == "mine:Shrink"


@pytest.mark.slow
def test_a_storage_without_a_teacher_gets_one_beside_nothing_else(ray_cluster, prepared, tmp_path):
    """Pretraining and teacher pass want the cluster that the lanes want: neither may wait for the other for ever."""
    quick = {"teacher.labeler.pretrain.steps": 5, "teacher.generator.pretrain.steps": 5}
    config = changed(small(prepared, explorer__type="random", train__steps=20, train__eval_every=20), quick)
    run = api.run(config, storage=str(tmp_path), name="fresh")
    assert run.record["teacher"]["labeler"]["reused"] is False and run.metrics.iloc[-1]["step"] == 20


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", pytest.param("sweep", marks=pytest.mark.slow)])
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
