"""Reads documents, queries and which answer which, in the layout of BEIR (Thakur et al. 2021, arXiv 2104.08663)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from pydantic import Field

from tgt_ray.core.config import FilePath, Seed
from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.core.texts import clean
from tgt_ray.data.base import Source
from tgt_ray.data.columns import BLOCK_BYTES, bad_line, is_text, plain, readable, valid
from tgt_ray.data.retrieval.queries import Queries, RetrievalSplits

log = logging.getLogger(__name__)

#: How many names a message shows of what is wrong.
SHOWN = 3


class BeirFolder(Source):
    """Documents and queries in the layout of BEIR (Thakur et al. 2021, arXiv 2104.08663).

    The folder has corpus, queries, qrels/train, qrels/test and perhaps qrels/validation (or qrels/dev): as .parquet, or
    as BEIR has them, .jsonl, and .tsv for qrels. The columns are _id, title (may be missing) and text of documents; _id
    and text of queries; query-id, corpus-id and score of qrels, where a score of 0 says that the document is not an
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
        file, corpus = self._read("corpus", ("_id", "text"), ("title",))
        document_keys = _keys(file, corpus["_id"])
        documents = _documents(corpus)
        nothing = sum(not text for text in documents.to_pylist())
        if nothing == len(documents):
            raise ConfigError(f"{file}: all documents are empty; column 'text' must hold the texts to search")
        if nothing:
            log.warning("%s: %d documents are empty: no queries are made from them", file, nothing)
        queries_file, queries = self._read("queries", ("_id", "text"))
        keys = _keys(queries_file, queries["_id"])
        texts = pa.array([clean(text) for text in queries["text"].to_pylist()], pa.large_string())
        empty = np.flatnonzero(pc.equal(texts, "").to_numpy(zero_copy_only=False))
        if len(empty):
            raise ConfigError(
                f"{queries_file}: has {len(empty)} empty queries, the first is '{keys[int(empty[0])]}';"
                " mend them or leave them out"
            )
        every = Queries(np.arange(len(keys)), keys, texts, *_no_answers(len(keys)))
        splits: dict[str, Queries] = {}
        taken: dict[int, str] = {}
        named = np.zeros(len(every), bool)
        for split, files in (("train", ("train",)), ("test", ("test",)), ("validation", ("validation", "dev"))):
            answers = self._answers(split, files, every, document_keys)
            if answers is None:
                continue
            found, asked = answers
            named[asked] = True
            both = [number for number in found.ids.tolist() if number in taken]
            if both:
                raise ConfigError(
                    f"{self.path / 'qrels'}: {len(both)} queries are in {taken[both[0]]} and in {split}, the first is"
                    f" '{keys[both[0]]}'; a query belongs to one of them"
                )
            taken |= dict.fromkeys(found.ids.tolist(), split)
            splits[split] = found
        if "validation" not in splits:
            splits |= self._hold_out(splits["train"])
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
            names, document_keys, documents, splits["train"], splits["validation"], splits["test"], unlabelled
        )

    def _unlabelled(self, file: Path, every: Queries, named: np.ndarray, held_out: list[Queries]) -> Queries:
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
        self, split: str, files: tuple[str, ...], every: Queries, document_keys: pa.Array
    ) -> tuple[Queries, np.ndarray] | None:
        """Return a split's queries with their answers, and the places of all queries that its file names.

        None where it has no file and needs none.
        """
        there = [name for name in files if self._file(f"qrels/{name}") is not None]
        if len(there) > 1:
            raise ConfigError(f"task.data.path: {self.path / 'qrels'} has both {' and '.join(there)}; keep one")
        if not there and split == "validation":
            return None
        file, table = self._read(f"qrels/{there[0] if there else files[0]}", ("query-id", "corpus-id", "score"))
        try:
            scores = pc.cast(pc.utf8_trim_whitespace(table["score"]), pa.float64()).to_numpy()
        except pa.ArrowException as err:
            raise ConfigError(f"{file}: column 'score' has values that are not numbers ({err})") from err
        if not np.isfinite(scores).all():
            row = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise ConfigError(f"{file}: column 'score' has {scores[row]} in row {row}; grades are numbers from 0 on")
        columns = []
        for column, keys, what in (
            ("query-id", every.keys, "queries that the queries file doesn't have"),
            ("corpus-id", document_keys, "documents that the corpus doesn't have"),
        ):
            places = pc.index_in(table[column], value_set=keys)
            if places.null_count:
                unknown = list(dict.fromkeys(table[column].filter(places.is_null()).to_pylist()))
                first = ", ".join(f"'{each}'" for each in unknown[:SHOWN])
                raise ConfigError(f"{file}: names {len(unknown)} {what}, the first: {first}")
            columns.append(places.to_numpy().astype(np.int64))
        right = scores > 0
        query, document, score = columns[0][right], columns[1][right], scores[right]
        if not len(query):
            raise ConfigError(f"{file}: has no score above 0, so no query has an answer")
        # By query, best first; a pair that comes twice counts once.
        order = np.lexsort((document, -score, query))
        query, document, score = query[order], document[order], score[order]
        _, once = np.unique(query * len(document_keys) + document, return_index=True)
        once = np.sort(once)
        query, document, score = query[once], document[once], score[once]
        asked, counts = np.unique(query, return_counts=True)
        named = np.unique(columns[0])
        lost = len(named) - len(asked)
        if lost:
            log.warning("%s: %d queries have no answer with a score above 0; left out", file, lost)
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
        return found, named

    def _file(self, name: str) -> Path | None:
        suffixes = (".parquet", ".tsv") if name.startswith("qrels/") else (".parquet", ".jsonl")
        files = [self.path / f"{name}{suffix}" for suffix in suffixes if (self.path / f"{name}{suffix}").exists()]
        if len(files) > 1:
            raise ConfigError(f"task.data.path: {self.path} has both {files[0].name} and {files[1].name}; keep one")
        return files[0] if files else None

    def _read(self, name: str, columns: tuple[str, ...], more: tuple[str, ...] = ()) -> tuple[Path, pa.Table]:
        """Read columns of a file as strings without nulls; those of `more` only where the file has them."""
        file = self._file(name)
        if file is None:
            kinds = ".parquet or .tsv" if name.startswith("qrels/") else ".parquet or .jsonl"
            raise ConfigError(f"task.data.path: no file {name} ({kinds}) in {self.path}")
        table = _table(file)
        for column in columns:
            if column not in table.column_names:
                raise ConfigError(f"{file}: has no column '{column}'; {nearest(column, table.column_names)}")
        for column in (*columns, *more):
            if table.column_names.count(column) > 1:
                raise ConfigError(f"{file}: has {table.column_names.count(column)} columns '{column}'; one is needed")
        if table.num_rows == 0:
            what = "documents" if name == "corpus" else "rows"
            raise ConfigError(f"{file}: holds no {what}")
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
                raise ConfigError(
                    f"{file}: column '{column}' has {values.null_count} null values, the first in row {row}"
                )
            out[column] = pc.fill_null(values, "")
        return file, pa.table(out)


