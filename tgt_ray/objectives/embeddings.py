"""Computes statistics of the labeler's embeddings of the train rows, class by class, in numpy without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tgt_ray.core.signals.base import Signal
from tgt_ray.core.signals.of_labeler import EMBEDDING, LOGITS
from tgt_ray.objectives.facts import Fit, Rows

#: The largest number of principal directions that are kept of a class (our choice).
MAX_DIRECTIONS = 64


@dataclass(frozen=True)
class Principal:
    """Holds the principal directions of each class's embeddings.

    - rank_K: numerical rank of the class's centred rows
    - directions_KRD: orthonormal rows, the direction of the largest variance first; R is the smallest rank of any
      class, at most MAX_DIRECTIONS, since a subspace of S directions needs S of every class
    """

    rank_K: np.ndarray
    directions_KRD: np.ndarray


@dataclass(frozen=True)
class EmbeddingStatistics:
    """Holds statistics of the labeler's embeddings of N train rows, by the class of K that the labeler predicts.

    - head_KD: the weight W of the labeler's head, whose input the embeddings are
    - class_N: predicted class of each row, in the train table's order
    - count_K: rows of each class
    - mean_KD: mean embedding of each class, 0 where it has no rows
    - everywhere: principal directions of the embeddings as they are
    - in_null_space: principal directions of the embeddings projected onto the null space of W
    """

    head_KD: np.ndarray
    class_N: np.ndarray
    count_K: np.ndarray
    mean_KD: np.ndarray
    everywhere: Principal
    in_null_space: Principal

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the statistics as the arrays that are stored."""
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
    """Fits mean, count and principal directions of each class, as LELP needs them (arXiv 2409.20449)."""

    name: ClassVar[str] = "class_directions"
    signals: ClassVar[tuple[Signal, ...]] = (LOGITS, EMBEDDING)

    def of(self, rows: Rows) -> dict[str, np.ndarray]:
        logits_NK, embedding_ND = (np.asarray(rows.columns[name]) for name in ("logits", "embedding"))
        return fit(embedding_ND, logits_NK.argmax(axis=1), rows.head()).arrays()

    def load(self, arrays: dict[str, np.ndarray]) -> EmbeddingStatistics:
        return EmbeddingStatistics.from_arrays(arrays)


CLASS_DIRECTIONS = ClassDirections()


def head_rank(head_KD: np.ndarray) -> int:
    """Return the numerical rank of a head's weight; D minus this is the dimension of its null space."""
    return int(np.linalg.matrix_rank(head_KD.astype(np.float64)))


def in_null_space(rows_ND: np.ndarray, head_KD: np.ndarray) -> np.ndarray:
    """Project each row h onto the null space of the head's weight W: (I - pinv(W) W) h, float64."""
    rows, head = rows_ND.astype(np.float64), head_KD.astype(np.float64)
    # The same tolerance as in head_rank.
    inverse = np.linalg.pinv(head, rcond=max(head.shape) * np.finfo(np.float64).eps)
    return rows - (rows @ inverse) @ head


def fit(embedding_ND: np.ndarray, class_N: np.ndarray, head_KD: np.ndarray) -> EmbeddingStatistics:
    """Compute mean, count and principal directions of each class.

    - embedding_ND: the labeler's embedding of each row
    - class_N: the class that the labeler predicts for each row
    - head_KD: the weight of the labeler's head
    """
    num_classes, dim = head_KD.shape
    mean_KD = np.zeros((num_classes, dim))
    found: dict[bool, list[tuple[int, np.ndarray]]] = {False: [], True: []}
    for number in range(num_classes):
        rows = embedding_ND[class_N == number].astype(np.float64)
        if len(rows):
            mean_KD[number] = rows.mean(axis=0)
        # Smaller singular values are rounding errors of float32.
        least = float(np.finfo(np.float32).eps * np.linalg.norm(rows))
        # The projection is linear, so projecting the centred rows gives the centred projections.
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
    """Return how many singular values are above `least`, and the right singular vectors of the largest, as rows."""
    # The triangular factor of QR has the same singular values and right vectors, and is small where there are many
    # rows.
    _, sizes, vectors = np.linalg.svd(np.linalg.qr(centred_ND, mode="r"), full_matrices=False)
    rank = int((sizes > least).sum())
    vectors = vectors[: min(rank, MAX_DIRECTIONS)]
    # Singular vectors are defined up to sign; this sign doesn't depend on the linear algebra library (our choice).
    largest = np.abs(vectors).argmax(axis=1)[:, None]
    return rank, vectors * np.sign(np.take_along_axis(vectors, largest, axis=1))
