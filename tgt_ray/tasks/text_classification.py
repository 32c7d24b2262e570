"""Text classification sorts texts into classes."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from tgt_ray.core.fingerprint import digest
from tgt_ray.core.texts import as_read, shown, to_bytes
from tgt_ray.data import AnyTextSource, Labelled, MapParts, Splits, TextRows, Unlabelled
from tgt_ray.data.texts.base import BEGINNING
from tgt_ray.models.text.vocabulary import corpus_vocabulary
from tgt_ray.tasks.base import VOCABULARY_SPLIT, Table, TaskData, VocabularySplit
from tgt_ray.tasks.classification import Classification
from tgt_ray.tasks.leaks import without_leaks

if TYPE_CHECKING:
    from torch import Tensor

    from tgt_ray.core.storage import Storage

log = logging.getLogger(__name__)


class TextClassification(Classification):
    """Text classification sorts texts or pairs of sentences into classes; each has one label.

    Model inputs are UTF-8 bytes, uint8 (N, max_bytes), as `texts.to_bytes` makes them.
    """

    modality: ClassVar[str] = "text"
    type: Literal["text_classification"] = "text_classification"
    data: AnyTextSource = Field(description="where the texts and their labels come from")
    max_bytes: int = Field(
        512,
        ge=8,
        le=2**20,
        description="largest size of a row in bytes of UTF-8; longer texts are cut, and the log says how many",
    )
    vocabulary: int = Field(
        8000,
        ge=300,
        le=2**20,
        description="largest number of tokens in the vocabulary of models that are trained from scratch; it is learnt"
        " from texts as `max_bytes` cuts them, without labels",
    )
    vocabulary_split: VocabularySplit = VOCABULARY_SPLIT
    labelled: Labelled | None = Field(
        None, description="keep the labels of only some rows of the train split; absent: of all that have one"
    )
    unlabelled: Unlabelled | None = Field(
        None,
        description="whether explorers start from the train rows whose labels `labelled` removes: `anchors`: they do,"
        " in addition to the labelled rows; `ignore`: they do not; absent: anchors. The removed labels are never used,"
        " whichever split the teacher is pretrained on. Rows without a label in the data (null, empty or -1) are"
        " accepted only where this is set: in train, `anchors` treats them in the same way, and `ignore` leaves them"
        " out of everything, vocabulary and pretraining included; in validation and test they are always left out",
    )

    def few_labels(self) -> tuple[Labelled | None, Unlabelled | None]:
        return self.labelled, self.unlabelled

    @property
    def pair_column(self) -> str | None:
        return self.data.pair_column

    def scan(self) -> TaskData:
        splits = self.data.scan(self.unlabelled)
        self._report_cuts(splits)
        rows = self.rows_of(splits)
        return TaskData(
            tables={name: each.to_table() for name, each in rows.items()},
            num_classes=splits.num_classes,
            input_shape=(self.max_bytes,),
            # Where texts are cut and which tokens there are changes what models see of them.
            fingerprints={
                name: digest(each.fingerprint(), self.max_bytes, self.vocabulary) for name, each in rows.items()
            },
            class_names=splits.class_names,
            left_out=splits.left_out,
        )

    def read(self, scan: TaskData, storage: Storage | None, run: MapParts) -> TaskData:
        scan = without_leaks(self, scan, self.data.drop_leaks)
        learnt_from = scan.learnt_from(self.vocabulary_split)
        texts = [text for name in learnt_from for text in self.texts(name, scan.tables[name])[1]]
        made_from = [scan.fingerprints[name] for name in learnt_from]
        tokenizer = corpus_vocabulary(texts, self.vocabulary, made_from, storage)
        # The vocabulary changes what models see of the texts of any split.
        fingerprints = {name: digest(each, tokenizer) for name, each in scan.fingerprints.items()}
        return replace(scan, tokenizer=tokenizer, fingerprints=fingerprints)

    def _report_cuts(self, splits: Splits[TextRows]) -> None:
        """Log one warning where texts are longer than `max_bytes`."""
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

    def texts(self, name: str, table: Table) -> tuple[str, list[str]]:
        return "train texts", as_read(table["text"].to_pylist(), self.max_bytes)

    def most_bytes(self, name: str) -> int:
        return self.max_bytes

    def inputs(self, table: pa.Table, input_shape: tuple[int, ...]) -> Tensor:
        import torch

        return torch.from_numpy(to_bytes(table["text"].to_pylist(), input_shape[0]))
