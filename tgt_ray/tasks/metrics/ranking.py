"""Floor 1: metrics of rankings as pure functions of numpy arrays; as trec_eval has them, in percent."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

#: Ranks below this are never looked at.
DEEPEST = 100
RECALL_AT = (1, 5, 20, 100)
#: Of the reciprocal rank and of the normalised discounted cumulative gain.
FIRST = 10
NAMES = (f"ndcg_at_{FIRST}", f"mrr_at_{FIRST}", *(f"recall_at_{k}" for k in RECALL_AT))


def measure(ranked_NR: np.ndarray, relevant: pa.ChunkedArray, grades: pa.ChunkedArray) -> dict[str, float]:
    """Means over N queries, in percent; as `of_each`."""
    return {name: float(values.mean()) for name, values in of_each(ranked_NR, relevant, grades).items()}


def of_each(ranked_NR: np.ndarray, relevant: pa.ChunkedArray, grades: pa.ChunkedArray) -> dict[str, np.ndarray]:
    """Of each of N queries, in percent: (N,) by name.

    ranked_NR: documents of each query, best first, R >= DEEPEST or all there are. relevant: lists of a query's relevant documents, at
    least one; grades: above 0, of each of them. A gain is the grade itself, discounted by log2(1 + rank).
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
    """(N,) the rank of each query's first relevant document, from 1 on; 0 where none is among the ranked."""
    hit_NR = _gains(ranked_NR, relevant, grades) > 0
    return np.where(hit_NR.any(axis=1), 1 + hit_NR.argmax(axis=1), 0)


def _flat(relevant: pa.ChunkedArray, grades: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """How many relevant documents each query has (N,), and of all of these query, document and gain."""
    documents, gains = (column.combine_chunks() for column in (relevant, grades))
    counts = documents.value_lengths().to_numpy()
    row = np.repeat(np.arange(len(counts)), counts)
    return counts, row, documents.flatten().to_numpy(), gains.flatten().to_numpy().astype(float)


def _gains(ranked_NR: np.ndarray, relevant: pa.ChunkedArray, grades: pa.ChunkedArray) -> np.ndarray:
    """Gain of each ranked document (N, R); 0 of those that aren't relevant."""
    _, row, document, gain = _flat(relevant, grades)
    most = int(max(document.max(), ranked_NR.max())) + 1
    # Queries and documents as one number, which is looked up in a sorted list.
    keys = row * most + document
    order = np.argsort(keys)
    asked = np.arange(len(ranked_NR))[:, None] * most + ranked_NR
    at = np.minimum(np.searchsorted(keys[order], asked), len(keys) - 1)
    return np.where(keys[order][at] == asked, gain[order][at], 0.0)
