import io
import itertools
import math
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tgt_ray.core.batch import Block
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.signals.values import Ragged
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.experiment.train import TrainConfig
from tgt_ray.training import checkpoint
from tgt_ray.training.evaluation import Evaluation
from tgt_ray.training.files import STATE_FILE, WEIGHTS_FILE
from tgt_ray.training.local import train_local
from tgt_ray.training.optimizer import make_optimizer
from tgt_ray.training.plan import Plan
from tgt_ray.training.reader import SyntheticReader
from tgt_ray.training.run import Diverged, StudentRun

ratios = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1 / 3, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]))
plans = st.builds(
    Plan,
    batch_size=st.integers(1, 20),
    ratio=ratios,
    rank=st.just(0),
    world_size=st.just(1),
    num_real=st.integers(1, 40),
    seed=st.integers(0, 3),
)


def of_rank(plan: Plan, rank: int, world_size: int) -> Plan:
    return Plan(plan.batch_size, plan.ratio, rank, world_size, plan.num_real, plan.seed)


# Which rows a step takes


@given(plans, st.integers(1, 300))
def test_the_ratio_is_exact_to_a_row(plan, steps):
    counts = np.array([plan.synthetic_count(step) for step in range(steps)])
    assert ((counts >= 0) & (counts <= plan.batch_size)).all()
    exact = np.arange(1, steps + 1) * plan.batch_size * plan.ratio
    assert (np.abs(np.cumsum(counts) - exact) <= 1).all()
    assert counts.max() - counts.min() <= 1, "every batch has the ratio to a row"


@pytest.mark.parametrize("ratio, batch, steps", [(0.3, 10, 1000), (0.1, 30, 700), (0.7, 10, 900), (0.5, 64, 500)])
def test_whole_numbers_of_rows_stay_whole(ratio, batch, steps):
    plan = Plan(batch, ratio, 0, 1, 50, 0)
    assert {plan.synthetic_count(step) for step in range(steps)} == {round(ratio * batch)}


@given(plans, st.integers(1, 60))
@settings(deadline=None)
def test_every_real_row_is_seen_once_an_epoch(plan, steps):
    seen = np.concatenate([plan.real_indices(step) for step in range(steps)])
    assert len(seen) == steps * plan.batch_size - plan.synthetic_before(steps)
    for start in range(0, len(seen), plan.num_real):
        epoch = seen[start : start + plan.num_real]
        assert len(set(epoch)) == len(epoch)
    for start in range(0, len(seen) - plan.num_real + 1, plan.num_real):
        assert set(seen[start : start + plan.num_real]) == set(range(plan.num_real))


@given(plans, st.integers(2, 4), st.integers(1, 30))
@settings(deadline=None)
def test_the_workers_parts_are_those_of_one_sequence(plan, workers, steps):
    together = np.concatenate(
        [of_rank(plan, rank, workers).real_indices(step) for step in range(steps) for rank in range(workers)]
    )
    alone = Plan(1, 0.0, 0, 1, plan.num_real, plan.seed)
    sequence = np.array([alone.real_indices(i)[0] for i in range(len(together))], dtype=int)
    np.testing.assert_array_equal(together, sequence)


@given(st.integers(1, 8), st.sampled_from([0.0, 0.5, 1.0]), st.integers(2, 4), st.integers(0, 20))
@settings(deadline=None)
def test_a_step_of_all_workers_is_the_step_of_one(half_batch, ratio, workers, step):
    batch = 2 * half_batch
    parts = [Plan(batch, ratio, rank, workers, 37, 0).real_indices(step) for rank in range(workers)]
    one = Plan(batch * workers, ratio, 0, 1, 37, 0)
    assert sorted(np.concatenate(parts)) == sorted(one.real_indices(step))
    assert sum(Plan(batch, ratio, r, workers, 37, 0).synthetic_count(step) for r in range(workers)) == (
        one.synthetic_count(step)
    )


