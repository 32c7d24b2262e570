"""Defines signals that follow from a row itself or from the anchor that it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from tgt_ray.core.signals.base import Column, Seen, Signal, TeacherSide
from tgt_ray.core.signals.values import Ragged, to_torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AnchorInputs(Signal):
    """The inputs that a synthetic row was made from; the student embeds them as well."""

    name: ClassVar[str] = "anchor_inputs"
    columns: ClassVar[tuple[Column, ...]] = (Column("anchor_inputs", "", "as the inputs"),)
    by: ClassVar[Literal["labeler", "generator", "anchor"]] = "anchor"
    real: ClassVar[bool] = False
    looks_at_anchors: ClassVar[bool] = True
    through_student: ClassVar[bool] = True

    def of(self, seen: Seen) -> dict[str, Tensor]:
        return {"anchor_inputs": seen.anchor_inputs()}


@dataclass(frozen=True)
class Document(Signal):
    """The document that a query is about: its own best answer, or that of its anchor."""

    name: ClassVar[str] = "document"
    columns: ClassVar[tuple[Column, ...]] = (Column("document", "int64", "()"),)
    by: ClassVar[Literal["labeler", "generator", "anchor"]] = "anchor"

    def of(self, seen: Seen) -> dict[str, Tensor]:
        import torch

        return {"document": torch.from_numpy(seen.labels)}

    def lacking(self, teacher: TeacherSide) -> str | None:
        return None if teacher.documents else "the task's answers are classes, not documents"


@dataclass(frozen=True)
class Answers(Signal):
    """All documents that answer a query; of a synthetic query only that of its anchor is known."""

    name: ClassVar[str] = "answers"
    columns: ClassVar[tuple[Column, ...]] = (Column("answers", "int64", "()", ragged=True),)
    by: ClassVar[Literal["labeler", "generator", "anchor"]] = "anchor"

    def of(self, seen: Seen) -> dict[str, Ragged]:
        there = seen.answers or Ragged(seen.labels, np.ones(len(seen.labels), np.int64))
        return {"answers": to_torch(there)}

    def lacking(self, teacher: TeacherSide) -> str | None:
        return DOCUMENT.lacking(teacher)


ANCHOR_INPUTS, DOCUMENT, ANSWERS = AnchorInputs(), Document(), Answers()
