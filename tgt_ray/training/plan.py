"""Which rows a step sees: a function of (seed, step) alone, so that a run resumes exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tgt_ray.experiment.experiment import Experiment


@dataclass(frozen=True)
class Plan:
    """Which rows each step of one worker takes. Counts are a function of the step, so nothing needs remembering."""

    batch_size: int  # of this worker
    ratio: float
    rank: int
    world_size: int
    num_real: int
    seed: int
    #: From which step on, how likely each of the real rows is drawn; None: each once an epoch.
    phases: tuple[tuple[int, np.ndarray | None], ...] = ((0, None),)

    def synthetic_before(self, step: int) -> int:
        """Synthetic rows that this worker has used before `step`: rounding errors never add up beyond one row."""
        # The small number keeps 0.3 * 10 * step from falling below the whole number it stands for.
        return math.floor(step * self.batch_size * self.ratio + 1e-9)

    def synthetic_count(self, step: int) -> int:
        return self.synthetic_before(step + 1) - self.synthetic_before(step)

    def real_indices(self, step: int) -> np.ndarray:
        """Rows of the train split: the workers' parts of an endless sequence of seeded permutations."""
        count = self.batch_size - self.synthetic_count(step)
        first = (step * self.batch_size - self.synthetic_before(step)) * self.world_size + self.rank * count
        positions = np.arange(first, first + count)
        out = np.empty(count, np.int64)
        for epoch in np.unique(positions // self.num_real):
            here = positions // self.num_real == epoch
            out[here] = self._drawn(int(epoch), step)[positions[here] % self.num_real]
        return out

    def _drawn(self, epoch: int, step: int) -> np.ndarray:
        """The rows of an epoch in their order; where the phase has probabilities, as many with replacement."""
        cached = self.__dict__.setdefault("_cache", {})
        phase = max(index for index, (first, _) in enumerate(self.phases) if step >= first)
        if (epoch, phase) not in cached:
            if len(cached) > 2:
                cached.clear()
            rng, p = np.random.default_rng([self.seed, epoch]), self.phases[phase][1]
            cached[epoch, phase] = (
                rng.permutation(self.num_real) if p is None else rng.choice(self.num_real, self.num_real, p=p)
            )
        return cached[epoch, phase]


def row_probabilities(sampling: str, labels_N: np.ndarray) -> np.ndarray | None:
    """How likely each row is drawn so that classes come by n_c^q: q = 1 natural, 1/2 square_root, 0 balanced; None: natural."""
    if sampling == "natural":
        return None
    counts = np.bincount(labels_N)[labels_N].astype(float)
    weights = counts ** (-0.5 if sampling == "square_root" else -1.0)
    return weights / weights.sum()


def plan_of(experiment: Experiment, labels_N: np.ndarray, rank: int = 0, world_size: int = 1) -> Plan:
    """One worker's part of an experiment. labels_N: of the train rows."""
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
