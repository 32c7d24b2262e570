"""Holds queries with the documents that answer them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tgt_ray.core.fingerprint import digest
from tgt_ray.data.account import LeftOut


@dataclass(frozen=True)
class Queries:
    """Holds N queries with their answers; a query whose answers are not to be used has empty lists.

    - ids: (N,) int64, places in the file, from 0 on
    - keys: (N,) Arrow strings, what the file has in `_id`; for people only
    - texts: (N,) Arrow strings
    - relevant: (N,) lists of the documents that answer each query, best first
    - grades: (N,) lists of these documents' grades
    """

    ids: np.ndarray
    keys: pa.Array
    texts: pa.Array
    relevant: pa.Array
    grades: pa.Array

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: np.ndarray) -> Queries:
        return Queries(self.ids[indices], *(each.take(pa.array(indices)) for each in self._columns))

    def without_labels(self, indices: np.ndarray) -> Queries:
        """Return the same queries, those at `indices` without their answers."""
        hidden = np.zeros(len(self), bool)
        hidden[indices] = True
        empty = [pa.scalar([], each.type) for each in (self.relevant, self.grades)]
        return Queries(
            self.ids,
            self.keys,
            self.texts,
            *(pc.if_else(pa.array(hidden), none, each) for none, each in zip(empty, self._columns[2:], strict=True)),
        )

    def joined(self, other: Queries) -> Queries:
        """Return these queries, and then the others."""
        pairs = zip(self._columns, other._columns, strict=True)
        return Queries(np.concatenate([self.ids, other.ids]), *(pa.concat_arrays(pair) for pair in pairs))

    @property
    def labels(self) -> np.ndarray:
        """The first document that answers each query, or -1: (N,) int64."""
        counts = self._counts.to_numpy()
        first, there, out = np.cumsum(counts) - counts, counts > 0, np.full(len(self), -1)
        out[there] = self.relevant.flatten().to_numpy()[first[there]]
        return out

    @property
    def _counts(self) -> pa.Array:
        return pc.list_value_length(self.relevant)

    @property
    def _columns(self) -> tuple[pa.Array, pa.Array, pa.Array, pa.Array]:
        return self.keys, self.texts, self.relevant, self.grades

    def fingerprint(self) -> str:
        lists = [each.flatten().to_numpy().tobytes() for each in (self.relevant, self.grades)]
        texts = "\0".join(self.texts.to_pylist()).encode()
        return digest(self.ids.tobytes(), texts, self._counts.to_numpy().tobytes(), *lists)

    def to_table(self) -> pa.Table:
        return pa.table(
            {
                "id": self.ids,
                "key": self.keys,
                "text": self.texts,
                "label": self.labels,
                "relevant": self.relevant,
                "grade": self.grades,
            }
        )


@dataclass(frozen=True)
class RetrievalSplits:
    """Holds the documents of a retrieval data set, and the queries of each split.

    - names: of documents, for people
    - document_keys: what the corpus file has in `_id`
    - documents: their texts, the title first
    - unlabelled: queries without known answers
    - left_out: what is not used of the folder
    """

    names: tuple[str, ...]
    document_keys: pa.Array
    documents: pa.Array
    train: Queries
    validation: Queries
    test: Queries
    unlabelled: Queries
    left_out: tuple[LeftOut, ...] = ()
