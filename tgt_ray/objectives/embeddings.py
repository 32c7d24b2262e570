"""Floor 1: the labeler's embeddings of the train rows, and what follows from them class by class. Plain numpy, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tgt_ray.core.signals.base import Signal
from tgt_ray.core.signals.of_labeler import EMBEDDING, LOGITS
from tgt_ray.objectives.facts import Fit, Rows

#: Principal directions that are kept of a class, at the most (our choice).
MAX_DIRECTIONS = 64


@dataclass(frozen=True)
class Principal:
    """Principal directions of each class's embeddings.

    rank_K: how many dimensions the class's rows spread over, numerically
    directions_KRD: orthonormal, that of the largest variance first; R is the smallest rank of a class, at most MAX_DIRECTIONS, since a
        subspace of S directions needs them of every class
    """

    rank_K: np.ndarray
    directions_KRD: np.ndarray


@dataclass(frozen=True)
class EmbeddingStatistics:
    """Statistics of the labeler's embeddings of N train rows, by K classes. A row's class here is the labeler's first one.

    head_KD: the weight W of the labeler's head, whose input the embeddings are
    class_N: of each row, in the train table's order
    count_K: rows of each class
    mean_KD: their mean embedding, 0 where there are none
    everywhere: of the embeddings as they are
    in_null_space: of their parts that W doesn't see
    """

    head_KD: np.ndarray
    class_N: np.ndarray
    count_K: np.ndarray
    mean_KD: np.ndarray
    everywhere: Principal
    in_null_space: Principal

    def arrays(self) -> dict[str, np.ndarray]:
        """As they are stored."""
        out = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        for name, principal in (("everywhere", self.everywhere), ("in_null_space", self.in_null_space)):
            out |= {f"{name}.{part}": value for part, value in vars(principal).items()}
        return {name: np.ascontiguousarray(value) for name, value in out.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> EmbeddingStatistics:
        plain = {name: value for name, value in arrays.items() if "." not in name}
        everywhere, without_head = (
            Principal(arrays[f"{name}.rank_K"], arrays[f"{name}.directions_KRD"])
            for name in ("everywhere", "in_null_space")
        )
        return cls(**plain, everywhere=everywhere, in_null_space=without_head)


@dataclass(frozen=True)
class ClassDirections(Fit):
    """Mean, count and principal directions of each class, as LELP asks for them (arXiv 2409.20449)."""

    name: ClassVar[str] = "class_directions"
    signals: ClassVar[tuple[Signal, ...]] = (LOGITS, EMBEDDING)

    def of(self, rows: Rows) -> dict[str, np.ndarray]:
        logits_NK, embedding_ND = (np.asarray(rows.columns[name]) for name in ("logits", "embedding"))
        return fit(embedding_ND, logits_NK.argmax(axis=1), rows.head()).arrays()

    def load(self, arrays: dict[str, np.ndarray]) -> EmbeddingStatistics:
        return EmbeddingStatistics.from_arrays(arrays)


CLASS_DIRECTIONS = ClassDirections()


def head_rank(head_KD: np.ndarray) -> int:
    """Numerical rank of a head's weight; D less this is the dimension of its null space."""
    return int(np.linalg.matrix_rank(head_KD.astype(np.float64)))


def in_null_space(rows_ND: np.ndarray, head_KD: np.ndarray) -> np.ndarray:
    """Each row h as (I - pinv(W) W) h, float64: what is left of it is orthogonal to the rows of W."""
    rows, head = rows_ND.astype(np.float64), head_KD.astype(np.float64)
    # What counts as zero is as for head_rank.
    inverse = np.linalg.pinv(head, rcond=max(head.shape) * np.finfo(np.float64).eps)
    return rows - (rows @ inverse) @ head


def fit(embedding_ND: np.ndarray, class_N: np.ndarray, head_KD: np.ndarray) -> EmbeddingStatistics:
    """Mean, count and principal directions of each class.

    embedding_ND: of each row
    class_N: the labeler's first class of each row
    head_KD: the weight of its head
    """
    num_classes, dim = head_KD.shape
    mean_KD = np.zeros((num_classes, dim))
    found: dict[bool, list[tuple[int, np.ndarray]]] = {False: [], True: []}
    for number in range(num_classes):
        rows = embedding_ND[class_N == number].astype(np.float64)
        if len(rows):
            mean_KD[number] = rows.mean(axis=0)
        # What float32 can't tell from nothing: each number of a row is known to a share of itself.
        least = float(np.finfo(np.float32).eps * np.linalg.norm(rows))
        # The projection is linear, so that the centred rows' is that of h~ - mu~.
        centred = rows - mean_KD[number]
        for null_space, of_class in found.items():
            of_class.append(_directions(in_null_space(centred, head_KD) if null_space else centred, least))
    everywhere, without_head = (
        Principal(
            np.array([rank for rank, _ in of_class]),
            np.stack([rows[: min(len(each) for _, each in of_class)] for _, rows in of_class]).astype(np.float32),
        )
        for of_class in found.values()
    )
    counts = np.bincount(class_N, minlength=num_classes)
    return EmbeddingStatistics(head_KD, class_N, counts, mean_KD.astype(np.float32), everywhere, without_head)


def _directions(centred_ND: np.ndarray, least: float) -> tuple[int, np.ndarray]:
    """How many singular values are above `least`, and the right singular vectors of the largest of them, as rows."""
    # The triangular factor has the same, and is small where there are many rows.
    _, sizes, vectors = np.linalg.svd(np.linalg.qr(centred_ND, mode="r"), full_matrices=False)
    rank = int((sizes > least).sum())
    vectors = vectors[: min(rank, MAX_DIRECTIONS)]
    # Either sign is right; this one doesn't depend on the library that computes them (our choice).
    largest = np.abs(vectors).argmax(axis=1)[:, None]
    return rank, vectors * np.sign(np.take_along_axis(vectors, largest, axis=1))
