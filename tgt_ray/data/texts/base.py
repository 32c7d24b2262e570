"""Defines what a source of labelled texts and pairs of sentences gives, and checks what all of them have to."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from tgt_ray.core.config import Seed
from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.progress import Phase, progress
from tgt_ray.core.texts import SEPARATOR, clean
from tgt_ray.data.account import LeftOut, left_out, merged
from tgt_ray.data.base import Beside, Source, Splits, stratified_holdout
from tgt_ray.data.columns import is_text, plain, valid
from tgt_ray.data.labels import ClassName
from tgt_ray.data.subsets import Unlabelled
from tgt_ray.data.texts.labels import FLOATS, class_numbers, without_minus_ones

log = logging.getLogger(__name__)

#: How many characters a log line shows of a text.
BEGINNING = 60


@dataclass(frozen=True)
class TextRows:
    """Holds N labelled texts.

    - ids: (N,) int64
    - texts: (N,) Arrow strings
    - labels: (N,) int64 in [0, K), or -1 where a label is not to be used
    """

    ids: np.ndarray
    texts: pa.Array
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: np.ndarray) -> TextRows:
        return TextRows(self.ids[indices], self.texts.take(pa.array(indices)), self.labels[indices])

    def without_labels(self, indices: np.ndarray) -> TextRows:
        """Return the same rows, those at `indices` without their labels."""
        labels = self.labels.copy()
        labels[indices] = -1
        return TextRows(self.ids, self.texts, labels)

    def fingerprint(self) -> str:
        # Zero bytes separate the texts: no text contains one.
        return digest(self.ids.tobytes(), "\0".join(self.texts.to_pylist()).encode(), self.labels.tobytes())

    def to_table(self) -> pa.Table:
        return pa.table({"id": self.ids, "text": self.texts, "label": self.labels})


@dataclass(frozen=True)
class RawTexts:
    """Holds a split as it is found.

    - where: names the split in messages
    - read: returns some of its columns
    - class_names: empty where the split doesn't have them itself
    - shards: where it lies in several files, each of them in the order of its rows; `read` is not used then
    - left_out: what the source has not used of what it was given; in one of the splits only
    - beside: returns columns that hold neither texts nor labels; None: `read` does so, and `schema` has them
    """

    where: str
    schema: pa.Schema
    read: Callable[[list[str]], pa.Table]
    class_names: tuple[str, ...] = ()
    shards: tuple[RawTexts, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    beside: Callable[[list[str]], pa.Table] | None = None


class TextSource(Source):
    """A source of labelled texts or pairs of sentences; all of it is read at once, since texts are small."""

    has_columns: ClassVar[bool] = True
    text_column: str = Field("text", description="name of the column with the texts, or with a pair's first sentences")
    pair_column: str | None = Field(
        None,
        description="name of the column with a pair's second sentences, such as an NLI set's hypotheses; absent: texts"
        " are not pairs",
    )
    label_column: str = Field("label", description="name of the column with the labels: integers from 0, or names")
    label_names: tuple[ClassName, ...] | None = Field(
        None,
        min_length=1,
        description="names of the classes in the order of their numbers; needed where labels are names that the data"
        " doesn't number itself",
    )
    on_empty: Literal["fail", "skip"] = Field(
        "fail", description="what an empty text does; fail: stop with its row, skip: leave it out and count it"
    )
    validation_fraction: float = Field(
        1 / 12, gt=0, lt=1, description="share of train that is held out where there is no validation split"
    )
    seed: Seed = Field(0, description="random seed of the choice of the held-out validation rows")

    @model_validator(mode="after")
    def _distinct(self) -> TextSource:
        columns = [self.text_column, self.label_column, *([self.pair_column] if self.pair_column is not None else [])]
        if len(set(columns)) < len(columns):
            raise ValueError(f"text_column, pair_column and label_column must differ (got {', '.join(columns)})")
        if self.label_names is not None and len(set(self.label_names)) < len(self.label_names):
            raise ValueError("label_names: a name comes twice")
        return self

    @abstractmethod
    def open_splits(self) -> dict[str, RawTexts]:
        """Open the splits train, test and perhaps validation, and perhaps `unlabelled`, whose labels nobody looks at.

        - raises ConfigError: for what is missing or unreadable
        """

    def files_without_labels(self) -> Sequence[Path]:
        """Return the files of further texts for train that `open_without_labels` opens; they are not looked at yet."""
        return ()

    def open_without_labels(self) -> RawTexts:
        """Open these files, where there are some and the task asks for them.

        - raises ConfigError: where they are damaged, or don't fit together
        """
        raise NotImplementedError

    def beside(self, columns: Sequence[str]) -> dict[str, Beside]:
        raw = self.open_splits()
        if "unlabelled" not in raw and self.files_without_labels():
            raw["unlabelled"] = self.open_without_labels()
        return {split: _beside(each, list(columns)) for split, each in raw.items()}

    def scan(self, unlabelled: Unlabelled | None = None) -> Splits[TextRows]:
        """Read all splits.

        - unlabelled: what to do with rows without a label. In train, "anchors" keeps them with the label -1 and
          "ignore" leaves them out; in the other splits both leave them out; None: they are refused
        - raises ConfigError: for data that is missing, damaged or outside the class range
        """
        raw = self.open_splits()
        more = raw.pop("unlabelled", None)
        others = [str(file) for file in self.files_without_labels()] if more is None else [more.where]
        if more is None and others and unlabelled == "anchors":
            more = self.open_without_labels()
        every = [file for each in raw.values() for file in each.shards or (each,)]
        with progress("reading texts", len(every), "files") as phase:
            tables = {split: self._read(each, phase) for split, each in raw.items()}
        names = self.label_names or raw["train"].class_names
        for each in raw.values():
            if each.class_names != raw["train"].class_names:
                raise ConfigError(
                    f"{each.where} lists its classes otherwise than {raw['train'].where}; they must be the same"
                )
        # Integers count as names only where the user gave `label_names`: names from the data belong to its numbers.
        kinds = [each.schema.field(self.label_column).type for each in every]
        numbered = self.label_names is None and any(pa.types.is_integer(kind) for kind in kinds)
        may_be = () if numbered else names
        for split, table in tables.items():
            tables[split] = without_minus_ones(
                raw[split].where, table, self.label_column, may_be, unlabelled is not None
            )
        where = {split: each.where for split, each in raw.items()}
        labels, num_classes = class_numbers(where, tables, self.label_column, names, may_be)
        if num_classes < 2:
            raise ConfigError(
                f"{where['train']}: column '{self.label_column}' (task.data.label_column) has one class alone; at least"
                " 2 are needed"
            )
        rows = {
            split: self._rows(raw[split].where, table, labels[split], split == "train" and unlabelled == "anchors")
            for split, table in tables.items()
        }
        _report_two_labels(where["train"], rows["train"])
        account = [entry for each in raw.values() for entry in each.left_out]
        for split, found in rows.items():
            account += _lost(raw[split].where, found, labels[split])
        if "validation" not in rows:
            rows["validation"], rows["train"] = self._hold_out(rows["train"], raw["train"].where, names)
        if more is not None and unlabelled == "anchors":
            rows["train"], lost = self._joined(rows["train"], more, len(tables["train"]))
            account += lost
        else:
            files = "files" if len(others) > 1 else "file"
            account += left_out(f"{files} of texts without labels, which task.unlabelled: anchors takes", others)
        return Splits(rows["train"], rows["validation"], rows["test"], num_classes, names, tuple(account))

    def _joined(self, train: TextRows, more: RawTexts, first: int) -> tuple[TextRows, list[LeftOut]]:
        """Return the rows of train and then those of a table without labels, and which of these are left out.

        - first: id of the first of these
        """
        with progress("reading texts without labels", len(more.shards) or 1, "files") as phase:
            table = self._read(more, phase, labelled=False)
        nothing = np.full(len(table), -1)
        rows = self._rows(more.where, table, nothing, keep_unlabelled=True)
        ids, texts, labels = (
            np.concatenate([train.ids, first + rows.ids]),
            pa.concat_arrays([train.texts, rows.texts]),
            np.concatenate([train.labels, rows.labels]),
        )
        empty = [f"{more.where} row {row}" for row in np.setdiff1d(np.arange(len(table)), rows.ids)]
        lost = [entry for each in (more, *more.shards) for entry in each.left_out]
        return TextRows(ids, texts, labels), [*merged(lost), *left_out("rows with an empty text", empty)]

    def _read(self, raw: RawTexts, phase: Phase, labelled: bool = True) -> pa.Table:
        """Read the columns text, perhaps pair, and label, after checking their types.

        Labels become Arrow strings in one Unicode form, null where there is none.

        - phase: counts files
        - labelled: whether rows have labels; otherwise there is no such column
        """
        # Tools that write in parallel leave shards without rows, whose columns need not have types.
        tables = [self._read_file(each, phase, labelled, bool(raw.shards)) for each in raw.shards or (raw,)]
        there = [table for table in tables if table is not None]
        if not there:
            raise ConfigError(f"{raw.where}: holds no rows")
        return pa.concat_tables(there)

    def _read_file(self, raw: RawTexts, phase: Phase, labelled: bool, shard: bool) -> pa.Table | None:
        """Read one file as `_read` does; None for a shard that has no rows."""
        wanted = {"text": self.text_column, "pair": self.pair_column, "label": self.label_column if labelled else None}
        columns = {key: name for key, name in wanted.items() if name is not None}
        for key, name in columns.items():
            self._check_column(raw, key, name)
        table = raw.read(list(columns.values()))
        phase.advance()
        if table.num_rows == 0:
            if shard:
                return None
            raise ConfigError(f"{raw.where}: holds no rows")
        for key, name in columns.items():
            self._check_type(raw, key, name)
        out = {key: valid(plain(table[columns[key]]), raw.where, columns[key]) for key in columns if key != "label"}
        if not labelled:
            return pa.table(out)
        label = plain(table[self.label_column])
        if pa.types.is_string(label.type) or pa.types.is_large_string(label.type):
            label = pc.utf8_trim_whitespace(label)
            label = pc.if_else(pc.equal(label, ""), pa.scalar(None, label.type), label)
        label = valid(pc.cast(label, pa.large_string()), raw.where, self.label_column)
        return pa.table({**out, "label": pc.utf8_normalize(label, "NFC")})

    def _check_column(self, raw: RawTexts, key: str, name: str) -> None:
        """Raise ConfigError where a column is missing or there twice."""
        found, at = raw.schema.names, f"task.data.{key}_column"
        if name not in found:
            texts = [each.name for each in raw.schema if is_text(each.type) and each.name != self.label_column]
            if key == "text" and self.pair_column is None and len(texts) == 2:
                raise ConfigError(
                    f"{at}: {raw.where} has no column '{name}' but two columns of texts; for pairs give text_column and"
                    f" pair_column, here '{texts[0]}' and '{texts[1]}'"
                )
            raise ConfigError(f"{at}: {raw.where} has no column '{name}'; {nearest(name, found)}")
        if found.count(name) > 1:
            raise ConfigError(f"{at}: {raw.where} has {found.count(name)} columns '{name}'; one is needed")

    def _check_type(self, raw: RawTexts, key: str, name: str) -> None:
        """Raise ConfigError where a column's type doesn't fit its use."""
        at = f"task.data.{key}_column"
        kind = raw.schema.field(name).type
        if key != "label" and not is_text(kind):
            raise ConfigError(f"{at}: column '{name}' of {raw.where} is {kind}, expected texts")
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        if key == "label" and not (is_text(plain) or pa.types.is_integer(plain) or pa.types.is_boolean(plain)):
            hint = f"; {FLOATS}" if pa.types.is_floating(plain) else ""
            raise ConfigError(
                f"{at}: column '{name}' of {raw.where} is {kind}, expected integers or names of classes{hint}"
            )

    def _rows(self, where: str, table: pa.Table, labels: np.ndarray, keep_unlabelled: bool) -> TextRows:
        """Return the rows that have a text and, unless `keep_unlabelled`, a label.

        A row's id is its number in the split, from 0.
        """
        parts = [
            [clean(text or "") for text in table[key].to_pylist()]
            for key in ("text", "pair")
            if key in table.column_names
        ]
        full = np.array([all(sentences) for sentences in zip(*parts, strict=True)])
        rows = TextRows(
            np.arange(len(labels)),
            pa.array([SEPARATOR.join(sentences) for sentences in zip(*parts, strict=True)], pa.large_string()),
            labels,
        )
        known = labels >= 0
        if not known.all():
            log.log(
                logging.INFO if keep_unlabelled else logging.WARNING,
                "%s: %d of %d rows have no label; %s",
                *(where, len(known) - known.sum(), len(known), "unlabelled rows" if keep_unlabelled else "left out"),
            )
        if not known.all() and not keep_unlabelled:
            rows, full = rows.take(np.flatnonzero(known)), full[known]
        if full.all():
            return rows
        empty = f"{len(full) - full.sum()} empty texts, the first in row {rows.ids[full.argmin()]}"
        if self.on_empty == "fail":
            raise ConfigError(f"{where}: has {empty}; mend them, or set task.data.on_empty to skip")
        if not full.any():
            raise ConfigError(f"{where}: all of its {len(full)} texts are empty")
        log.warning("%s: has %s; left out", where, empty)
        return rows.take(np.flatnonzero(full))

    def _hold_out(self, train: TextRows, where: str, names: Sequence[str]) -> tuple[TextRows, TextRows]:
        """Return (validation, train). Only rows with labels are held out, and the others don't change which ones."""
        known = np.flatnonzero(train.labels >= 0)
        _, held = stratified_holdout(train.labels[known], self.validation_fraction, self.seed, where, names)
        return train.take(known[held]), train.take(np.setdiff1d(np.arange(len(train)), known[held]))


