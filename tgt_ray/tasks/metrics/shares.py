"""Says how exact a measured percentage is, and how far it lies above chance."""

from __future__ import annotations

import math

#: Standard normal quantile of a two-sided interval of 95 %.
Z = 1.959964


def interval(percent: float, rows: int) -> tuple[float, float]:
    """Compute the 95 % interval of a percentage (Wilson 1927), which holds for few rows and near 0 and 100 as well.

    - rows: the number of rows that the percentage was measured on
    - returns: its ends, in percent
    """
    p, extra = percent / 100, Z * Z / rows
    middle = (p + extra / 2) / (1 + extra)
    half = Z / (1 + extra) * math.sqrt(p * (1 - p) / rows + extra / (4 * rows))
    return max(0.0, 100 * (middle - half)), min(100.0, 100 * (middle + half))


def above_chance(percent: float, chance: float) -> float:
    """Correct a percentage for chance, as Cohen's kappa does: 0 is chance, 100 is all; below 0 is worse than chance.

    - chance: percent that is reached by always naming the largest class
    """
    return 100 * (percent - chance) / (100 - chance) if chance < 100 else 0.0
