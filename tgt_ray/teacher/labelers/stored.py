"""A labeler that computes nothing: it says what columns of the data say, such as the answers of a model elsewhere."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.data.answers import CLASS, FLOOR, Answers
from tgt_ray.data.base import Beside, Source
from tgt_ray.data.labels import ClassName
from tgt_ray.tasks import inputs_of
from tgt_ray.tasks.base import take
from tgt_ray.teacher.labelers.base import Labeler

if TYPE_CHECKING:
    from torch import nn

    from tgt_ray.tasks import Task, TaskData

log = logging.getLogger(__name__)

#: Tables of which each row needs an answer, where the run has them: what the student learns from, anchors, and the
#: rows of a conformal objective.
NEEDED = ("train", "unlabelled", "calibration")
#: Rows that a message names.
NAMED = 3
#: The source's own split that a table's rows are of, where it has such a split; all others are of train.
_OWN = {"validation": "validation", "calibration": "validation", "test": "test"}
#: The key of the setting that names the column.
KEY = "teacher.labeler.column"


class StoredLabeler(Labeler):
    """Answers that the data has already: logits or probabilities in further columns of its tables.

    It suits a teacher behind an API, or one that was asked elsewhere. It says nothing of new rows, so explorers that
    make some are refused; `imported` and `identity` are not. Answers are found by the content of a row; rows with the
    same content get the mean of their probabilities (our choice). Rows of train need one each; where validation and
    test have answers as well, the teacher is measured there.
    """

    modality: ClassVar[str] = "any"
    live: ClassVar[bool] = False
    # Its name covers the answers themselves.
    places: ClassVar[frozenset[str]] = frozenset({"weights", "column", "values", "classes", "floor"})
    type: Literal["stored"] = "stored"
    column: str = Field(
        min_length=1,
        description="name of the column with a list of one number for each class; where each class has a column of its"
        f" own, their names with `{CLASS}` in the place of the class's name (or of its number, where classes have no"
        " names), such as `p_{class}`",
    )
    values: Literal["logits", "probabilities"] = Field(
        description="what the numbers are: logits (any finite numbers; logarithms of probabilities are such), or"
        " probabilities, whose sum is 1"
    )
    classes: tuple[ClassName, ...] | None = Field(
        None,
        min_length=2,
        description="names of the classes in the order of the list's numbers; absent: the order of the data's classes",
    )
    floor: float = Field(
        FLOOR,
        gt=0,
        lt=0.1,
        description="probabilities below are raised to it before their logarithm is taken, since that of 0 is not"
        " finite; higher: less certain answers (our choice)",
    )
    weights: None = Field(None, description="not used: the data has the answers")

    def without_effect(self) -> dict[str, str]:
        each = {"classes": "each class has a column of its own"} if CLASS in self.column else {}
        logits = {"floor": "values are logits"} if self.values == "logits" else {}
        return {"pretrain": "nothing is trained", **each, **logits}

    @property
    def external(self) -> bool:
        return True

    def build(self, spec: InputSpec, num_classes: int) -> nn.Module:
        from tgt_ray.models.answers import StoredAnswers

        return StoredAnswers(num_classes)

    def load_weights(self, model: Any) -> dict[str, Any]:
        return {"weights": f"column '{self.column}' of the data", "head": "own", "answered": model.answered}

    def learn(self, model: Any, task: Task, data: TaskData) -> None:
        from tgt_ray.models.answers import keys_of

        found = self._by_split(task, data)
        keys, answers, model.answered = [], [], {}
        seen: dict[str, np.ndarray] = {}  # rows of a split may be in several tables
        for name, table in data.tables.items():
            own = each if (each := _OWN.get(name, "train")) in found else "train"
            beside, said = found[own]
            ids = table["id"].to_numpy()
            logits = np.full((len(ids), data.num_classes), np.nan, np.float32) if said is None else said[ids]
            there = ~np.isnan(logits).any(axis=1)
            if name in NEEDED and not there.all():
                raise ConfigError(_without(name, ids[~there], len(ids), self.column, beside.where))
            model.answered[name] = [int(there.sum()), len(ids)]
            new = np.flatnonzero(there & ~np.isin(ids, seen.get(own, [])))
            seen[own] = np.concatenate([seen.get(own, np.empty(0, ids.dtype)), ids[new]])
            if len(new):
                keys.append(keys_of(inputs_of(task, take(table, new), data.input_shape)))
                answers.append(logits[new])
            if name == "train":
                self._say(data, logits)
        differ = model.learn(np.concatenate(keys), np.concatenate(answers))
        if differ:
            log.warning(
                "%s: %d rows have the content of an earlier row and another answer; rows of one content get the mean of"
                " their probabilities",
                *(KEY, differ),
            )

    def _by_split(self, task: Task, data: TaskData) -> dict[str, tuple[Beside, np.ndarray | None]]:
        """Return the answers (N, K) of each of the source's own splits: NaN where a row has none, None where all do."""
        source: Source = task.data  # type: ignore[attr-defined]
        classes = data.class_names or tuple(map(str, range(data.num_classes)))
        how = Answers(self.column, self.values, classes, self.classes or classes, self.floor, KEY)
        how.check_order()
        if self.classes is None and CLASS not in self.column:
            log.info("%s: its numbers are taken in the order %s", KEY, _some(classes))
        splits = source.beside(how.columns)
        if (train := splits["train"]).table is None:
            lacking = next(name for name in how.columns if name not in train.names)
            hint = f"; {nearest(lacking, train.names)}" if train.names else ""
            raise ConfigError(f"{KEY}: {train.where} has no column '{lacking}'{hint}")
        found = {
            split: (each, how.of(each.table, each.where) if each.table is not None else None)
            for split, each in splits.items()
        }
        return {**found, "train": (train, self._with_unlabelled(found, data))}

    def _with_unlabelled(self, found: dict[str, tuple[Beside, np.ndarray | None]], data: TaskData) -> np.ndarray:
        """Return the answers of train, and then those of its further rows without labels, whose ids go on."""
        parts = [each[1] for split in ("train", "unlabelled") if (each := found.get(split)) and each[1] is not None]
        ids = [table["id"].to_numpy() for name, table in data.tables.items() if _OWN.get(name, "train") not in found]
        ids += [table["id"].to_numpy() for name, table in data.tables.items() if name not in _OWN]
        short = 1 + max(int(each.max(initial=-1)) for each in ids) - sum(map(len, parts))
        return np.concatenate([*parts, np.full((max(0, short), data.num_classes), np.nan, np.float32)])

    def _say(self, data: TaskData, logits_NK: np.ndarray) -> None:
        """Log how often the answers are right on labelled rows of train, and warn where that is no more than chance."""
        labels = data.labels("train")
        known = labels >= 0
        if not known.any():
            return
        right = 100 * float((logits_NK.argmax(axis=1) == labels)[known].mean())
        most = 100 * float(np.bincount(labels[known]).max() / known.sum())
        log.info("%s: the answers are right on %.1f %% of the labelled rows of train", KEY, right)
        if right <= most:
            log.warning(
                "%s: the answers are right on %.1f %% of the labelled rows of train, no more than the %.1f %% of its"
                " largest class; check the order of the classes",
                *(KEY, right, most),
            )


def _without(name: str, ids: np.ndarray, rows: int, column: str, where: str) -> str:
    """Say which rows of a table lack an answer."""
    named = ", ".join(map(str, ids[:NAMED])) + (", ..." if len(ids) > NAMED else "")
    return (
        f"{KEY}: {len(ids)} of {rows} rows of {name} have no answer in '{column}' of {where}, by their number from 0:"
        f" {named}; give each of them one, or leave these rows out of the data"
    )


def _some(names: tuple[str, ...], most: int = 10) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
