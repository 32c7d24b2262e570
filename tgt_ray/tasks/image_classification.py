"""Image classification sorts images into classes."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from tgt_ray.core.config import SINCE_0_2
from tgt_ray.data import AnySource, Digits, ImageRows, Labelled, MapParts, Splits, Unlabelled
from tgt_ray.data.account import LeftOut
from tgt_ray.tasks.base import TaskData
from tgt_ray.tasks.classification import Classification
from tgt_ray.tasks.leaks import several_labels, without_leaks

if TYPE_CHECKING:
    from torch import Tensor

    from tgt_ray.core.storage import Storage

log = logging.getLogger(__name__)


class ImageClassification(Classification):
    """Image classification sorts images into classes; each image has one label.

    Model inputs are float32 (N, C, H, W) in [0, 1]; each model normalises them itself.
    """

    pixels: ClassVar[bool] = True

    type: Literal["image_classification"] = "image_classification"
    data: AnySource = Field(default_factory=Digits, description="where the images and their labels come from")

    labelled: Labelled | None = Field(
        None,
        description="keep the labels of only some images of the train split; absent: of all",
        json_schema_extra=SINCE_0_2,
    )
    unlabelled: Unlabelled | None = Field(
        None,
        description="whether explorers start from the images whose labels `labelled` removes, and from those of"
        " `data.unlabelled`: `anchors`: they do, in addition to the labelled ones; `ignore`: they do not; absent:"
        " anchors. The removed labels are never used, whichever split the teacher is pretrained on",
        json_schema_extra=SINCE_0_2,
    )

    def few_labels(self) -> tuple[Labelled | None, Unlabelled | None]:
        # A source that names further images without labels asks for them by that.
        further: Unlabelled | None = "anchors" if getattr(self.data, "unlabelled", None) is not None else None
        return self.labelled, self.unlabelled or further

    def scan(self) -> Any:
        found = self.data.scan()
        return self._task_data(found) if isinstance(found, Splits) else found

    def before_reading(self, scan: Any) -> TaskData | None:
        if isinstance(scan, TaskData):
            return scan
        counted = self.data.counted(scan)
        if counted is None:
            return None
        return replace(self._task_data(counted), input_shape=self.data.shape_of(scan) or ())

    def read(self, scan: Any, storage: Storage | None, run: MapParts) -> TaskData:
        data = scan if isinstance(scan, TaskData) else self._task_data(self.data.read(scan, storage, run))
        data = without_leaks(self, data, self.data.drop_leaks)
        self._report_two_labels(scan, data)
        return data

    def _report_two_labels(self, scan: Any, data: TaskData) -> None:
        """Log a warning where an image comes with more than one label in a split."""
        for split, table in (("train", "full"), ("validation", "validation"), ("test", "test")):
            count, rows = several_labels(data.keys[table], data.labels(table))
            if not count:
                continue
            ids = data.tables[table]["id"].to_numpy()
            said = [
                f"{self.data.name_of(scan, split, int(ids[row]))} is {self._class_name(data, int(label))}"
                for row, label in zip(rows, data.labels(table)[list(rows)], strict=True)
            ]
            log.warning("%s: %d images come with more than one label, the first: %s", split, count, ", ".join(said))

    @staticmethod
    def _class_name(data: TaskData, label: int) -> str:
        return f"'{data.class_names[label]}'" if data.class_names else str(label)

    def _task_data(self, splits: Splits[Any]) -> TaskData:
        known = np.flatnonzero(splits.train.labels >= 0)
        lost = len(splits.train) - len(known)
        if lost and self.unlabelled == "ignore":
            entry = LeftOut("images without labels, since task.unlabelled is ignore", lost, "train")
            splits = replace(splits, train=splits.train.take(known), left_out=(*splits.left_out, entry))
        rows = self.rows_of(splits)
        return TaskData(
            tables={name: r.to_table() for name, r in rows.items()},
            num_classes=splits.num_classes,
            input_shape=rows["train"].shape,
            fingerprints={name: r.fingerprint() for name, r in rows.items()},
            class_names=splits.class_names,
            left_out=splits.left_out,
        )

    def inputs(self, table: pa.Table, input_shape: tuple[int, ...]) -> Tensor:
        import torch

        channels, height, width = input_shape
        images = ImageRows.from_table(table, (channels, height, width)).images
        # `astype` copies, so Arrow's read-only memory is never written to.
        return torch.from_numpy(images.astype(np.float32)).div_(255)

    def metrics_of_scan(self, scan: Any) -> tuple[str, ...]:
        labels = None if isinstance(scan, TaskData) else self.data.labels(scan)
        if labels is None:
            return super().metrics_of_scan(scan)
        train, num_classes = labels["train"], len(scan.class_names)
        train = train[train >= 0]
        if self.long_tail is not None:
            train = train[self.long_tail.subsample(train, num_classes)]
        if self.labelled is not None:
            train = train[self.labelled.choose(train, num_classes)]
        return self.metrics_from(labels["validation"], np.bincount(train, minlength=num_classes))
