"""Finds the nearest of many embeddings: exactly among few, by FAISS among many."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from tgt_ray.core.errors import ConfigError

#: Documents from which on FAISS searches a part of them for each query (our choice).
MANY = 100_000
#: Lists that FAISS sorts documents into, and how many of them it looks into for a query (our choice).
LISTS, LOOKED_INTO = 1024, 64
#: Scores that are computed at once.
AT_ONCE = 2**24


class Index(Protocol):
    """Embeddings that can be searched by inner product."""

    def __len__(self) -> int: ...

    def search(self, queries_NE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the places (N, k) of the best embeddings, best first, and their inner products (N, k)."""


class Exact:
    """Compares each query with all embeddings."""

    def __init__(self, embeddings_KE: np.ndarray):
        self.embeddings = torch.from_numpy(np.array(embeddings_KE, np.float32))

    def __len__(self) -> int:
        return len(self.embeddings)

    def search(self, queries_NE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        parts = torch.from_numpy(np.asarray(queries_NE, np.float32)).split(max(1, AT_ONCE // len(self.embeddings)))
        best = [(part @ self.embeddings.T).topk(k, dim=1) for part in parts]
        return torch.cat([each.indices for each in best]).numpy(), torch.cat([each.values for each in best]).numpy()


class Approximate:
    """Lets FAISS look into the nearest of 1,024 lists, which are found by k-means."""

    def __init__(self, embeddings_KE: np.ndarray):
        faiss = _faiss()
        rows = np.ascontiguousarray(embeddings_KE, np.float32)
        self.index = faiss.index_factory(rows.shape[1], f"IVF{LISTS},Flat", faiss.METRIC_INNER_PRODUCT)
        self.index.train(rows)
        self.index.add(rows)
        self.index.nprobe = LOOKED_INTO

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def search(self, queries_NE: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, places = self.index.search(np.ascontiguousarray(queries_NE, np.float32), k)
        return places, scores


def make_index(embeddings_KE: np.ndarray) -> Index:
    """Make embeddings (K, E) ready to be searched: exactly below 100,000 of them, by FAISS from there on.

    - raises ConfigError: where FAISS is needed and isn't installed
    """
    return Exact(embeddings_KE) if len(embeddings_KE) < MANY else Approximate(embeddings_KE)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as err:
        raise ConfigError(
            f"index: from {MANY:,} documents on it is one of FAISS, which isn't installed; install tgt-ray[faiss]"
        ) from err
    return faiss
