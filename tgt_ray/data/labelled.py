"""Few labels: a seeded sub-sample of rows keeps its labels, as in the low-data setting of TGT (arXiv 2208.06825)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from tgt_ray.config import Config, ConfigError

#: What train rows without labels are: anchors of explorers beside the labelled rows, or nothing.
Unlabelled = Literal["ignore", "anchors"]


class Labelled(Config):
    """Which rows of the train split are labelled."""

    rows: int = Field(2500, ge=1, description="rows that keep their labels")
    seed: int = Field(0, ge=0, description="which rows these are")
    stratified: bool = Field(
        True,
        description="one row of each class, the others in the classes' proportions; false: drawn from all rows alike",
    )

    def choose(self, labels_N: np.ndarray, num_classes: int) -> np.ndarray:
        """Sorted indices of the labelled rows. ConfigError where there are too few rows, or a class would have none.

        labels_N: each class has at least one row.
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
                    f"task.labelled: {self.rows} rows drawn with seed {self.seed} leave class {lacking[0]} without any; give more"
                    " rows, another seed, or stratified: true"
                )
            return chosen
        counts = self.counts(np.bincount(labels_N, minlength=num_classes))
        parts = [rng.permutation(np.flatnonzero(labels_N == c))[:want] for c, want in enumerate(counts)]
        return np.sort(np.concatenate(parts))

    def counts(self, there_K: np.ndarray) -> np.ndarray:
        """(K,) labelled rows of each class, where it has there_K >= 1: they add up to `rows`."""
        more, rest = self.rows - len(there_K), there_K - 1
        quota = more * rest / max(1, rest.sum())
        counts = np.floor(quota).astype(int)
        # The largest remainders are rounded up; a quota is no more than the class has, so its next whole number isn't either.
        up = np.argsort(counts - quota, kind="stable")[: more - counts.sum()]
        counts[up] += 1
        out: np.ndarray = 1 + counts
        return out
