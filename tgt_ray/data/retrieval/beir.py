"""Reads documents, queries and which answer which, in the layout of BEIR (Thakur et al. 2021, arXiv 2104.08663)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from tgt_ray.core.config import FilePath, Seed
from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.core.texts import clean
from tgt_ray.data.account import LeftOut, left_out
from tgt_ray.data.base import Source
from tgt_ray.data.columns import is_text, json_columns, json_schema, open_json, plain, readable, valid
from tgt_ray.data.parts import SPLITS, Parts, find_parts, kind_of, not_read
from tgt_ray.data.retrieval.judgements import COLUMNS, known, read_qrels
from tgt_ray.data.retrieval.queries import Queries, RetrievalSplits

log = logging.getLogger(__name__)

#: How many names a message shows of what is wrong.
SHOWN = 3


class BeirFolder(Source):
    """Documents and queries in the layout of BEIR (Thakur et al. 2021, arXiv 2104.08663).

    The folder has corpus, queries, qrels/train, qrels/test and perhaps qrels/validation (or valid, val, dev): as
    .parquet, or as BEIR has them, .jsonl, and .tsv for qrels. Qrels in .tsv may also have TREC's four columns. The
    columns are _id, title (may be missing) and text of documents; _id and text of queries;
    query-id, corpus-id and score of qrels, where a score of 0 says that the document is not an
    answer. Queries that no qrels file names are rows without answers; those with the text of a validation or test query
    are left out.
    """

    type: Literal["beir"] = "beir"
    path: FilePath = Field(description="folder that holds corpus, queries and the folder qrels")
    validation_fraction: float = Field(
        1 / 12,
        gt=0,
        lt=1,
        description="share of train's queries that is held out where there are no qrels for validation",
    )
    seed: Seed = Field(0, description="random seed of the choice of the held-out validation queries")

    def scan(self) -> RetrievalSplits:
        """Read everything. Raises ConfigError for data that is missing, damaged or doesn't fit together."""
        if not self.path.is_dir():
            raise ConfigError(f"task.data.path: no folder at {self.path}")
        file, corpus = self._read("corpus", self._parts("corpus"), ("_id", "text"), ("title",))
        document_keys = _keys(file, corpus["_id"])
        documents = _documents(corpus)
        nothing = sum(not text for text in documents.to_pylist())
        if nothing == len(documents):
            raise ConfigError(f"{file}: all documents are empty; column 'text' must hold the texts to search")
        if nothing:
            log.warning("%s: %d documents are empty: no queries are made from them", file, nothing)
        queries_file, queries = self._read("queries", self._parts("queries"), ("_id", "text"))
        keys = _keys(queries_file, queries["_id"])
        texts = pa.array([clean(text) for text in queries["text"].to_pylist()], pa.large_string())
        empty = np.flatnonzero(pc.equal(texts, "").to_numpy(zero_copy_only=False))
        if len(empty):
            raise ConfigError(
                f"{queries_file}: has {len(empty)} empty queries, the first is '{keys[int(empty[0])]}';"
                " mend them or leave them out"
            )
        every = Queries(np.arange(len(keys)), keys, texts, *_no_answers(len(keys)))
        splits, named, account = self._splits(every, document_keys)
        own = sum(_asking_for_themselves(splits[name], corpus) for name in ("validation", "test"))
        if own:
            log.warning(
                "%s: %d validation and test queries are documents of the corpus, with the same _id and text: they are"
                " ranked here, and BEIR leaves a query's own document out, so that metrics differ from those published",
                *(queries_file, own),
            )
        names = tuple(_name(text) for text in documents.to_pylist())
        unlabelled = self._unlabelled(queries_file, every, named, [splits["validation"], splits["test"]])
        return RetrievalSplits(
            *(names, document_keys, documents, splits["train"], splits["validation"], splits["test"], unlabelled),
            (*account, *self._not_read()),
        )

    def _splits(
        self, every: Queries, document_keys: pa.Array
    ) -> tuple[dict[str, Queries], np.ndarray, tuple[LeftOut, ...]]:
        """Return the queries of each split, which queries a qrels file names at all, and what was left out."""
        splits: dict[str, Queries] = {}
        taken: dict[int, str] = {}
        named = np.zeros(len(every), bool)
        account: tuple[LeftOut, ...] = ()
        for split in SPLITS:
            answers = self._answers(split, every, document_keys)
            if answers is None:
                continue
            found, asked, lost = answers
            account += lost
            named[asked] = True
            both = [number for number in found.ids.tolist() if number in taken]
            if both:
                raise ConfigError(
                    f"{self.path / 'qrels'}: {len(both)} queries are in {taken[both[0]]} and in {split}, the first is"
                    f" '{every.keys[both[0]]}'; a query belongs to one of them"
                )
            taken |= dict.fromkeys(found.ids.tolist(), split)
            splits[split] = found
        if "validation" not in splits:
            splits |= self._hold_out(splits["train"])
        return splits, named, account

    def _not_read(self) -> tuple[LeftOut, ...]:
        """Account for files that are none of those that are read."""
        tables = [parts for name in ("corpus", "queries") if (parts := self._parts(name)) is not None]
        splits = [parts for names in SPLITS.values() if (parts := self._parts("qrels", names)) is not None]
        used = [self.path / "qrels", *(file for parts in tables for file in parts.files)]
        judged = [file for parts in splits for file in parts.files]
        legal = ", ".join(name for names in SPLITS.values() for name in names)
        return (
            *not_read(self.path, used, "files that are neither corpus nor queries"),
            *not_read(self.path / "qrels", judged, f"files in qrels of no split ({legal})"),
        )

    def _unlabelled(self, file: str, every: Queries, named: np.ndarray, held_out: list[Queries]) -> Queries:
        """Return the queries that no qrels file names, without those that have the text of a held-out query."""
        known = pc.is_in(every.texts, value_set=pa.concat_arrays([each.texts for each in held_out]))
        known = known.to_numpy(zero_copy_only=False)
        ids = np.flatnonzero(~named & ~known)
        same = int((~named & known).sum())
        if len(ids) or same:
            log.info(
                "%s: %d queries are in no qrels file: anchors without answers, unless task.unlabelled says ignore%s",
                *(file, len(ids), f"; {same} more have the text of a held-out query, and are left out" if same else ""),
            )
        return every.take(ids)

    def _hold_out(self, train: Queries) -> dict[str, Queries]:
        held = round(self.validation_fraction * len(train))
        if not 0 < held < len(train):
            raise ConfigError(f"{self.path / 'qrels'}: train has {len(train)} queries, too few to hold some out")
        order = np.random.default_rng(self.seed).permutation(len(train))
        return {"validation": train.take(np.sort(order[:held])), "train": train.take(np.sort(order[held:]))}

    def _answers(
        self, split: str, every: Queries, document_keys: pa.Array
    ) -> tuple[Queries, np.ndarray, tuple[LeftOut, ...]] | None:
        """Return a split's queries with their answers, the places of all that its file names, and what was left out.

        None where it has no file and needs none.
        """
        parts = self._parts("qrels", SPLITS[split])
        if parts is None and split == "validation":
            return None
        file, table = self._read(f"qrels/{split}", parts, COLUMNS)
        judged = known(file, table, every.keys, document_keys)
        right = judged.score > 0
        query, document, score = judged.query[right], judged.document[right], judged.score[right]
        if not len(query):
            raise ConfigError(f"{file}: has no score above 0, so no query has an answer")
        asked, counts = np.unique(query, return_counts=True)
        named = np.flatnonzero(pc.is_in(every.keys, value_set=pa.array(table["query-id"].unique())).to_numpy(False))
        lost = np.setdiff1d(named, asked)
        if len(lost):
            log.warning("%s: %d queries have no answer with a score above 0; left out", file, len(lost))
        if split == "train" and len(query) > len(asked):
            log.info(
                "%s: %d of %d answers are not the best of their query, and are not used in training",
                *(file, len(query) - len(asked), len(query)),
            )
        ends = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int64())
        found = Queries(
            asked,
            every.keys.take(pa.array(asked)),
            every.texts.take(pa.array(asked)),
            pa.LargeListArray.from_arrays(ends, pa.array(document)),
            pa.LargeListArray.from_arrays(ends, pa.array(score)),
        )
        unanswered = [f"{file} {every.keys[int(each)]}" for each in lost]
        return found, named, (*judged.left_out, *left_out("queries without an answer above 0", unanswered))

    def _parts(self, name: str, names: tuple[str, ...] = ()) -> Parts | None:
        """Return the files of the corpus or the queries, or those of a split in qrels, by its `names`."""
        if name != "qrels":
            return find_parts(self.path, (name,), (".parquet", ".jsonl", ".jsonl.gz"))
        folder = self.path / "qrels"
        return find_parts(folder, names, (".parquet", ".tsv", ".tsv.gz")) if folder.is_dir() else None

    def _alike(self, name: str) -> str:
        """Name a file of a table or split that has another suffix than those that are read."""
        folder = self.path / "qrels" if name.startswith("qrels/") else self.path
        names = SPLITS.get(name.removeprefix("qrels/"), (name,))
        if not folder.is_dir():
            return ""
        there = sorted(each.name for each in folder.iterdir() if kind_of(each)[0].casefold() in names)
        return f"; there is {there[0]}, which is not read: write it in one of these forms" if there else ""

    def _read(
        self, name: str, parts: Parts | None, columns: tuple[str, ...], more: tuple[str, ...] = ()
    ) -> tuple[str, pa.Table]:
        """Read columns of a table as strings without nulls; those of `more` only where all of its files have them.

        - returns: what messages call it, and its rows
        """
        if parts is None:
            kinds = ".parquet or .tsv" if name.startswith("qrels/") else ".parquet or .jsonl"
            raise ConfigError(f"task.data.path: no file {name} ({kinds}) in {self.path}{self._alike(name)}")
        tables = [_strings(file, columns, more) for file in parts.files]
        shared = [each for each in tables[0].column_names if all(each in table.column_names for table in tables)]
        if any(len(table.column_names) > len(shared) for table in tables):
            raise ConfigError(f"{parts.where}: some of its files have column '{more[0]}' and others not")
        table = pa.concat_tables([table.select(shared) for table in tables])
        if table.num_rows == 0:
            what = "documents" if name == "corpus" else "rows"
            raise ConfigError(f"{parts.where}: holds no {what}")
        return parts.where, table


