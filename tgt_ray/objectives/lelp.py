"""LELP distils pseudo-subclasses that lie in the teacher's embeddings (arXiv 2409.20449), for tasks of few classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from tgt_ray.core.config import Seed, Temperature
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.signals.base import Signal
from tgt_ray.core.signals.of_labeler import EMBEDDING, LOGITS
from tgt_ray.objectives.base import Objective
from tgt_ray.objectives.embeddings import (
    CLASS_DIRECTIONS,
    MAX_DIRECTIONS,
    EmbeddingStatistics,
    head_rank,
    in_null_space,
)
from tgt_ray.objectives.facts import Facts, Fit

if TYPE_CHECKING:
    from tgt_ray.objectives.criteria.base import Criterion


class LELP(Objective):
    """Distils the teacher's classes, each split into S subclasses by its embedding (LELP, arXiv 2409.20449).

    The subclasses are linear projections of the embedding h. They are fitted once on the train rows: for each class c
    that the labeler predicts, the mean mu_c of h and the top S principal directions V_c of P h - P mu_c, with
    P = I - pinv(W) W for the labeler's head W. Then U_c = V_c Q with a random rotation Q.

    For any row, z_c = U_c^T (P h - P mu_c). The teacher's probabilities are p_{c,s} = p_c(T) softmax_s(z_c / beta),
    which sum over s to p_c(T). The student's head has a logit for each subclass. A class's score is the logsumexp of
    its S logits, q_c(T) = softmax_c(score / T), and q_{c,s} = q_c(T) softmax_s(logits of c).

    Real rows: (1 - alpha) CE(y, score) + alpha D. Synthetic rows: D. Each kind of row counts by its share of the batch.

    D = T^2 KL(p(T) || q(T)) + sum_c p_c(T) KL(softmax_s(z_c / beta) || softmax_s(logits of c)).

    Without T^2, D is KL(p || q) of the subclasses, by the chain rule. That is the paper's cross-entropy CE(p, q) less
    the teacher's entropy, which the student can't change. At S = 1 it is `distillation`. At T = 1, q is the softmax of
    all S C logits.

    The paper's alpha weighs the label, and is 0 in its experiments. Here it weighs the teacher as in `distillation`, so
    0 is training without a teacher. Our choices: T also softens the student's classes, and the subclasses of neither
    side, so that scores which match the teacher at T keep the order of its classes; T^2 on the part that T softens; all
    defaults; beta in units of the standard deviation of z.
    """

    type: Literal["lelp"] = "lelp"

    alpha: float = Field(1.0, ge=0, le=1, description="share of the teacher's term on real rows; 0 is one-hot training")
    temperature: Temperature = Field(4.0, description="T, softens the classes of teacher and student; higher is softer")
    scale_by_t2: bool = Field(
        True, description="multiply the term between classes by T^2, so that T doesn't change the size of its gradient"
    )
    subclasses: int = Field(
        2,
        ge=1,
        le=MAX_DIRECTIONS,
        description="S, subclasses of each class: fewer than the rows of the rarest class, and at most the dimensions"
        " of the null space of the labeler's head",
    )
    beta: Temperature = Field(
        1.0,
        description="temperature of the teacher's subclasses, in standard deviations of z (over the train rows, each in"
        " its own class); higher is softer",
    )
    null_space: bool = Field(
        True, description="use only the part of the embedding that the labeler's head ignores; false: all of it (P = I)"
    )
    directions: Literal["principal", "random"] = Field(
        "principal", description="principal directions of each class, or, as a control, random orthonormal ones"
    )
    rotate: bool = Field(
        True, description="turn each class's directions by a random rotation, which evens out their variances"
    )
    seed: Seed = Field(0, description="seed of rotations and random directions")

    @property
    def signals(self) -> tuple[Signal, ...]:
        return LOGITS, EMBEDDING

    @property
    def fits(self) -> tuple[Fit, ...]:
        return (CLASS_DIRECTIONS,)

    def check(self, facts: Facts) -> None:
        """Raise ConfigError where a class has too few dimensions for S subclasses.

        This holds for random directions as well: a control takes only what it is compared with takes (our choice).
        """
        statistics: EmbeddingStatistics = facts.fits[CLASS_DIRECTIONS.name]
        rank_K = (statistics.in_null_space if self.null_space else statistics.everywhere).rank_K
        scarcest = int(rank_K.argmin())
        most = int(rank_K[scarcest])
        if self.subclasses <= most:
            return
        name = f"class {scarcest}" + (f" ('{facts.class_names[scarcest]}')" if facts.class_names else "")
        rows, (_, dim) = int(statistics.count_K[scarcest]), statistics.head_KD.shape
        free = dim - head_rank(statistics.head_KD) if self.null_space else dim
        if rows - 1 <= most:
            why = f"{name} has {rows} row(s) in the labeler's predictions on train, and needs more rows than subclasses"
        elif free <= most:
            why = (
                f"the null space of the labeler's head has {free} of {dim} dimensions; set objective.null_space: false"
                " for more"
            )
        else:
            why = f"the embeddings of {name} span only {most} dimensions"
        fits = f"at most {most} fit" if most else "none fits, so use objective.type distillation"
        raise ConfigError(f"objective.subclasses: {self.subclasses}, but {fits}: {why}")

    def build(self, dim: int, facts: Facts) -> Criterion:
        from torch import nn

        from tgt_ray.objectives.criteria.lelp import SubclassCriterion, Subclasses

        targets = None
        statistics: EmbeddingStatistics | None = facts.fits.get(CLASS_DIRECTIONS.name)
        if statistics is not None:
            self.check(facts)
            directions_KSD = self.directions_of(statistics)
            unit = self.beta * deviation(statistics, np.asarray(facts.columns["embedding"]), directions_KSD)
            targets = Subclasses(directions_KSD / unit, statistics.mean_KD)
        head = nn.Linear(dim, facts.num_classes * self.subclasses)
        return SubclassCriterion(head, facts.num_classes, targets, self.alpha, self.temperature, self.scale_by_t2)

    def directions_of(self, statistics: EmbeddingStatistics) -> np.ndarray:
        """Return U_c of each class, (K, S, D) float64, as orthonormal rows.

        In the null space U_c^T P = U_c^T, so z can be computed without P.
        """
        principal = statistics.in_null_space if self.null_space else statistics.everywhere
        out = []
        for number, of_class in enumerate(principal.directions_KRD):
            rng = np.random.default_rng([self.seed, number])
            rows = of_class[: self.subclasses].astype(np.float64)
            if self.directions == "random":
                rows = rng.standard_normal(rows.shape)
                rows = np.linalg.qr((in_null_space(rows, statistics.head_KD) if self.null_space else rows).T)[0].T
            out.append(random_rotation(self.subclasses, rng) @ rows if self.rotate else rows)
        return np.stack(out)


def random_rotation(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw an orthonormal matrix uniformly (Mezzadri 2007, arXiv math-ph/0609050)."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return q * np.sign(np.diag(r))


def deviation(statistics: EmbeddingStatistics, embedding_ND: np.ndarray, directions_KSD: np.ndarray) -> float:
    """Return the standard deviation of z over s and the train rows (our choice).

    Each row counts in its own class, where z has mean 0.
    """
    squares = 0.0
    for number, of_class in enumerate(directions_KSD):
        rows = embedding_ND[statistics.class_N == number] - statistics.mean_KD[number]
        squares += float(np.square(rows @ of_class.T).sum())
    return float(np.sqrt(squares / (len(statistics.class_N) * directions_KSD.shape[1])))
