"""Long-tailed subsampling with an exponential profile, as the long-tail literature makes its CIFAR-LT sets."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from tgt_ray.config import Config, ConfigError


class LongTail(Config):
    """Class c of K keeps round(head * imbalance^(-c / (K - 1))) rows."""

    head: int = Field(ge=1, description="rows of the most frequent class, class 0")
    imbalance: float = Field(ge=1, description="rows of the first class over rows of the last")
    seed: int = Field(0, ge=0, description="which rows are kept")

    def counts(self, num_classes: int) -> np.ndarray:
        """(K,) rows to keep of each class."""
        exponent = np.arange(num_classes) / max(1, num_classes - 1)
        return np.rint(self.head * self.imbalance**-exponent).astype(int)

    def subsample(self, labels_N: np.ndarray, num_classes: int) -> np.ndarray:
        """Sorted indices of the kept rows. ConfigError where a class would be empty or has too few rows."""
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
