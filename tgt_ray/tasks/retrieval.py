"""Dense retrieval finds the documents that answer a query."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.texts import as_read, to_bytes
from tgt_ray.data import AnyRetrievalSource, LabelledQueries, MapParts, Unlabelled
from tgt_ray.data.retrieval.queries import Queries
from tgt_ray.models.text.vocabulary import corpus_vocabulary
from tgt_ray.tasks.base import VOCABULARY_SPLIT, Table, Task, TaskData, VocabularySplit
from tgt_ray.tasks.leaks import without_leaks
from tgt_ray.tasks.metrics import ranking

if TYPE_CHECKING:
    from torch import Tensor

    from tgt_ray.core.storage import Storage

log = logging.getLogger(__name__)


class Retrieval(Task):
    """Retrieval finds the documents of a corpus that answer a query.

    Each document is a class. A query's label is the best document that answers it. The teacher's head is the matrix of
    the documents' embeddings.

    Model inputs are UTF-8 bytes, uint8: (N, max_bytes) for queries and (N, document_bytes) for documents, as
    `texts.to_bytes` makes them. In addition to the splits there are two tables: `documents` has the corpus in the order
    of the classes, and `sources` the documents that queries can be made from, which are all but empty ones. Their
    column `key` has the `_id` of the files.
    """

    modality: ClassVar[str] = "text"
    metric_names: ClassVar[tuple[str, ...]] = ranking.NAMES
    has_documents: ClassVar[bool] = True
    details_file: ClassVar[str] = "per_query.csv"
    type: Literal["retrieval"] = "retrieval"
    data: AnyRetrievalSource = Field(description="where queries, documents and answers come from")
    max_bytes: int = Field(
        256, ge=8, le=2**20, description="largest size of a query in bytes of UTF-8; longer queries are cut"
    )
    document_bytes: int = Field(
        1024,
        ge=8,
        le=2**20,
        description="largest size of a document in bytes of UTF-8, its title first; longer documents are cut",
    )
    vocabulary: int = Field(
        8000,
        ge=300,
        le=2**20,
        description="largest number of tokens in the vocabulary of models that are trained from scratch; it is learnt"
        " from the documents and from queries, as far as models read them",
    )
    vocabulary_split: VocabularySplit = VOCABULARY_SPLIT
    labelled: LabelledQueries | None = Field(
        None, description="keep the answers of only some queries of the train split; absent: of all"
    )
    unlabelled: Unlabelled | None = Field(
        None,
        description="whether explorers start from the queries whose answers `labelled` removes, and from those that"
        " no qrels file names: `anchors`: they do, in addition to the other queries; `ignore`: they do not; absent:"
        " anchors",
    )

    @property
    def has_unlabelled(self) -> bool:
        return self.unlabelled == "anchors" or (self.labelled is not None and self.unlabelled != "ignore")

    def scan(self) -> TaskData:
        splits = self.data.scan()
        rows: dict[str, Queries] = {
            "train": splits.train,
            "full": splits.train,
            "validation": splits.validation,
            "test": splits.test,
        }
        if self.labelled is not None:
            chosen = self.labelled.choose(len(splits.train))
            rest = np.setdiff1d(np.arange(len(splits.train)), chosen)
            rows["train"], rows["full"] = splits.train.take(chosen), splits.train.without_labels(rest)
            if self.unlabelled != "ignore" and len(rest):
                rows["unlabelled"] = rows["full"].take(rest)
        if self.unlabelled != "ignore" and len(splits.unlabelled):
            rows["full"] = rows["full"].joined(splits.unlabelled)
            there = rows.get("unlabelled")
            rows["unlabelled"] = splits.unlabelled if there is None else there.joined(splits.unlabelled)
        if self.unlabelled == "anchors" and self.labelled is None and "unlabelled" not in rows:
            raise ConfigError(
                "task.unlabelled: 'anchors', but all queries have answers; leave it out, or set task.labelled"
            )
        numbers = np.arange(len(splits.documents))
        documents = pa.table(
            {"id": numbers, "key": splits.document_keys, "document": splits.documents, "label": numbers}
        )
        fingerprints = {
            name: digest(each.fingerprint(), self.max_bytes, self.vocabulary) for name, each in rows.items()
        }
        fingerprints["documents"] = fingerprints["sources"] = digest(
            "\0".join(splits.documents.to_pylist()).encode(), self.document_bytes
        )
        for what, texts, most, key in (
            (
                "queries",
                [t for name in ("full", "validation", "test") for t in rows[name].texts.to_pylist()],
                self.max_bytes,
                "max_bytes",
            ),
            ("documents", splits.documents.to_pylist(), self.document_bytes, "document_bytes"),
        ):
            cut = sum(len(text.encode()) > most for text in texts)
            if cut:
                log.warning("%d of %d %s are longer than task.%s %d and are cut", cut, len(texts), what, key, most)
        return TaskData(
            tables={
                **{name: each.to_table() for name, each in rows.items()},
                "documents": documents,
                "sources": documents.filter(pc.not_equal(documents["document"], "")),
            },
            num_classes=len(splits.documents),
            input_shape=(self.max_bytes,),
            fingerprints=fingerprints,
            class_names=splits.names,
            left_out=splits.left_out,
        )

    def read(self, scan: TaskData, storage: Storage | None, run: MapParts) -> TaskData:
        scan = without_leaks(self, scan, self.data.drop_leaks)
        learnt_from = ("documents", *scan.learnt_from(self.vocabulary_split))
        texts = [text for name in learnt_from for text in self.texts(name, scan.tables[name])[1]]
        made_from = [scan.fingerprints[name] for name in learnt_from]
        tokenizer = corpus_vocabulary(texts, self.vocabulary, made_from, storage)
        # The vocabulary changes what models see of a query. Documents go only to models with a vocabulary of their own.
        fingerprints = {
            name: each if name in ("documents", "sources") else digest(each, tokenizer)
            for name, each in scan.fingerprints.items()
        }
        return replace(scan, tokenizer=tokenizer, fingerprints=fingerprints)

    def texts(self, name: str, table: Table) -> tuple[str, list[str]]:
        if name in ("documents", "sources"):
            return "documents", as_read(table["document"].to_pylist(), self.document_bytes)
        return "train texts", as_read(table["text"].to_pylist(), self.max_bytes)

    def most_bytes(self, name: str) -> int:
        return self.document_bytes if name in ("documents", "sources") else self.max_bytes

    def inputs(self, table: pa.Table, input_shape: tuple[int, ...]) -> Tensor:
        import torch

        if "document" in table.column_names:
            return torch.from_numpy(to_bytes(table["document"].to_pylist(), self.document_bytes))
        return torch.from_numpy(to_bytes(table["text"].to_pylist(), input_shape[0]))

    def reducer(self, tables: dict[str, Table]) -> Callable[[Tensor], Tensor]:
        """Return what turns scores (B, K) into the best documents (B, R), best first, by which rankings are measured.

        Of documents with the same score the one with the greater `_id` is first, as trec_eval ranks them.
        """
        place_K = ranking.places(tables["documents"]["key"].to_pylist())
        return partial(ranking.best, place_K=place_K)

    def evaluate(self, reduced_NR: np.ndarray, table: Any, class_counts_K: np.ndarray) -> dict[str, float]:
        return ranking.measure(reduced_NR, table["relevant"], table["grade"])

    def details(
        self, reduced_NR: np.ndarray, tables: dict[str, Any], class_counts_K: np.ndarray, class_names: tuple[str, ...]
    ) -> pa.Table:
        table, keys, names = tables["test"], tables["documents"]["key"], pa.array(class_names)
        ranks = ranking.first_hits(reduced_NR, table["relevant"], table["grade"])
        first, best = pa.array(reduced_NR[:, 0]), table["label"]
        return pa.table(
            {
                # The keys are the `_id` of the files of queries and documents.
                "query_id": table["key"],
                "query_text": table["text"],
                "rank": pa.array(ranks, mask=ranks == 0),  # of the first document that answers it
                "first_id": keys.take(first),
                "first_text": names.take(first),
                "best_answer_id": keys.take(best),
                "best_answer_text": names.take(best),
                **ranking.of_each(reduced_NR, table["relevant"], table["grade"]),
            }
        )
