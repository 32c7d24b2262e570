"""Image classification."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from tgt_ray import metrics
from tgt_ray.config import ConfigError
from tgt_ray.data import AnySource, Digits, ImageRows, LongTail
from tgt_ray.tasks.base import Task, TaskData

if TYPE_CHECKING:
    from torch import Tensor


class ImageClassification(Task):
    """Images with one label each. Model inputs are float32 (N, C, H, W) in [0, 1]; models normalise for themselves."""

    metric_names: ClassVar[tuple[str, ...]] = ("balanced_accuracy", "accuracy", "worst_class_recall")
    type: Literal["image_classification"] = "image_classification"
    data: AnySource = Field(default_factory=Digits)
    long_tail: LongTail | None = Field(None, description="subsample the student's train split; absent: all rows")

    def load(self) -> TaskData:
        splits = self.data.load()
        train = splits.train
        if self.long_tail is not None:
            train = train.take(self.long_tail.subsample(train.labels, splits.num_classes))
        empty = sorted(set(range(splits.num_classes)) - set(np.unique(train.labels).tolist()))
        if empty:
            raise ConfigError(f"task.data: class {empty[0]} has no row in the train split")
        rows: dict[str, ImageRows] = {
            "train": train,
            "full": splits.train,
            "validation": splits.validation,
            "test": splits.test,
        }
        return TaskData(
            tables={name: r.to_table() for name, r in rows.items()},
            num_classes=splits.num_classes,
            input_shape=train.images.shape[1:],
            fingerprints={name: r.fingerprint() for name, r in rows.items()},
        )

    def inputs(self, table: pa.Table, input_shape: tuple[int, ...]) -> Tensor:
        import torch

        channels, height, width = input_shape
        images = ImageRows.from_table(table, (channels, height, width)).images
        # The copy is float anyway, so Arrow's read-only memory is never written to.
        return torch.from_numpy(images.astype(np.float32)).div_(255)

    def evaluate(self, scores_NK: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
        return metrics.classification(scores_NK, labels_N)
