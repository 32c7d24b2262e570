"""Image classification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from tgt_ray import metrics
from tgt_ray.config import ConfigError
from tgt_ray.data import AnySource, Digits, ImageRows, LongTail, Run, Splits
from tgt_ray.tasks.base import Task, TaskData

if TYPE_CHECKING:
    from torch import Tensor

    from tgt_ray.storage import Storage


class ImageClassification(Task):
    """Images with one label each. Model inputs are float32 (N, C, H, W) in [0, 1]; models normalise for themselves."""

    metric_names: ClassVar[tuple[str, ...]] = (
        "balanced_accuracy",
        "accuracy",
        "worst_class_recall",
        *metrics.SHOTS,
    )
    type: Literal["image_classification"] = "image_classification"
    data: AnySource = Field(default_factory=Digits)
    long_tail: LongTail | None = Field(None, description="subsample the student's train split; absent: all rows")

    def scan(self) -> Any:
        found = self.data.scan()
        return self._task_data(found) if isinstance(found, Splits) else found

    def read(self, scan: Any, storage: Storage | None, run: Run) -> TaskData:
        return scan if isinstance(scan, TaskData) else self._task_data(self.data.read(scan, storage, run))

    def _task_data(self, splits: Splits) -> TaskData:
        train = splits.train
        if self.long_tail is not None:
            train = train.take(self.long_tail.subsample(train.labels, splits.num_classes))
        empty = sorted(set(range(splits.num_classes)) - set(np.unique(train.labels).tolist()))
        if empty:
            raise ConfigError(f"task.data: class {empty[0]} has no row in the train split")
        rows = {
            "train": train,
            "full": splits.train,
            "validation": splits.validation,
            "test": splits.test,
        }
        return TaskData(
            tables={name: r.to_table() for name, r in rows.items()},
            num_classes=splits.num_classes,
            input_shape=train.shape,
            fingerprints={name: r.fingerprint() for name, r in rows.items()},
            class_names=splits.class_names,
        )

    def inputs(self, table: pa.Table, input_shape: tuple[int, ...]) -> Tensor:
        import torch

        channels, height, width = input_shape
        images = ImageRows.from_table(table, (channels, height, width)).images
        # The copy is float anyway, so Arrow's read-only memory is never written to.
        return torch.from_numpy(images.astype(np.float32)).div_(255)

    def evaluate(self, scores_NK: np.ndarray, labels_N: np.ndarray, class_counts_K: np.ndarray) -> dict[str, float]:
        recalls = metrics.per_class_recall(scores_NK, labels_N)
        return {**metrics.classification(scores_NK, labels_N), **metrics.by_shots(recalls, class_counts_K)}

    def metrics_of(self, data: TaskData) -> tuple[str, ...]:
        return self._metrics(data.labels("validation"), data.class_counts)

    def metrics_of_scan(self, scan: Any) -> tuple[str, ...]:
        labels = None if isinstance(scan, TaskData) else self.data.labels(scan)
        if labels is None:
            return super().metrics_of_scan(scan)
        train, num_classes = labels["train"], len(scan.class_names)
        if self.long_tail is not None:
            train = train[self.long_tail.subsample(train, num_classes)]
        return self._metrics(labels["validation"], np.bincount(train, minlength=num_classes))

    def _metrics(self, labels_N: np.ndarray, class_counts_K: np.ndarray) -> tuple[str, ...]:
        there = metrics.by_shots(dict.fromkeys(np.unique(labels_N).tolist(), 0.0), class_counts_K)
        return tuple(name for name in self.metric_names if name not in metrics.SHOTS or name in there)

    def per_class(self, scores_NK: np.ndarray, labels_N: np.ndarray, class_counts_K: np.ndarray) -> pa.Table:
        recalls = metrics.per_class_recall(scores_NK, labels_N)
        classes = list(recalls)
        return pa.table(
            {
                "class": classes,
                "train_rows": class_counts_K[classes],
                "rows": np.bincount(labels_N, minlength=len(class_counts_K))[classes],
                "recall": list(recalls.values()),
            }
        )
