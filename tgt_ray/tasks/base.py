"""A task defines the rows of each split, how rows become tensors, and what is measured."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from pydantic import Field

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import SINCE_0_2, Component
from tgt_ray.data import HeldForCalibration, MapParts, StoredTable, in_this_process
from tgt_ray.data.account import LeftOut, said

if TYPE_CHECKING:
    from torch import Tensor

    from tgt_ray.core.storage import Storage

#: Rows in memory, or in files in the storage.
Table: TypeAlias = pa.Table | StoredTable

#: Which rows a vocabulary is learnt from: those that students and explorers may use, or all of train.
VocabularySplit = Literal["train", "full"]
VOCABULARY_SPLIT: Any = Field(
    "train",
    description="rows that the vocabulary is learnt from: `train` has those that the student and the explorer may use;"
    " `full` is the train split before the long tail, and before `labelled` and `unlabelled` take rows away",
)


@dataclass(frozen=True)
class TaskData:
    """Holds a task's rows and what models need to know about them.

    - tables: the splits `train` (what the student may use), `full` (train before any subsampling: what a teacher is
      pretrained on), `validation` (selects models) and `test` (measured once); optionally `unlabelled` (further rows
      that explorers may start from) and `calibration` (rows of validation that nothing else has seen). Each table has
      the columns `id` and `label`; the columns of the inputs depend on the task. Ids are unique across `train` and
      `unlabelled`. In `full` and `unlabelled`, a row whose label must not be used has the label -1
    - num_classes: K
    - input_shape: shape of one row's inputs
    - fingerprints: fingerprint of each table's content
    - class_names: empty where the data has no names
    - tokenizer: for texts, the vocabulary of models that have none of their own, as JSON of the library `tokenizers`
    - left_out: what is not used of what the user gave
    - leaks: rows of test and of validation that are in train, or among unlabelled rows, as well
    - keys: what stands for the content of each row, by table, as far as it is known: see `tgt_ray.tasks.leaks`
    """

    tables: dict[str, Table]
    num_classes: int
    input_shape: tuple[int, ...]
    fingerprints: dict[str, str]
    class_names: tuple[str, ...] = ()
    tokenizer: str = ""
    left_out: tuple[LeftOut, ...] = ()
    leaks: dict[str, int] = field(default_factory=dict)
    keys: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @property
    def spec(self) -> InputSpec:
        """What models need to know to be built for these rows."""
        return InputSpec(self.input_shape, self.tokenizer)

    def labels(self, split: str) -> np.ndarray:
        return self.tables[split]["label"].to_numpy()

    def learnt_from(self, split: VocabularySplit) -> tuple[str, ...]:
        """Return the tables that a vocabulary is learnt from; none of them has a held-out row."""
        return ("full",) if split == "full" else tuple(name for name in ("train", "unlabelled") if name in self.tables)

    def account(self) -> dict[str, Any]:
        """Return what was read and what was left out, for the record."""
        return {
            "rows": {name: len(table) for name, table in self.tables.items()},
            "classes": self.num_classes,
            "left_out": [asdict(each) for each in self.left_out],
            "leaks": self.leaks,
        }

    @cached_property
    def class_counts(self) -> np.ndarray:
        """Rows of each class in the train split, (K,)."""
        return np.bincount(self.labels("train"), minlength=self.num_classes)


def take(table: Table, rows: np.ndarray) -> Table:
    """Return the rows of a table at these places."""
    return table.take(pa.array(rows)) if isinstance(table, pa.Table) else table.take(rows)


class Task(Component):
    """A task is a learning problem on some data."""

    calibration: HeldForCalibration = Field(
        default_factory=HeldForCalibration,
        description="validation rows that are kept for `objective.conformal`, where the run or a trial of the sweep has"
        " it; models are selected by the others",
        json_schema_extra=SINCE_0_2,
    )
    on_leaks: Literal["warn", "fail"] = Field(
        "warn",
        description="what happens where validation or test rows are in train as well, and data.drop_leaks is false; the"
        " option `--strict` sets fail",
        json_schema_extra=SINCE_0_2,
    )
    #: The metrics that `evaluate` may give, in percent or counts.
    metric_names: ClassVar[tuple[str, ...]] = ()
    #: The kind of the inputs: "image", "text" or "any".
    modality: ClassVar[str] = "image"
    #: Whether inputs are images with values in [0, 1], of which 8 bits are kept of synthetic rows.
    pixels: ClassVar[bool] = False
    #: Whether the classes are the documents of a table `documents`, which the labeler embeds.
    has_documents: ClassVar[bool] = False
    #: The name of the file with the result of `details`, in a run's folder.
    details_file: ClassVar[str] = "per_class.csv"

    @property
    def has_unlabelled(self) -> bool:
        """Whether, by the config, there are rows without labels in addition to those of train."""
        return False

    @property
    def pair_column(self) -> str | None:
        """The column of second sentences; None where a row has one text only."""
        return None

    @abstractmethod
    def scan(self) -> Any:
        """Look at the data and check it, as far as that is quick; the result goes to `read`.

        - raises ConfigError: for bad data
        """

    def before_reading(self, scan: Any) -> TaskData | None:
        """Return what a scan alone tells of the rows; None where it tells nothing.

        Images that aren't read yet have numbers in their place, and `input_shape` is empty where it isn't known.

        - scan: the result of `scan`
        """
        return scan if isinstance(scan, TaskData) else None

    @abstractmethod
    def read(self, scan: Any, storage: Storage | None, run: MapParts) -> TaskData:
        """Read the data.

        - scan: the result of `scan`
        - storage: keeps what takes work to make, such as decoded images
        - run: does the work that takes long
        - raises ConfigError: for bad data
        """

    def said(self, data: TaskData) -> str:
        """Return one line on what was read and what was left out."""
        rows = ", ".join(
            f"{name} {len(table):,}" for name, table in data.tables.items() if name not in ("full", "sources")
        )
        classes = "" if self.has_documents else f" in {data.num_classes:,} classes"
        return f"data: {rows}{classes}{said(data.left_out)}"

    def load(self, storage: Storage | None = None, run: MapParts = in_this_process) -> TaskData:
        """Scan and read the data."""
        return self.read(self.scan(), storage, run)

    @abstractmethod
    def inputs(self, table: pa.Table, input_shape: tuple[int, ...]) -> Tensor:
        """Make the models' inputs (N, ...) of all rows of a table in memory."""

    def texts(self, name: str, table: Table) -> tuple[str, list[str]] | None:
        """Return what messages call the rows of a table, and what models see of their texts; None where it has none.

        - name: the table's name
        """
        return None

    def most_bytes(self, name: str) -> int | None:
        """Return the size in bytes that texts of a table are cut to; None where they are not cut, or are no texts.

        - name: the table's name
        """
        return None

    def reduce(self, scores_BK: Tensor) -> Tensor:
        """Reduce scores (B, K) to what `evaluate` and `details` need, (B, ...), so that not all scores are kept."""
        return scores_BK.float()

    def reducer(self, tables: dict[str, Table]) -> Callable[[Tensor], Tensor]:
        """Return what reduces scores, for tasks where that depends on the data; usually `reduce` itself.

        - tables: those of the task, as far as a student has them
        """
        return self.reduce

    @abstractmethod
    def evaluate(self, reduced_N: np.ndarray, table: Table, class_counts_K: np.ndarray) -> dict[str, Any]:
        """Compute metrics of a model on a table's rows, by name.

        - reduced_N: the model's scores of the rows, after `reduce`
        - class_counts_K: rows of each class in the student's train split
        """

    def fit_temperature(self, reduced_N: np.ndarray, table: Table) -> float | None:
        """Fit the temperature that a model's scores are divided by for calibrated probabilities of classes.

        - returns: None where the scores are no logits of classes
        """
        return None

    def metrics_of(self, data: TaskData) -> tuple[str, ...]:
        """Return the metrics that `evaluate` gives on this data; some metrics need rows that the data may not have."""
        return self.metric_names

    def metrics_of_scan(self, scan: Any) -> tuple[str, ...]:
        """Return the metrics that `evaluate` may give, from a scan alone; it gives no others."""
        return self.metrics_of(scan) if isinstance(scan, TaskData) else self.metric_names

    def details(
        self, reduced_N: np.ndarray, tables: dict[str, Table], class_counts_K: np.ndarray, class_names: tuple[str, ...]
    ) -> pa.Table | None:
        """Measure the rows of tables["test"] class by class or query by query; None where a task has no such details.

        - reduced_N: the model's scores of the rows, after `reduce`
        - tables: all tables that the student has
        - class_counts_K: rows of each class in the student's train split
        """
        return None
