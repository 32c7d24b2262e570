"""Classification tasks share this base class, whatever their inputs are."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from tgt_ray.core.errors import ConfigError
from tgt_ray.data import Labelled, LongTail, Splits, Unlabelled
from tgt_ray.tasks.base import Table, Task, TaskData
from tgt_ray.tasks.metrics import calibration
from tgt_ray.tasks.metrics import classification as metrics

if TYPE_CHECKING:
    from tgt_ray.data.base import R

log = logging.getLogger(__name__)


class Classification(Task):
    """Classification sorts rows into classes; each row has one label."""

    metric_names: ClassVar[tuple[str, ...]] = (
        "balanced_accuracy",
        "accuracy",
        "worst_class_recall",
        *metrics.SHOTS,
    )
    long_tail: LongTail | None = Field(
        None, description="cut the student's train split to a long tail; absent: all rows"
    )

    @model_validator(mode="after")
    def _one_subsample(self) -> Self:
        if self.few_labels()[0] is not None and self.long_tail is not None:
            raise ValueError("labelled and long_tail exclude each other: give one of them")
        return self

    def few_labels(self) -> tuple[Labelled | None, Unlabelled | None]:
        """Return the settings `labelled` and `unlabelled`, where the task has them."""
        return None, None

    @property
    def has_unlabelled(self) -> bool:
        labelled, unlabelled = self.few_labels()
        return unlabelled == "anchors" or (labelled is not None and unlabelled != "ignore")

    def rows_of(self, splits: Splits[R]) -> dict[str, R]:
        """Return the rows of each table: those of the student, and those without a label where they are anchors.

        - raises ConfigError: where settings and rows don't fit together
        """
        labelled, unlabelled = self.few_labels()
        full = splits.train
        known = np.flatnonzero(full.labels >= 0)
        train = self.student_rows(splits if len(known) == len(full) else replace(splits, train=full.take(known)))
        if labelled is not None:
            known = known[labelled.choose(full.labels[known], splits.num_classes)]
            train = full.take(known)
        # Rows that a long tail removes are not among these: they have labels.
        rest = np.setdiff1d(np.arange(len(full)), known)
        if unlabelled == "anchors" and not len(rest):
            raise ConfigError(
                f"task.unlabelled: 'anchors', but every row of the train split has a label; set task.labelled.rows"
                f" below {len(full)}, or leave unlabelled out"
            )
        full = full.without_labels(rest) if len(rest) else full
        rows = {"train": train, "full": full, "validation": splits.validation, "test": splits.test}
        return rows | ({"unlabelled": full.take(rest)} if unlabelled != "ignore" and len(rest) else {})

    def student_rows(self, splits: Splits[R]) -> R:
        """Return the train split that the student gets.

        - raises ConfigError: where a class has no row in it
        """
        train = splits.train
        if self.long_tail is not None:
            train = train.take(self.long_tail.subsample(train.labels, splits.num_classes))
        empty = sorted(set(range(splits.num_classes)) - set(np.unique(train.labels).tolist()))
        if empty:
            named = f"{empty[0]} ('{splits.class_names[empty[0]]}')" if splits.class_names else empty[0]
            raise ConfigError(f"task.data: class {named} has no row in the train split")
        return train

    def evaluate(self, reduced_N: np.ndarray, table: Table, class_counts_K: np.ndarray) -> dict[str, float]:
        scores_NK, labels_N = reduced_N, table["label"].to_numpy()
        recalls = metrics.per_class_recall(scores_NK, labels_N)
        return {**metrics.classification(scores_NK, labels_N), **metrics.by_shots(recalls, class_counts_K)}

    def fit_temperature(self, reduced_N: np.ndarray, table: Table) -> float | None:
        labels_N = table["label"].to_numpy()
        wrong = int((reduced_N.argmax(axis=1) != labels_N).sum())
        if len(labels_N) < calibration.FEWEST_ROWS or not wrong:
            log.info(
                "probabilities aren't calibrated: %d of %d validation rows are wrong, and it takes %d rows and a wrong"
                " one",
                wrong,
                len(labels_N),
                calibration.FEWEST_ROWS,
            )
            return None
        return calibration.fit_temperature(reduced_N, labels_N)

    def metrics_of(self, data: TaskData) -> tuple[str, ...]:
        return self.metrics_from(data.labels("validation"), data.class_counts)

    def metrics_from(self, labels_N: np.ndarray, class_counts_K: np.ndarray) -> tuple[str, ...]:
        """Return the metrics that can be measured on rows with these labels."""
        there = metrics.by_shots(dict.fromkeys(np.unique(labels_N).tolist(), 0.0), class_counts_K)
        return tuple(name for name in self.metric_names if name not in metrics.SHOTS or name in there)

    def details(
        self, reduced_N: np.ndarray, tables: dict[str, Table], class_counts_K: np.ndarray, class_names: tuple[str, ...]
    ) -> pa.Table:
        labels_N = tables["test"]["label"].to_numpy()
        recalls = metrics.per_class_recall(reduced_N, labels_N)
        classes = list(recalls)
        return pa.table(
            {
                "class": classes,
                **({"name": [class_names[each] for each in classes]} if class_names else {}),
                "train_rows": class_counts_K[classes],
                "rows": np.bincount(labels_N, minlength=len(class_counts_K))[classes],
                "recall": list(recalls.values()),
            }
        )
