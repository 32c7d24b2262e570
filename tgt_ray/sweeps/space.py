"""Defines where a key is searched; doesn't import ray."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, model_validator

from tgt_ray.core.config import Config

#: The settings of which a distribution has exactly one.
KINDS = ("uniform", "loguniform", "integers", "choice")


class Distribution(Config):
    """Where one key of the space is searched; give exactly one of uniform, loguniform, integers and choice."""

    uniform: tuple[float, float] | None = Field(
        None, description="[low, high]: numbers between low and high, on a linear scale; low is below high"
    )
    loguniform: tuple[float, float] | None = Field(
        None,
        description="[low, high]: numbers between low and high, on a logarithmic scale, for keys where ratios matter;"
        " low is above 0 and below high",
    )
    integers: tuple[int, int] | None = Field(
        None, description="[low, high]: integers from low to high, both included, on a linear scale; low is below high"
    )
    choice: list[Any] | None = Field(
        None,
        description="the values to choose from, of any kind that the key takes; grid searches only choices",
        min_length=1,
    )
    levels: int | None = Field(
        None,
        ge=2,
        le=2**16,
        description="how many values of a range are tried, both ends among them, at equal distances on its own scale;"
        " fewer: more trials share the same value, and with it their synthetic rows; absent: all values",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Distribution:
        kinds = [name for name in KINDS if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(f"give exactly one of {', '.join(KINDS)} (got {', '.join(kinds) or 'none'})")
        if kinds[0] != "choice":
            low, high = getattr(self, kinds[0])
            if not low < high:
                raise ValueError(f"{kinds[0]}: the low end {low} is not below the high end {high}")
            if kinds[0] == "loguniform" and low <= 0:
                raise ValueError(f"loguniform: the low end {low} must be above 0")
        if self.levels is not None and self.choice is not None:
            raise ValueError(f"levels {self.levels}: a choice has its values already; levels are for ranges")
        if self.levels is not None and self.integers is not None and self.levels > high - low + 1:
            raise ValueError(f"levels {self.levels}: from {low} to {high} there are only {high - low + 1} integers")
        return self

    def ends(self) -> list[Any]:
        """Return both ends of the range, or every choice; where these are legal, all values are."""
        return list(self.choice or self.uniform or self.loguniform or self.integers or ())

    def all_values(self) -> list[Any] | None:
        """Return every value that is tried, in order; None where they are not counted."""
        if self.choice is not None:
            return list(self.choice)
        return None if self.levels is None else [self.value(level) for level in range(self.levels)]

    def value(self, level: int) -> Any:
        """Return the value of a level; it has 6 digits at most, so that it is the same wherever it is written."""
        assert self.levels is not None
        (low, high), share = self.ends(), level / (self.levels - 1)
        found = low * (high / low) ** share if self.loguniform is not None else low + (high - low) * share
        if self.integers is not None:
            return round(found)
        return float(f"{min(max(found, low), high):.6g}") if 0 < level < self.levels - 1 else (high if level else low)

    def level(self, value: float) -> int:
        """Return the level that is nearest to a value on the distribution's own scale."""
        assert self.levels is not None
        low, high = self.ends()
        if self.loguniform is not None:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return round((value - low) / (high - low) * (self.levels - 1))

    def as_tried(self, value: Any) -> Any:
        """Return the value that is tried in the place of one that the distribution contains: its level's."""
        return value if self.levels is None else self.value(self.level(value))

    def probes(self) -> list[Any]:
        """Return values to check before a sweep starts: the ends and one between them, or every choice."""
        if self.choice is not None:
            return list(self.choice)
        low, high = self.ends()
        if self.levels is not None:
            return [low, high, self.value(self.levels // 2)]
        if self.integers is not None:
            return [low, high, min(low + 1, high)]
        # Not the middle, which may happen to be whole: a key of integers takes no range of other numbers.
        return [low, high, low + (high - low) / math.pi if self.uniform else low * (high / low) ** (1 / math.pi)]

    def contains(self, value: Any) -> bool:
        if self.choice is not None:
            return value in self.choice
        low, high = self.ends()
        return isinstance(value, int | float) and low <= value <= high

    def to_optuna(self) -> Any:
        """Return the distribution as Optuna's; of levels it has the numbers, since it has no steps on a log scale."""
        from optuna import distributions

        if self.levels is not None:
            return distributions.IntDistribution(0, self.levels - 1)
        if self.choice is not None:
            return distributions.CategoricalDistribution(self.choice)
        if self.uniform is not None:
            return distributions.FloatDistribution(*self.uniform)
        if self.loguniform is not None:
            return distributions.FloatDistribution(*self.loguniform, log=True)
        assert self.integers is not None
        return distributions.IntDistribution(*self.integers)


def to_optuna(space: dict[str, Distribution], values: dict[str, Any]) -> dict[str, Any]:
    """Return a trial's values as Optuna knows them: numbers of levels where keys have these."""
    return {key: value if space[key].levels is None else space[key].level(value) for key, value in values.items()}


def from_optuna(space: dict[str, Distribution], values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that Optuna has chosen."""
    return {key: value if space[key].levels is None else space[key].value(value) for key, value in values.items()}


def values_of_levels(space: dict[str, Distribution], values: dict[str, Any]) -> dict[str, Any]:
    """Return those of a trial's values of which Optuna has the number of a level."""
    return {key: value for key, value in values.items() if space[key].levels is not None}


def lookup(data: dict[str, Any], key: str) -> Any:
    """Return the value at a dotted key of nested mappings; None where there is none."""
    value: Any = data
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
