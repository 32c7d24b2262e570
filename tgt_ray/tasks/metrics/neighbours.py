"""Measures by distances in an embedding how faithful made rows are, how much of what is real they cover, how varied.

Pure functions of numpy arrays. Around each real row lies a ball that reaches to its k-th nearest other real row; a row
inside of one is taken for real. scikit-learn is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: The number of nearest neighbours that a ball reaches to, as Naeem et al. 2020 (arXiv 2002.09797) choose it.
NEIGHBOURS = 5


def distances(rows_MD: np.ndarray, others_ND: np.ndarray) -> np.ndarray:
    """Compute the Euclidean distance of each row to each of some others, (M, N)."""
    from sklearn.metrics import pairwise_distances

    found: np.ndarray = pairwise_distances(rows_MD.astype(float), others_ND.astype(float))
    return found


def inside(real_MD: np.ndarray, made_ND: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Tell which made rows lie in the ball around which real row, (M, N) bool.

    - real_MD: more than k rows
    """
    assert len(real_MD) > k, "each real row needs k others"
    # The nearest row is the row itself.
    radius_M = np.partition(distances(real_MD, real_MD), k, axis=1)[:, k]
    return distances(real_MD, made_ND) <= radius_M[:, None]


def precision(inside_MN: np.ndarray) -> float:
    """Compute the percentage of made rows in any ball (improved precision, Kynkaanniemi et al. 2019, 1904.06991)."""
    return 100 * float(inside_MN.any(axis=0).mean())


def density(inside_MN: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Compute in how many balls a made row lies, over k: about 1 for real rows (Naeem et al. 2020, arXiv 2002.09797).

    Unlike `precision` it isn't raised by single balls that are large since their row lies apart.
    """
    return float(inside_MN.sum(axis=0).mean()) / k


def coverage(inside_MN: np.ndarray, labels_M: np.ndarray) -> float:
    """Compute the percentage of real rows with a made row in their ball (Naeem et al. 2020), mean over classes.

    It rises with the number of made rows, so compare equally many. That each class counts the same is our choice.

    - labels_M: classes of the real rows
    """
    return 100 * mean_of_classes(np.asarray(inside_MN.any(axis=1)), labels_M)


def mean_of_classes(values_N: np.ndarray, labels_N: np.ndarray) -> float:
    """Compute the mean over classes of the mean of a class's values."""
    return float(np.mean([values_N[labels_N == each].mean() for each in np.unique(labels_N)]))


def class_distances(rows_ND: np.ndarray, labels_N: np.ndarray) -> tuple[float, float]:
    """Compute the mean distance of two rows of one class, a mean over classes, and of two rows of different classes.

    - returns: nan where there is no such pair
    """
    between_NN = distances(rows_ND, rows_ND)
    same_NN = labels_N[:, None] == labels_N
    other_NN = ~np.eye(len(labels_N), dtype=bool)
    pairs = same_NN & other_NN
    within = [
        between_NN[mine][pairs[mine]].mean() for each in np.unique(labels_N) if pairs[mine := labels_N == each].any()
    ]
    different = between_NN[~same_NN]
    return _mean(within), _mean(different)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else np.nan


def vendi(rows_ND: np.ndarray) -> float:
    """Compute how many rows that have nothing in common would be as varied, from 1 to N, by the cosine of embeddings.

    It is the exponential of the entropy of the eigenvalues of the rows' similarities over N (Vendi score, Friedman and
    Dieng 2022, arXiv 2210.02410). It rises with the number of rows, so compare equally many.
    """
    length = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    share = np.linalg.svd(rows_ND / np.maximum(length, 1e-12), compute_uv=False) ** 2 / len(rows_ND)
    share = share[share > 1e-12]
    return float(np.exp(-(share * np.log(share)).sum()))


def doubt(p_NK: np.ndarray) -> np.ndarray:
    """Compute the entropy of probabilities in percent of the largest one, log K, (N,); 100: all classes are equal."""
    plain = np.where(p_NK > 0, p_NK, 1.0)
    return -100 * (p_NK * np.log(plain)).sum(axis=1) / np.log(max(2, p_NK.shape[1]))