def test_seeds_and_epochs_shuffle_differently():
    first, second = (Plan(10, 0.0, 0, 1, 10, 0).real_indices(step) for step in (0, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Plan(10, 0.0, 0, 1, 10, 1).real_indices(0))


# Reading synthetic rows


def numbered_blocks(rows: int, version: int = -1):
    for request in itertools.count():
        place = np.arange(request * rows, (request + 1) * rows)
        values = place[:, None].astype(np.float32)
        lists = Ragged(np.repeat(place, place % 3), place % 3)
        columns = {"logits": values + 0.5, "lists": lists}
        nothing = {name: np.empty((0, 1)) for name in ("reconstructed", "top_class", "top_share")}
        yield Block(values, place, columns, nothing, request, version, "random")


@given(st.integers(1, 9), st.integers(0, 8), st.lists(st.integers(1, 25), min_size=1, max_size=12))
def test_each_row_is_served_once_and_in_order(rows, skip, counts):
    skip %= rows
    reader = SyntheticReader(numbered_blocks(rows), skip_rows=skip)
    taken = [reader.take(count, step) for step, count in enumerate(counts)]
    assert [len(inputs) for inputs, _ in taken] == counts
    served = torch.cat([inputs for inputs, _ in taken])[:, 0]
    np.testing.assert_array_equal(served, np.arange(skip, skip + sum(counts)))
    np.testing.assert_array_equal(torch.cat([columns["logits"] for _, columns in taken])[:, 0], served + 0.5)
    lists = [row.tolist() for _, columns in taken for row in columns["lists"].lists()]
    assert lists == [[int(number)] * (int(number) % 3) for number in served]
    assert reader.num_blocks == math.ceil((skip + sum(counts)) / rows), "no block is asked for before it is needed"


def test_lag_is_the_steps_since_the_snapshot_and_absent_without_one():
    reader = SyntheticReader(numbered_blocks(4, version=10))
    reader.take(4, 10)
    reader.take(4, 30)
    assert reader.lag() == {"lag_p50": 10.0, "lag_p99": pytest.approx(20.0), "lag_max": 20.0}
    unseeing = SyntheticReader(numbered_blocks(4))
    unseeing.take(4, 3)
    assert unseeing.lag() == {}


def test_waiting_for_the_first_block_is_not_waiting_in_training(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("tgt_ray.training.reader.time.perf_counter", lambda: float(next(clock)))
    reader = SyntheticReader(numbered_blocks(2))
    reader.take(6, 0)
    assert (reader.start_wait_s, reader.wait_s) == (1.0, 2.0)


# Training


def small(prepared, **overrides) -> Experiment:
    base = [("train.steps", 12), ("train.eval_every", 4), ("train.batch_size", 16), ("pool.rows_per_request", 24)]
    sets = [(key.replace("__", "."), value) for key, value in overrides.items()]
    return validate(Experiment, with_overrides(prepared.experiment.model_dump(mode="json"), base + sets))


def weights_of(run: StudentRun) -> bytes:
    return checkpoint.weights(run.student)


class Killed(Exception):
    pass


def kill_at(step: int):
    def report(metrics):
        if metrics["step"] == step:
            raise Killed

    return report


def without_times(history):
    return [{k: v for k, v in row.items() if not k.endswith(("_s", "wait_share"))} for row in history]


CASES = {
    "random, within a request": ({"explorer__type": "random", "train__synthetic_ratio": 0.37}, False),
    "random, at a request's end": ({"explorer__type": "random", "train__synthetic_ratio": 0.75}, True),
    "gradient, at a request's end": ({"train__synthetic_ratio": 0.75}, True),
    "interpolation, only synthetic": ({"explorer__type": "interpolation", "train__synthetic_ratio": 1.0}, False),
    "no synthetic rows, sgd": ({"explorer__type": "none", "train__optimizer": "sgd"}, True),
}


@pytest.mark.parametrize("overrides, at_end", CASES.values(), ids=CASES)
def test_a_resumed_run_equals_an_uninterrupted_one(prepared, storage, tmp_path, overrides, at_end):
    config = small(prepared, **overrides)
    whole = train_local(config, prepared.prepared, storage)
    checkpoints = Storage(tmp_path)
    with pytest.raises(Killed):
        train_local(config, prepared.prepared, storage, checkpoints, kill_at(4))
    position = torch.load(io.BytesIO(checkpoints.read(STATE_FILE)), weights_only=True)["position"]
    assert position == divmod(math.floor(4 * 16 * config.synthetic_ratio + 1e-9), 24)
    assert (position[1] == 0) == at_end, "the case is what its name says"
    torch.manual_seed(1234)
    steps = []
    resumed = train_local(config, prepared.prepared, storage, checkpoints, lambda m: steps.append(m["step"]))
    assert steps == [8, 12]
    assert resumed.step == 12 and [row["step"] for row in resumed.history] == [4, 8, 12]
    assert weights_of(resumed) == weights_of(whole)
    if not config.explorer.on_policy:
        assert without_times(resumed.history) == without_times(whole.history)


def test_a_finished_run_is_not_trained_again(prepared, storage, tmp_path):
    config, checkpoints = small(prepared, explorer__type="random"), Storage(tmp_path)
    first = train_local(config, prepared.prepared, storage, checkpoints)
    reports = []
    again = train_local(config, prepared.prepared, storage, checkpoints, reports.append)
    assert weights_of(again) == weights_of(first) and again.history == first.history
    assert reports == first.history[-1:], "who waits for the last report gets it again: it may have been lost"


def test_runs_repeat_exactly_and_follow_their_seed(prepared, storage):
    first, again, other = (
        weights_of(train_local(small(prepared, train__seed=seed), prepared.prepared, storage)) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_a_checkpoint_of_another_experiment_is_refused(prepared):
    one, other = small(prepared), small(prepared, train__seed=5)
    state = checkpoint.state(StudentRun(one, prepared.prepared.student))
    with pytest.raises(ValueError, match=f"belongs to experiment {one.fingerprint()}, this is {other.fingerprint()}"):
        checkpoint.load_state(StudentRun(other, prepared.prepared.student), state)


def test_a_checkpoint_loads_as_plain_data_and_has_all_it_needs(prepared, storage):
    run = train_local(small(prepared), prepared.prepared, storage)
    files = checkpoint.files_of(run)
    state = torch.load(io.BytesIO(files[STATE_FILE]), weights_only=True)
    assert {"model", "optimizer", "schedule", "rng", "step", "position", "experiment"} <= set(state)
    assert state["step"] == 12
    weights = safetensors.torch.load(files[WEIGHTS_FILE])
    assert weights.keys() == state["model"].keys()
    assert all(torch.equal(weights[name], state["model"][name]) for name in weights)


def test_a_diverging_run_is_stopped_with_the_reason(prepared, storage):
    config = small(prepared, explorer__type="none", train__learning_rate=1e30, train__optimizer="sgd")
    with pytest.raises(Diverged, match=r"not finite by step \d+; lower train\.learning_rate"):
        train_local(config, prepared.prepared, storage)


def spied_splits(monkeypatch) -> list[tuple[int, str]]:
    seen, scores, steps = [], Evaluation.scores, []
    train_step = StudentRun.train_step

    def counted(self, reader):
        train_step(self, reader)
        steps.append(self.step)

    def spy(self, split):
        seen.append((steps[-1], split))
        return scores(self, split)

    monkeypatch.setattr(StudentRun, "train_step", counted)
    monkeypatch.setattr(Evaluation, "scores", spy)
    return seen


def test_validation_is_measured_at_each_report_and_test_once_at_the_end(prepared, digits, storage, monkeypatch):
    seen = spied_splits(monkeypatch)
    reports = []
    train_local(small(prepared, train__eval_every=5), prepared.prepared, storage, report=reports.append)
    assert seen == [(5, "validation"), (10, "validation"), (12, "validation"), (12, "test")]
    assert [row["step"] for row in reports] == [5, 10, 12]
    metrics = prepared.experiment.task.metrics_of(digits)
    assert all(metric in row for row in reports for metric in metrics)
    assert [f"test_{metrics[0]}" in row for row in reports] == [False, False, True]
    assert all({"train_loss", "train_ce", "train_kl_real", "train_kl_synthetic"} <= row.keys() for row in reports)


def test_a_run_that_diverges_never_sees_the_test_split(prepared, storage, monkeypatch):
    seen = spied_splits(monkeypatch)
    config = small(prepared, explorer__type="none", train__learning_rate=1e30, train__optimizer="sgd")
    with pytest.raises(Diverged):
        train_local(config, prepared.prepared, storage)
    assert "test" not in {split for _, split in seen}


@pytest.mark.parametrize("explorer, lag", [("gradient", True), ("random", False), ("interpolation", False)])
def test_lag_is_reported_where_the_explorer_looks_at_the_student(prepared, storage, explorer, lag):
    history = train_local(small(prepared, explorer__type=explorer), prepared.prepared, storage).history
    assert ("lag_max" in history[-1]) is lag
    assert "wait_share" in history[-1]
    if lag:
        rows_per_step = 16 * 0.5
        assert 0 <= history[-1]["lag_p50"] <= history[-1]["lag_max"] <= 24 / rows_per_step


def test_without_synthetic_rows_there_is_no_stream_to_report_on(prepared, storage):
    for overrides in ({"explorer__type": "none"}, {"train__synthetic_ratio": 0.0}):
        history = train_local(small(prepared, **overrides), prepared.prepared, storage).history
        assert not {"wait_share", "lag_max"} & history[-1].keys()
        assert history[-1]["train_kl_synthetic"] == 0


def test_training_teaches(prepared, storage):
    config = small(prepared, train__steps=120, train__eval_every=120, explorer__type="random", train__batch_size=32)
    untrained = StudentRun(config, prepared.prepared.student).evaluation.metrics("validation")["balanced_accuracy"]
    trained = train_local(config, prepared.prepared, storage).history[-1]["balanced_accuracy"]
    assert trained > max(40, untrained + 20)


def test_scores_do_not_depend_on_the_rows_beside_them_and_training_goes_on(prepared):
    run = StudentRun(small(prepared), prepared.prepared.student)
    scores = run.evaluation.scores("validation")
    assert run.student.training
    with torch.no_grad():
        first = run.student.eval().scores(
            run.experiment.task.inputs(run.data.tables["validation"].slice(0, 1), (1, 8, 8))
        )
    np.testing.assert_allclose(scores[:1], first, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_learning_rate_warms_up_and_falls_to_zero(prepared, optimizer):
    train = TrainConfig(steps=40, warmup=0.1, learning_rate=0.2, optimizer=optimizer)
    student = StudentRun(small(prepared), prepared.prepared.student).student
    optimizer, schedule = make_optimizer(student, train)
    rates = []
    for _ in range(train.steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    warm = [0.2 * i / 5 for i in (1, 2, 3, 4)]
    cosine = [0.1 * (1 + math.cos(math.pi * i / 36)) for i in range(36)]
    np.testing.assert_allclose(rates, warm + cosine, rtol=1e-9)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_the_settings_of_the_optimizer_reach_it(prepared):
    student = StudentRun(small(prepared), prepared.prepared.student).student
    adamw, _ = make_optimizer(student, TrainConfig(weight_decay=0.25))
    assert isinstance(adamw, torch.optim.AdamW) and adamw.param_groups[0]["weight_decay"] == 0.25
    sgd, _ = make_optimizer(student, TrainConfig(optimizer="sgd", momentum=0.5, weight_decay=0.125))
    group = sgd.param_groups[0]
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.5, True, 0.125)
    assert sum(p.numel() for p in group["params"]) == sum(p.numel() for p in student.parameters())


def test_the_memory_layout_changes_nothing_but_speed(prepared, storage):
    runs = [train_local(small(prepared, train__channels_last=on), prepared.prepared, storage) for on in (True, False)]
    layouts = [next(p for p in run.student.parameters() if p.ndim == 4 and p.shape[1] > 1) for run in runs]
    assert [p.is_contiguous(memory_format=torch.channels_last) for p in layouts] == [True, False]
    assert runs[0].history[-1]["train_loss"] == pytest.approx(runs[1].history[-1]["train_loss"], rel=1e-3)


@pytest.mark.slow
def test_a_compiled_student_trains_alike(prepared, storage):
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    runs = [train_local(small(prepared, train__compile=on), prepared.prepared, storage) for on in (True, False)]
    assert runs[0].history[-1]["train_loss"] == pytest.approx(runs[1].history[-1]["train_loss"], rel=1e-3)
    assert set(safetensors.torch.load(weights_of(runs[0]))) == set(safetensors.torch.load(weights_of(runs[1])))


def test_a_checkpoint_of_another_number_of_workers_is_refused(prepared):
    config = small(prepared)
    state = checkpoint.state(StudentRun(config, prepared.prepared.student, 0, 2))
    with pytest.raises(ConfigError, match=r"begun with 2 worker\(s\), here it has 1"):
        checkpoint.load_state(StudentRun(config, prepared.prepared.student), state)
