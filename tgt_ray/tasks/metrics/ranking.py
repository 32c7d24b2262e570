"""Computes metrics of rankings as trec_eval does, in percent, as pure functions of numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from torch import Tensor

#: No metric looks at ranks beyond this one.
DEEPEST = 100
RECALL_AT = (1, 5, 20, 100)
#: The cutoff of the reciprocal rank and of the normalised discounted cumulative gain.
FIRST = 10
NAMES = (f"ndcg_at_{FIRST}", f"mrr_at_{FIRST}", *(f"recall_at_{k}" for k in RECALL_AT))


def places(keys: Sequence[str]) -> np.ndarray:
    """Return each document's place among those of the same score (K,): trec_eval puts the greater id first.

    Ids are compared byte by byte; of two documents with one id the later is first.
    """
    order = sorted(range(len(keys)), key=lambda number: (keys[number].encode(), number), reverse=True)
    place_K = np.empty(len(keys), np.int64)
    place_K[order] = np.arange(len(keys))
    return place_K


def best(scores_BK: Tensor, place_K: np.ndarray) -> Tensor:
    """Return the DEEPEST documents of the highest scores (B, R), best first; all where there are fewer.

    - place_K: each document's place among those of the same score, as `places` gives it
    """
    import torch

    count = min(DEEPEST, scores_BK.shape[1])
    last = scores_BK.topk(count, dim=1).values[:, -1:]
    # `topk` keeps any of the documents that share the last score; all of them are candidates.
    wide = max(count, int((scores_BK >= last).sum(dim=1).max()))
    found = scores_BK.topk(wide, dim=1).indices
    found = found.gather(1, torch.from_numpy(place_K).to(found.device)[found].argsort(dim=1))
    return found.gather(1, scores_BK.gather(1, found).argsort(dim=1, descending=True, stable=True)[:, :count])


def measure(ranked_NR: np.ndarray, relevant: pa.ChunkedArray, grades: pa.ChunkedArray) -> dict[str, float]:
    """Compute the means over N queries, in percent; for the parameters see `of_each`."""
    return {name: float(values.mean()) for name, values in of_each(ranked_NR, relevant, grades).items()}


def of_each(ranked_NR: np.ndarray, relevant: pa.ChunkedArray, grades: pa.ChunkedArray) -> dict[str, np.ndarray]:
    """Compute the metrics of each of N queries, in percent: (N,) by name.

    A gain is the grade itself, discounted by log2(1 + rank).

    - ranked_NR: documents of each query, best first, R >= DEEPEST or all there are
    - relevant: the relevant documents of each query, as lists of at least one
    - grades: the grades of these documents, all above 0
    """
    counts, row, _, gain = _flat(relevant, grades)
    gain_NR = _gains(ranked_NR, relevant, grades)
    hit_NR = gain_NR > 0
    first = hit_NR[:, :FIRST]
    reciprocal = np.where(first.any(axis=1), 1 / (1 + first.argmax(axis=1)), 0.0)
    discount = 1 / np.log2(2 + np.arange(FIRST))
    ideal = np.zeros((len(ranked_NR), FIRST))
    best = np.lexsort((-gain, row))
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = place < FIRST
    ideal[row[best][kept], place[kept]] = gain[best][kept]
    ndcg = (gain_NR[:, :FIRST] @ discount[: first.shape[1]]) / (ideal @ discount)
    values = {f"ndcg_at_{FIRST}": ndcg, f"mrr_at_{FIRST}": reciprocal}
    values |= {f"recall_at_{k}": hit_NR[:, :k].sum(axis=1) / counts for k in RECALL_AT}
    return {name: 100 * of_query for name, of_query in values.items()}


def first_hits(ranked_NR: np.ndarray, relevant: pa.ChunkedArray, grades: pa.ChunkedArray) -> np.ndarray:
    """Return the rank of each query's first relevant document (N,), from 1; 0 where none is among the ranked."""
    hit_NR = _gains(ranked_NR, relevant, grades) > 0
    return np.where(hit_NR.any(axis=1), 1 + hit_NR.argmax(axis=1), 0)


def _flat(relevant: pa.ChunkedArray, grades: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return how many relevant documents each query has (N,), and query, document and gain of each of these."""
    documents, gains = (column.combine_chunks() for column in (relevant, grades))
    counts = documents.value_lengths().to_numpy()
    row = np.repeat(np.arange(len(counts)), counts)
    return counts, row, documents.flatten().to_numpy(), gains.flatten().to_numpy().astype(float)


def _gains(ranked_NR: np.ndarray, relevant: pa.ChunkedArray, grades: pa.ChunkedArray) -> np.ndarray:
    """Return the gain of each ranked document (N, R), 0 for those that aren't relevant."""
    _, row, document, gain = _flat(relevant, grades)
    most = int(max(document.max(), ranked_NR.max())) + 1
    # Each pair of query and document becomes one number, which is looked up in a sorted list.
    keys = row * most + document
    order = np.argsort(keys)
    asked = np.arange(len(ranked_NR))[:, None] * most + ranked_NR
    at = np.minimum(np.searchsorted(keys[order], asked), len(keys) - 1)
    return np.where(keys[order][at] == asked, gain[order][at], 0.0)
