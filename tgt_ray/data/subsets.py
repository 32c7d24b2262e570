"""Chooses which rows of the train split a student gets, and which of them keep their labels."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from tgt_ray.core.config import Config, Seed
from tgt_ray.core.errors import ConfigError

#: What train rows without labels are for: explorers start from them as from labelled rows, or they are left out.
Unlabelled = Literal["ignore", "anchors"]


class Labelled(Config):
    """The rows of the train split that keep their labels."""

    rows: int = Field(2500, ge=1, description="how many rows keep their labels")
    seed: Seed = Field(0, description="random seed of the choice of these rows")
    stratified: bool = Field(
        True,
        description="true: one row of each class, the others in the classes' proportions; false: drawn from all rows"
        " with equal chance",
    )

    def choose(self, labels_N: np.ndarray, num_classes: int) -> np.ndarray:
        """Return the sorted indices of the labelled rows.

        - labels_N: (N,) classes; each class has at least one row
        - raises ConfigError: where there are too few rows, or a class would have none
        """
        if self.rows > len(labels_N):
            raise ConfigError(
                f"task.labelled.rows: {self.rows} is more than the {len(labels_N)} rows with labels of the train split"
            )
        if self.rows < num_classes:
            raise ConfigError(
                f"task.labelled.rows: {self.rows} is less than the {num_classes} classes, each of which needs a row"
            )
        rng = np.random.default_rng(self.seed)
        if not self.stratified:
            chosen = np.sort(rng.permutation(len(labels_N))[: self.rows])
            lacking = np.flatnonzero(np.bincount(labels_N[chosen], minlength=num_classes) == 0)
            if len(lacking):
                raise ConfigError(
                    f"task.labelled: {self.rows} rows drawn with seed {self.seed} leave class {lacking[0]} without any;"
                    " give more rows, another seed, or stratified: true"
                )
            return chosen
        counts = self.counts(np.bincount(labels_N, minlength=num_classes))
        parts = [rng.permutation(np.flatnonzero(labels_N == c))[:want] for c, want in enumerate(counts)]
        return np.sort(np.concatenate(parts))

    def counts(self, there_K: np.ndarray) -> np.ndarray:
        """Return how many labelled rows each class gets, (K,); they add up to `rows`.

        - there_K: rows that each class has, at least 1
        """
        more, rest = self.rows - len(there_K), there_K - 1
        quota = more * rest / max(1, rest.sum())
        counts = np.floor(quota).astype(int)
        # The largest remainders are rounded up. A quota is at most what the class has, and so is its next whole number.
        up = np.argsort(counts - quota, kind="stable")[: more - counts.sum()]
        counts[up] += 1
        out: np.ndarray = 1 + counts
        return out


class LongTail(Config):
    """An exponential long tail: class c of K keeps round(head * imbalance^(-c / (K - 1))) rows."""

    head: int = Field(ge=1, description="rows of the most frequent class, class 0")
    imbalance: float = Field(
        ge=1, description="rows of the first class divided by rows of the last; 1: balanced, higher: a longer tail"
    )
    seed: Seed = Field(0, description="random seed of the choice of the rows that are kept")

    def counts(self, num_classes: int) -> np.ndarray:
        """Return how many rows to keep of each class, (K,)."""
        exponent = np.arange(num_classes) / max(1, num_classes - 1)
        return np.rint(self.head * self.imbalance**-exponent).astype(int)

    def subsample(self, labels_N: np.ndarray, num_classes: int) -> np.ndarray:
        """Return the sorted indices of the kept rows.

        - labels_N: (N,) classes
        - raises ConfigError: where a class would be empty or has too few rows
        """
        rng = np.random.default_rng(self.seed)
        kept = []
        for c, want in enumerate(self.counts(num_classes)):
            rows = np.flatnonzero(labels_N == c)
            if want == 0:
                raise ConfigError(
                    f"task.long_tail: class {c} is left empty by head {self.head} and imbalance {self.imbalance:g};"
                    f" imbalance must be below {2 * self.head}"
                )
            if want > len(rows):
                raise ConfigError(
                    f"task.long_tail: class {c} should keep {want} rows, the train split has {len(rows)}; lower head"
                )
            kept.append(rng.permutation(rows)[:want])
        return np.sort(np.concatenate(kept))


class HeldForCalibration(Config):
    """The validation rows that conformal weights are calibrated on, in proportion to classes.

    No model is selected by them. A row that train has as well, or that validation has twice, is not among them, and of
    each class one row stays for selection.
    """

    fraction: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="share of the validation rows; higher: the quantile is more exact, the selection less",
    )
    seed: Seed = Field(0, description="random seed of the choice of these rows")


class LabelledQueries(Config):
    """The training queries that keep their answers."""

    rows: int = Field(200, ge=1, description="how many queries keep their answers")
    seed: Seed = Field(0, description="random seed of the choice of these queries")

    def choose(self, there: int) -> np.ndarray:
        """Return the sorted indices of these queries.

        - there: how many queries the train split has
        - raises ConfigError: where these are too few
        """
        if self.rows > there:
            raise ConfigError(f"task.labelled.rows: {self.rows} is more than the {there} queries of the train split")
        return np.sort(np.random.default_rng(self.seed).permutation(there)[: self.rows])
