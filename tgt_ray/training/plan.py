"""Plan which rows a step sees. They depend on (seed, step) alone, so that a run resumes exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tgt_ray.experiment.experiment import Experiment


@dataclass(frozen=True)
class Plan:
    """Plan which rows each step of one worker takes.

    Counts depend on the step alone, so a run needs no state to resume.

    - batch_size: rows of this worker's part of a batch
    - ratio: share of synthetic rows, in [0, 1]
    - num_real: rows of the train split
    - phases: pairs of the first step of a phase and the chance (num_real,) that each real row is drawn;
      None instead of chances: each row is drawn once an epoch
    """

    batch_size: int
    ratio: float
    rank: int
    world_size: int
    num_real: int
    seed: int
    phases: tuple[tuple[int, np.ndarray | None], ...] = ((0, None),)

    def synthetic_before(self, step: int) -> int:
        """Count the synthetic rows that this worker used before `step`; rounding never adds up to more than one row."""
        # The small term keeps products such as 0.3 * 10 * step from falling just below a whole number.
        return math.floor(step * self.batch_size * self.ratio + 1e-9)

    def synthetic_count(self, step: int) -> int:
        """Count the synthetic rows of `step` on this worker."""
        return self.synthetic_before(step + 1) - self.synthetic_before(step)

    def real_indices(self, step: int) -> np.ndarray:
        """Choose the step's rows of the train split for this worker.

        All workers together walk through an endless sequence of seeded permutations, or of seeded draws.

        - returns: (n,) int64 places in the train split
        """
        positions = self._positions(step)
        out = np.empty(len(positions), np.int64)
        for epoch in np.unique(positions // self.num_real):
            here = positions // self.num_real == epoch
            out[here] = self._drawn(int(epoch), step)[positions[here] % self.num_real]
        return out

    def real_versions(self, step: int, versions: int) -> np.ndarray:
        """Choose which of its versions each of the step's real rows has, (n,).

        A row has the next one in each epoch. Where rows are drawn with replacement, a row may come several times in an
        epoch, and its place in the epoch counts as well.
        """
        epochs, places = np.divmod(self._positions(step), self.num_real)
        return (epochs + (0 if self.phases[self._phase(step)][1] is None else places)) % versions

    def _positions(self, step: int) -> np.ndarray:
        """Number the step's real rows of this worker among those of all steps and workers, (n,)."""
        count = self.batch_size - self.synthetic_count(step)
        first = (step * self.batch_size - self.synthetic_before(step)) * self.world_size + self.rank * count
        return np.arange(first, first + count)

    def _phase(self, step: int) -> int:
        return max(index for index, (first, _) in enumerate(self.phases) if step >= first)

    def _drawn(self, epoch: int, step: int) -> np.ndarray:
        """Order the rows of an epoch; where the phase has probabilities, draw as many with replacement."""
        cached = self.__dict__.setdefault("_cache", {})
        phase = self._phase(step)
        if (epoch, phase) not in cached:
            if len(cached) > 2:
                cached.clear()
            rng, p = np.random.default_rng([self.seed, epoch]), self.phases[phase][1]
            cached[epoch, phase] = (
                rng.permutation(self.num_real) if p is None else rng.choice(self.num_real, self.num_real, p=p)
            )
        return cached[epoch, phase]


def row_probabilities(sampling: str, labels_N: np.ndarray) -> np.ndarray | None:
    """Compute how likely each row is drawn, so that a class of n_c rows comes in proportion to n_c^q.

    - sampling: natural (q = 1), square_root (q = 1/2) or balanced (q = 0)
    - returns: (N,) probabilities; None for natural
    """
    if sampling == "natural":
        return None
    counts = np.bincount(labels_N)[labels_N].astype(float)
    weights = counts ** (-0.5 if sampling == "square_root" else -1.0)
    return weights / weights.sum()


def plan_of(experiment: Experiment, labels_N: np.ndarray, rank: int = 0, world_size: int = 1) -> Plan:
    """Make one worker's plan of an experiment.

    - labels_N: (N,) labels of the train rows
    """
    train = experiment.train
    phases = [(0, row_probabilities(train.sampling, labels_N))]
    if train.second_phase is not None:
        phases.append((train.first_phase_steps, row_probabilities(train.second_phase.sampling, labels_N)))
    return Plan(
        train.batch_size // world_size,
        experiment.synthetic_ratio,
        rank,
        world_size,
        len(labels_N),
        train.seed,
        tuple(phases),
    )
