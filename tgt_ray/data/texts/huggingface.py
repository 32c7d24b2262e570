"""Reads text data sets of the Hugging Face library `datasets`, from a folder or from the hub."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from pydantic import Field

from tgt_ray.core.config import SINCE_0_2
from tgt_ray.data.account import left_out
from tgt_ray.data.huggingface import HuggingFaceSet
from tgt_ray.data.texts.base import RawTexts, TextSource

if TYPE_CHECKING:
    from datasets import Dataset


class HuggingFaceTexts(HuggingFaceSet, TextSource):
    """A data set of the Hugging Face library `datasets` with texts or pairs of sentences, and a class label."""

    type: Literal["huggingface"] = "huggingface"
    unlabelled: str | None = Field(
        None,
        description="the data set's name of a split with further texts for train, which task.unlabelled: anchors takes;"
        " its labels are not looked at",
        json_schema_extra=SINCE_0_2,
    )

    def own_splits(self) -> dict[str, str]:
        more = {"unlabelled": self.unlabelled} if self.unlabelled is not None else {}
        return super().own_splits() | more

    def open_splits(self) -> dict[str, RawTexts]:
        found, out = self.open(self.place()), {}
        for split, own in self.own_splits().items():
            rows = self.find_split(found, split, own)
            names = getattr(rows.features.get(self.label_column), "names", None) or ()
            out[split] = RawTexts(
                f"split '{own}' of {self.path}",
                rows.features.arrow_schema,
                partial(_columns, rows),
                tuple(names),
            )
        others = sorted(set(found) - set(self.own_splits().values()))
        account = left_out("splits that task.data doesn't name", others)
        return {**out, "train": replace(out["train"], left_out=account)}


def _columns(rows: Dataset, names: list[str]) -> pa.Table:
    return rows.select_columns(names).with_format("arrow")[:]
