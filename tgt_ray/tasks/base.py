"""What a task is: rows of each split, how rows become tensors, and what is measured."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import pyarrow as pa

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import Component
from tgt_ray.data import MapParts, StoredTable, in_this_process

if TYPE_CHECKING:
    from torch import Tensor

    from tgt_ray.core.storage import Storage

#: Rows in memory, or in files of the storage.
Table: TypeAlias = pa.Table | StoredTable


@dataclass(frozen=True)
class TaskData:
    """A task's rows and what models need to know of them.

    tables: the splits `train` (what the student may use), `full` (train before any subsampling: what a teacher is pretrained on),
        `validation` (selects models) and `test` (measured once), and perhaps `unlabelled` (further rows that explorers may start from).
        Each table has the columns `id` and `label`; the inputs' columns are the task's own. Ids of `train` and `unlabelled` differ. A
        row whose label must not be used, in `full` and `unlabelled`, has the label -1
    num_classes: K
    input_shape: of one row's inputs
    fingerprints: of each table's content
    class_names: where the data has any
    tokenizer: of texts, the vocabulary of models without one of their own, as JSON of the library `tokenizers`
    """

    tables: dict[str, Table]
    num_classes: int
    input_shape: tuple[int, ...]
    fingerprints: dict[str, str]
    class_names: tuple[str, ...] = ()
    tokenizer: str = ""

    @property
    def spec(self) -> InputSpec:
        """What models are built for."""
        return InputSpec(self.input_shape, self.tokenizer)

    def labels(self, split: str) -> np.ndarray:
        return self.tables[split]["label"].to_numpy()

    @cached_property
    def class_counts(self) -> np.ndarray:
        """(K,) rows of each class in the train split."""
        return np.bincount(self.labels("train"), minlength=self.num_classes)


class Task(Component):
    """A learning problem on some data."""

    metric_names: ClassVar[tuple[str, ...]] = ()  # what `evaluate` may give, in percent or counts
    modality: ClassVar[str] = "image"  # of its inputs: "image", "text" or "any"
    # Its classes are the documents of a table `documents`, which the labeler embeds.
    has_documents: ClassVar[bool] = False
    details_file: ClassVar[str] = "per_class.csv"  # the name of what `details` gives, in a run's folder

    @property
    def has_unlabelled(self) -> bool:
        """Whether there are rows without labels beside those of train, as far as the config says."""
        return False

    @property
    def pair_column(self) -> str | None:
        """The column of second sentences, where a row has two."""
        return None

    @abstractmethod
    def scan(self) -> Any:
        """What can be known and checked of the data at once, for `read`. ConfigError for bad data."""

    @abstractmethod
    def read(self, scan: Any, storage: Storage | None, run: MapParts) -> TaskData:
        """The data. What takes work is done by `run` and kept in `storage`. ConfigError for bad data."""

    def load(self, storage: Storage | None = None, run: MapParts = in_this_process) -> TaskData:
        """`scan` and `read`."""
        return self.read(self.scan(), storage, run)

    @abstractmethod
    def inputs(self, table: pa.Table, input_shape: tuple[int, ...]) -> Tensor:
        """The models' inputs (N, ...) of all rows of a table in memory."""

    def texts(self, name: str, table: Table) -> tuple[str, list[str]] | None:
        """What people call the rows of a table, and their texts; None where its inputs are none."""
        return None

    def reduce(self, scores_BK: Tensor) -> Tensor:
        """Of some rows' scores what `evaluate` and `details` take of them, (B, ...): where there are many classes not all of them."""
        return scores_BK.float()

    @abstractmethod
    def evaluate(self, reduced_N: np.ndarray, table: Table, class_counts_K: np.ndarray) -> dict[str, Any]:
        """Metrics of a model's scores of a table's rows, `reduce`d, by name. class_counts_K: rows of each class in the student's train
        split."""

    def metrics_of(self, data: TaskData) -> tuple[str, ...]:
        """What `evaluate` gives on this data: some metrics may need rows that it hasn't."""
        return self.metric_names

    def metrics_of_scan(self, scan: Any) -> tuple[str, ...]:
        """The same before the data is read, as far as it can be known: what is not among these, `evaluate` won't give."""
        return self.metrics_of(scan) if isinstance(scan, TaskData) else self.metric_names

    def details(
        self, reduced_N: np.ndarray, tables: dict[str, Table], class_counts_K: np.ndarray, class_names: tuple[str, ...]
    ) -> pa.Table | None:
        """The same of the rows of tables["test"], class by class, or query by query, where that makes sense. tables: all that the student
        has."""
        return None
