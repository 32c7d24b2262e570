"""Text classification."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from tgt_ray.config import digest
from tgt_ray.data import AnyTextSource, Labelled, Run, Splits, TextRows
from tgt_ray.tasks.base import TaskData, corpus_vocabulary
from tgt_ray.tasks.classification import Classification
from tgt_ray.texts import TextShape, shown, to_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from tgt_ray.storage import Storage

log = logging.getLogger(__name__)

#: Characters that a log line shows of a text.
BEGINNING = 60


class TextClassification(Classification):
    """Texts or pairs of sentences with one label each. Model inputs are uint8 (N, max_bytes), as `texts.to_bytes` makes them."""

    modality: ClassVar[str] = "text"
    type: Literal["text_classification"] = "text_classification"
    data: AnyTextSource
    max_bytes: int = Field(
        512, ge=8, description="bytes of UTF-8 of a row; longer texts are cut, and counted in the log"
    )
    vocabulary: int = Field(
        8000,
        ge=300,
        description="tokens at the most, of models that are trained from nothing: learnt from the texts of the whole train split, without"
        " labels",
    )
    labelled: Labelled | None = Field(
        None, description="only some rows of the train split have labels; absent: all have"
    )
    unlabelled: Literal["ignore", "anchors"] | None = Field(
        None,
        description="what the train rows are that `labelled` leaves over: anchors of explorers beside the labelled rows, or nothing;"
        " absent: anchors. Their labels are used nowhere, whichever split the teacher is pretrained on",
    )

    @model_validator(mode="after")
    def _one_subsample(self) -> TextClassification:
        if self.labelled is not None and self.long_tail is not None:
            raise ValueError("labelled and long_tail exclude each other: give one of them")
        if self.labelled is None and self.unlabelled is not None:
            raise ValueError(f"unlabelled: '{self.unlabelled}' needs labelled; without it all rows have labels")
        return self

    def scan(self) -> TaskData:
        splits = self.data.scan()
        self._report_cuts(splits)
        train, full = self.student_rows(splits), splits.train
        rows = {"train": train, "full": full, "validation": splits.validation, "test": splits.test}
        if self.labelled is not None:
            chosen = self.labelled.choose(full.labels, splits.num_classes)
            rest = np.setdiff1d(np.arange(len(full)), chosen)
            rows["train"], rows["full"] = full.take(chosen), full.without_labels(rest)
            if self.unlabelled != "ignore" and len(rest):
                rows["unlabelled"] = rows["full"].take(rest)
        return TaskData(
            tables={name: each.to_table() for name, each in rows.items()},
            num_classes=splits.num_classes,
            input_shape=(self.max_bytes,),
            # What models see of a text depends on where it is cut, and on its tokens.
            fingerprints={
                name: digest(each.fingerprint(), self.max_bytes, self.vocabulary) for name, each in rows.items()
            },
            class_names=splits.class_names,
        )

    def read(self, scan: TaskData, storage: Storage | None, run: Run) -> TaskData:
        texts = scan.tables["full"]["text"].to_pylist()
        tokenizer = corpus_vocabulary(texts, self.vocabulary, [scan.fingerprints["full"]], storage)
        # Models with this vocabulary see of a split's texts what the texts of all of train have made of it.
        fingerprints = {name: digest(each, tokenizer) for name, each in scan.fingerprints.items()}
        return replace(scan, input_shape=TextShape(scan.input_shape, tokenizer), fingerprints=fingerprints)

    def _report_cuts(self, splits: Splits[TextRows]) -> None:
        """One line in the log where texts are longer than a row."""
        counts, longest, beginning = [], 0, ""
        for name in ("train", "validation", "test"):
            rows: TextRows = getattr(splits, name)
            sizes = pc.binary_length(rows.texts).to_numpy()
            long = np.flatnonzero(sizes > self.max_bytes)
            counts.append(f"{len(long)} of {len(rows)} in {name}")
            longest = max(longest, int(sizes.max()))
            if len(long) and not beginning:
                beginning = shown(rows.texts[int(long[0])].as_py())[:BEGINNING]
        if beginning:
            log.warning(
                "texts longer than task.max_bytes %d are cut: %s; the longest has %d bytes; the first begins %r",
                self.max_bytes,
                ", ".join(counts),
                longest,
                beginning,
            )

    def inputs(self, table: pa.Table, input_shape: tuple[int, ...]) -> Tensor:
        import torch

        return torch.from_numpy(to_bytes(table["text"].to_pylist(), input_shape[0]))
