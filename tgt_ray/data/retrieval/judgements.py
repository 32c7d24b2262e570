"""Reads judgements, which say which document answers which query: qrels as BEIR and as TREC write them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from tgt_ray.core.errors import ConfigError, cut
from tgt_ray.data.account import LeftOut, left_out
from tgt_ray.data.columns import BLOCK_BYTES, readable
from tgt_ray.data.encoding import Utf8, as_utf8

log = logging.getLogger(__name__)

#: BEIR's names of the columns.
COLUMNS = ("query-id", "corpus-id", "score")
#: How many names a message shows of what is wrong.
SHOWN = 3


@dataclass(frozen=True)
class Judged:
    """Holds N judgements of known queries and documents.

    - query, document: (N,) int64, their places
    - score: (N,) float64, the grades
    - left_out: judgements that are not among these
    """

    query: np.ndarray
    document: np.ndarray
    score: np.ndarray
    left_out: tuple[LeftOut, ...]


def read_qrels(file: Path) -> pa.Table:
    """Read the columns of a .tsv file as texts: BEIR's with their names, or TREC's four with names or without."""
    source = as_utf8(file)
    with source.lines() as lines:
        head = next((line.strip("\r\n") for line in lines if line.strip()), "")
    if set(COLUMNS) <= {name.strip() for name in head.split("\t")}:
        with readable(file, "TSV"), source.open() as stream:
            table = pa.csv.read_csv(
                stream,
                pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
                pa.csv.ParseOptions(delimiter="\t", quote_char=False),
                pa.csv.ConvertOptions(column_types={name: pa.string() for name in head.split("\t")}),
            )
            return table.rename_columns([name.strip() for name in table.column_names])
    for other, said in ((",", "commas"), (";", "semicolons"), (None, "spaces")):
        names = {name.strip() for name in head.split(other)}
        if set(COLUMNS) <= names:
            raise ConfigError(
                f"{file}: its first line has the names of columns with {said} between them, not with tabs"
            )
    return _without_names(source)


def _without_names(source: Utf8) -> pa.Table:
    """Read lines of query, iteration, document and grade, or of query, document and grade."""
    columns: dict[str, list[str]] = {name: [] for name in COLUMNS}
    width = 0
    with source.lines() as lines:
        for number, line in enumerate(lines, start=1):
            cells = line.split()
            if not cells:
                continue
            if not width and (len(cells) not in (3, 4) or not (_is_number(cells[-1]) or number == 1)):
                raise ConfigError(_unknown(source.file, number, line))
            if not width and not _is_number(cells[-1]):
                # TREC's names differ from track to track; those of three columns are BEIR's, in other words.
                if len(cells) == 3:
                    raise ConfigError(_unknown(source.file, number, line))
                width = 4
                continue
            width = width or len(cells)
            if len(cells) != width or not _is_number(cells[-1]):
                raise ConfigError(
                    f"{source.file}: line {number} is {cut(line.strip(), 80)!r}, expected {width} columns, the last of"
                    " which is a grade"
                )
            for name, value in zip(COLUMNS, (cells[0], cells[-2], cells[-1]), strict=True):
                columns[name].append(value)
    said = "query, iteration, document, grade" if width == 4 else "query, document, grade"
    if width:
        log.info("%s: read as columns of TREC or without names: %s", source.file, said)
    return pa.table({name: pa.array(values, pa.large_string()) for name, values in columns.items()})


def _unknown(file: Path, number: int, line: str) -> str:
    return (
        f"{file}: line {number} is {cut(line.strip(), 80)!r}; expected a first line with query-id, corpus-id and score,"
        " with tabs between them, or TREC's columns: query, iteration, document, grade"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def grades(file: str, table: pa.Table) -> np.ndarray:
    """Return the grades of judgements, (N,); ConfigError where one is no finite number."""
    try:
        scores: np.ndarray = pc.cast(pc.utf8_trim_whitespace(table["score"]), pa.float64()).to_numpy()
    except pa.ArrowException as err:
        raise ConfigError(f"{file}: column 'score' has values that are not numbers ({err})") from err
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ConfigError(f"{file}: column 'score' has {scores[row]} in row {row}; grades are numbers from 0 on")
    return scores


def known(file: str, table: pa.Table, query_keys: pa.Array, document_keys: pa.Array) -> Judged:
    """Return the judgements whose query and document are there, each pair once with its best grade.

    - table: the columns query-id, corpus-id and score, as texts
    - query_keys, document_keys: what there is
    - raises ConfigError: where a grade is no number, or no answer is left of those that there were
    """
    score = grades(file, table)
    account: list[LeftOut] = []
    lost = np.zeros(len(score), bool)
    places, words = [], []
    for column, keys, what in (
        ("query-id", query_keys, "queries that the queries file doesn't have"),
        ("corpus-id", document_keys, "documents that the corpus doesn't have"),
    ):
        found = pc.index_in(table[column], value_set=keys)
        absent = found.is_null().to_numpy()
        if absent.any():
            unknown = list(dict.fromkeys(table[column].filter(found.is_null()).to_pylist()))
            first = ", ".join(f"'{each}'" for each in unknown[:SHOWN])
            words.append(f"names {len(unknown)} {what}, the first: {first}")
            pairs = table.filter(pa.array(absent & ~lost))
            names = [f"{file} {q} {d}" for q, d in zip(*(pairs[c].to_pylist() for c in COLUMNS[:2]), strict=True)]
            account += left_out(f"judgements of {what}", names)
        lost |= absent
        places.append(found.fill_null(-1).to_numpy().astype(np.int64))
    if words and not (score[~lost] > 0).any() and (score > 0).any():
        raise ConfigError(f"{file}: {'; '.join(words)}; no answer is left; give the ids of corpus and queries")
    for each in words:
        log.warning("%s: %s; these judgements are left out", file, each)
    # By query, best first; a pair that comes twice counts once.
    query, document, score = places[0][~lost], places[1][~lost], score[~lost]
    order = np.lexsort((document, -score, query))
    _, once = np.unique(query[order] * len(document_keys) + document[order], return_index=True)
    kept = order[np.sort(once)]
    again = np.setdiff1d(np.arange(len(query)), kept)
    if len(again):
        names = [f"{file} {query_keys[int(query[n])]} {document_keys[int(document[n])]}" for n in again]
        account += left_out("judgements of a pair that comes twice, whose best grade counts", names)
    return Judged(query[kept], document[kept], score[kept], tuple(account))
