"""Which rows a step takes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgt_ray.training.plan import Plan, row_probabilities

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


COUNTS = np.array([100, 40, 10, 4])


@pytest.mark.parametrize(("sampling", "power"), [("balanced", 0.0), ("square_root", 0.5)])
def test_classes_come_as_often_as_the_sampling_says(sampling, power):
    labels = np.repeat(np.arange(4), COUNTS)
    plan = Plan(50, 0.0, 0, 1, len(labels), 3, ((0, row_probabilities(sampling, labels)),))
    drawn = np.concatenate([plan.real_indices(step) for step in range(400)])
    shares = np.bincount(labels[drawn]) / len(drawn)
    np.testing.assert_allclose(shares, COUNTS**power / (COUNTS**power).sum(), atol=0.015)
    np.testing.assert_array_equal(plan.real_indices(7), plan.real_indices(7))


def test_natural_sampling_takes_each_row_once_an_epoch():
    assert row_probabilities("natural", np.array([0, 0, 1])) is None
    plan = Plan(10, 0.0, 0, 1, 100, 3)
    assert sorted(np.concatenate([plan.real_indices(step) for step in range(10)])) == list(range(100))


def test_the_second_phase_draws_its_own_way():
    labels = np.repeat(np.arange(4), COUNTS)
    plan = Plan(50, 0.0, 0, 1, len(labels), 0, ((0, None), (200, row_probabilities("balanced", labels))))
    early = np.bincount(labels[np.concatenate([plan.real_indices(step) for step in range(200)])])
    late = np.bincount(labels[np.concatenate([plan.real_indices(step) for step in range(200, 400)])])
    np.testing.assert_allclose(early / early.sum(), COUNTS / COUNTS.sum(), atol=0.01)
    np.testing.assert_allclose(late / late.sum(), 0.25, atol=0.02)