def _beside(raw: RawTexts, columns: list[str]) -> Beside:
    """Read further columns of a split; shards may have no rows, and then perhaps no columns either."""
    tables, names = [], dict.fromkeys(raw.schema.names)
    for each in raw.shards or (raw,):
        if each.beside is None and not set(columns) <= set(each.schema.names):
            if each.schema.names and each.read([each.schema.names[0]]).num_rows:
                return Beside(raw.where, tuple(each.schema.names), None)
            continue
        table = (each.beside or each.read)(columns)
        if not set(columns) <= set(table.column_names):
            return Beside(raw.where, tuple(names), None)
        tables.append(table)
    if not tables:
        return Beside(raw.where, tuple(names), None)
    return Beside(raw.where, tuple(names), pa.concat_tables(tables, promote_options="permissive"))


def _report_two_labels(where: str, rows: TextRows) -> None:
    """Log a warning where a text comes with more than one label: at most one of them can be learnt."""
    known = rows.take(np.flatnonzero(rows.labels >= 0))
    pairs = known.to_table().group_by(["text", "label"], use_threads=False).aggregate([("id", "min")])
    counts = pairs.group_by("text", use_threads=False).aggregate([("label", "count"), ("id_min", "min")])
    several = counts.filter(pc.greater(counts["label_count"], 1))
    if len(several):
        row = pc.min(several["id_min_min"]).as_py()
        log.warning(
            "%s: %d texts come with more than one label, the first in row %d, %r",
            *(where, len(several), row, known.texts[int(np.searchsorted(known.ids, row))].as_py()[:BEGINNING]),
        )


def _lost(where: str, kept: TextRows, labels: np.ndarray) -> tuple[LeftOut, ...]:
    """Count the rows of a split that are not kept: those without a label, and others, whose text is empty.

    - labels: of all its rows
    """
    rows = np.setdiff1d(np.arange(len(labels)), kept.ids)
    bare = labels[rows] < 0
    return (
        *left_out("rows without a label", [f"{where} row {row}" for row in rows[bare]]),
        *left_out("rows with an empty text", [f"{where} row {row}" for row in rows[~bare]]),
    )
