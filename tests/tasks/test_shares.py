"""Intervals of percentages, against another library's and by hand."""

import pytest
from scipy.stats import binomtest

from tgt_ray.tasks.metrics.shares import above_chance, interval


@pytest.mark.parametrize(("right", "rows"), [(0, 5), (5, 5), (1, 20), (164, 200), (499, 512), (3, 4)])
def test_intervals_are_wilson_s(right, rows):
    expected = binomtest(right, rows).proportion_ci(0.95, "wilson")
    assert interval(100 * right / rows, rows) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-4)


def test_what_is_above_chance():
    assert above_chance(80, 50) == pytest.approx(60) and above_chance(100, 10) == 100
    assert above_chance(50, 50) == 0 > above_chance(40, 50) and above_chance(100, 100) == 0