def _strings(file: Path, columns: tuple[str, ...], more: tuple[str, ...]) -> pa.Table:
    """Read columns of one file as strings without nulls; those of `more` only where it has them."""
    table = _table(file)
    for column in columns:
        if column not in table.column_names:
            there = json_schema(open_json(file)).names if ".jsonl" in kind_of(file)[1] else table.column_names
            raise ConfigError(f"{file}: has no column '{column}'; {nearest(column, there)}")
    for column in (*columns, *more):
        if table.column_names.count(column) > 1:
            raise ConfigError(f"{file}: has {table.column_names.count(column)} columns '{column}'; one is needed")
    out = {}
    for column in (*columns, *(each for each in more if each in table.column_names)):
        values = plain(table[column])
        kind = values.type
        numbers = pa.types.is_integer(kind) or (column == "score" and pa.types.is_floating(kind))
        if not (is_text(kind) or pa.types.is_null(kind) or (numbers and column not in ("text", "title"))):
            raise ConfigError(
                f"{file}: column '{column}' is {kind}, expected {'numbers' if column == 'score' else 'texts'}"
            )
        values = valid(values, str(file), column) if is_text(kind) else values.cast(pa.large_string())
        if values.null_count and column not in more:
            row = pc.index(values.is_null(), True).as_py()
            raise ConfigError(f"{file}: column '{column}' has {values.null_count} null values, the first in row {row}")
        out[column] = pc.fill_null(values, "")
    return pa.table(out)