def _table(file: Path) -> pa.Table:
    if file.suffix == ".parquet":
        with readable(file, "Parquet"):
            return pq.read_table(file)
    if file.suffix == ".jsonl":
        return _json_lines(file)
    with readable(file, "TSV"):
        return pa.csv.read_csv(
            file,
            pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
            pa.csv.ParseOptions(delimiter="\t", quote_char=False),
            pa.csv.ConvertOptions(column_types={name: pa.string() for name in ("query-id", "corpus-id", "score")}),
        )


def _json_lines(file: Path) -> pa.Table:
    """Read the columns that matter, without the `metadata` that many files have. Ids may be numbers."""
    options = pa.json.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)
    with readable(file, "JSON lines", bad_line):
        for kind in (pa.string(), pa.int64()):
            wanted = pa.schema({"_id": kind, "title": pa.string(), "text": pa.string()})
            how = pa.json.ParseOptions(explicit_schema=wanted, unexpected_field_behavior="ignore")
            try:
                table = pa.json.read_json(file, options, how)
                break
            except pa.ArrowInvalid as err:
                if kind == pa.int64() or "/_id" not in str(err):
                    raise
    # A column that no line has is read as nulls alone.
    return table.select([name for name in table.column_names if table[name].null_count < len(table) or not len(table)])


def _no_answers(count: int) -> tuple[pa.Array, pa.Array]:
    """Return empty lists of documents and of grades."""
    ends = pa.array(np.zeros(count + 1, np.int64))
    documents, grades = (pa.LargeListArray.from_arrays(ends, pa.array([], kind)) for kind in (pa.int64(), pa.float64()))
    return documents, grades


def _keys(file: Path, column: pa.ChunkedArray) -> pa.Array:
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
