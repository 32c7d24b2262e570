"""Defines where a key is searched; doesn't import ray."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, model_validator

from tgt_ray.core.config import Config


class Distribution(Config):
    """Where one key of the space is searched; give exactly one of these settings."""

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

    @model_validator(mode="after")
    def _one_kind(self) -> Distribution:
        kinds = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"give exactly one of uniform, loguniform, integers, choice (got {', '.join(kinds) or 'none'})"
            )
        if kinds[0] != "choice":
            low, high = getattr(self, kinds[0])
            if not low < high:
                raise ValueError(f"{kinds[0]}: the low end {low} is not below the high end {high}")
            if kinds[0] == "loguniform" and low <= 0:
                raise ValueError(f"loguniform: the low end {low} must be above 0")
        return self

    def ends(self) -> list[Any]:
        """Return both ends of the range, or every choice; where these are legal, all values are."""
        return list(self.choice or self.uniform or self.loguniform or self.integers or ())

    def probes(self) -> list[Any]:
        """Return values to check before a sweep starts: the ends and one between them, or every choice."""
        if self.choice is not None:
            return list(self.choice)
        low, high = self.ends()
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
        """Return the distribution as Optuna's."""
        from optuna import distributions

        if self.choice is not None:
            return distributions.CategoricalDistribution(self.choice)
        if self.uniform is not None:
            return distributions.FloatDistribution(*self.uniform)
        if self.loguniform is not None:
            return distributions.FloatDistribution(*self.loguniform, log=True)
        assert self.integers is not None
        return distributions.IntDistribution(*self.integers)


def lookup(data: dict[str, Any], key: str) -> Any:
    """Return the value at a dotted key of nested mappings; None where there is none."""
    value: Any = data
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