def _table(file: Path) -> pa.Table:
    if file.suffix.lower() == ".parquet":
        with readable(file, "Parquet"):
            return pq.read_table(file)
    if kind_of(file)[1].startswith(".jsonl"):
        # Ids may be numbers, and the `metadata` that many files have may be anything.
        return json_columns(open_json(file), ("title", "text"), "_id", mixed=True)
    return read_qrels(file)


def _no_answers(count: int) -> tuple[pa.Array, pa.Array]:
    """Return empty lists of documents and of grades."""
    ends = pa.array(np.zeros(count + 1, np.int64))
    documents, grades = (pa.LargeListArray.from_arrays(ends, pa.array([], kind)) for kind in (pa.int64(), pa.float64()))
    return documents, grades


def _keys(file: str, column: pa.ChunkedArray) -> pa.Array:
    """Return a file's `_id`s. Raises ConfigError where one comes twice."""
    if pc.count_distinct(column).as_py() < len(column):
        counts = pc.value_counts(column)
        twice = [each["values"] for each in counts.to_pylist() if each["counts"] > 1]
        first = ", ".join(f"'{each}'" for each in twice[:SHOWN])
        raise ConfigError(f"{file}: {len(twice)} ids come more than once in column '_id', the first: {first}")
    return column.combine_chunks().cast(pa.large_string())


def _documents(corpus: pa.Table) -> pa.Array:
    """Join each document's title, where it has one, and its text."""
    texts = corpus["text"].to_pylist()
    titles = corpus["title"].to_pylist() if "title" in corpus.column_names else [""] * len(texts)
    joined = [clean(f"{title}. {text}" if title.strip() else text) for title, text in zip(titles, texts, strict=True)]
    return pa.array(joined, pa.large_string())


def _asking_for_themselves(queries: Queries, corpus: pa.Table) -> int:
    """Count the queries that are the document of their own `_id`, with its title or without."""
    places = pc.index_in(queries.keys, value_set=corpus["_id"])
    there = places.is_valid()
    rows = corpus.take(places.filter(there))
    bare, whole, asked = rows["text"], _documents(rows), queries.texts.filter(there)
    three = zip(asked.to_pylist(), bare.to_pylist(), whole.to_pylist(), strict=True)
    return sum(text.split() in (one.split(), other.split()) for text, one, other in three)


def _name(text: str, most: int = 60) -> str:
    """Shorten a document to a name for people."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
