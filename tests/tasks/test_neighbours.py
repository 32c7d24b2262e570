"""Fidelity, diversity and doubt of made rows, against the definitions written out and on rows whose answer is known."""

import numpy as np
import pytest

from tgt_ray.tasks.metrics import neighbours


@pytest.fixture
def clouds():
    """Two classes, far from each other, with 40 rows each."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    return rng.normal(size=(80, 3)) + 20 * labels[:, None], labels


def test_they_are_what_the_papers_define():
    rng = np.random.default_rng(1)
    real, made = rng.normal(size=(30, 4)), 1.5 * rng.normal(size=(20, 4))
    balls = neighbours.inside(real, made, k=3)
    radius = [sorted(np.linalg.norm(real - each, axis=1))[3] for each in real]  # the first is the row itself
    expected = np.array([[np.linalg.norm(a - b) <= r for b in made] for a, r in zip(real, radius, strict=True)])
    assert (balls == expected).all() and 0 < expected.mean() < 1
    assert neighbours.precision(balls) == pytest.approx(100 * np.mean([column.any() for column in expected.T]))
    assert neighbours.density(balls, k=3) == pytest.approx(expected.sum() / (3 * 20))
    assert neighbours.coverage(balls, np.zeros(30)) == pytest.approx(100 * np.mean([row.any() for row in expected]))


def test_rows_of_one_class_cover_half_however_many_they_are(clouds):
    real, labels = clouds
    new = np.random.default_rng(2).normal(size=(80, 3))
    balls = neighbours.inside(real, new)
    assert neighbours.precision(balls) > 80 and neighbours.coverage(balls, labels) < 51
    few = real[:48], labels[:48]
    half = neighbours.coverage(neighbours.inside(few[0], few[0][:40]), few[1])
    assert half == pytest.approx(50, abs=1), "each class counts the same"


def test_rows_as_the_real_ones_are_faithful_and_cover_them_and_others_do_neither(clouds):
    real, labels = clouds
    alike = np.random.default_rng(3).normal(size=(80, 3)) + 20 * labels[:, None]
    balls, far = neighbours.inside(real, alike), neighbours.inside(real, alike + 100)
    assert neighbours.coverage(balls, labels) > 85 and 0.7 < neighbours.density(balls) < 1.3
    assert neighbours.coverage(far, labels) == neighbours.density(far) == neighbours.precision(far) == 0


def test_too_few_rows_have_no_balls():
    with pytest.raises(AssertionError, match="each real row needs k others"):
        neighbours.inside(np.zeros((5, 2)), np.zeros((1, 2)))


def test_distances_within_classes_and_between_them(clouds):
    within, between = neighbours.class_distances(*clouds)
    assert 1.5 < within < 3 and 33 < between < 36
    alone = neighbours.class_distances(np.eye(2), np.array([0, 1]))
    assert np.isnan(alone[0]) and alone[1] == pytest.approx(2**0.5)
    assert np.isnan(neighbours.class_distances(np.eye(2), np.array([0, 0]))[1])


def test_variety_counts_rows_that_have_nothing_in_common():
    assert neighbours.vendi(np.eye(6)) == pytest.approx(6)
    assert neighbours.vendi(np.ones((6, 3))) == pytest.approx(1)
    assert neighbours.vendi(np.repeat(np.eye(3), 4, axis=0)) == pytest.approx(3)


def test_doubt_is_a_share_of_the_largest():
    p = np.array([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    assert neighbours.doubt(p) == pytest.approx([100, 0, 50])
