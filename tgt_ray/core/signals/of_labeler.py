"""Defines signals of the labeler: raw logits, the embedding before its head, and its first class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tgt_ray.core.signals.base import Column, Seen, Signal, TeacherSide

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Logits(Signal):
    """Raw logits of all classes, so that every temperature shares them."""

    name: ClassVar[str] = "logits"
    columns: ClassVar[tuple[Column, ...]] = (Column("logits", "float32", "(K,)"),)
    looks_at_labels: ClassVar[bool] = False

    def of(self, seen: Seen) -> dict[str, Tensor]:
        assert seen.said is not None
        return {"logits": seen.said.logits}

    def lacking(self, teacher: TeacherSide) -> str | None:
        return None if teacher.classes else "the labeler scores documents, too many for logits of all of them"

    @property
    def mixes(self) -> bool:
        return True

    def mixed(self, columns: Mapping[str, Any], other: Any, share: float) -> dict[str, Any]:
        """Mix probabilities as images and labels are mixed (our choice)."""
        import torch

        p = columns["logits"].softmax(dim=1)
        return {"logits": torch.lerp(p[other], p, share).clamp_min(1e-12).log()}


@dataclass(frozen=True)
class Embedding(Signal):
    """The input of the labeler's head."""

    name: ClassVar[str] = "embedding"
    columns: ClassVar[tuple[Column, ...]] = (Column("embedding", "float32", "(E,)"),)
    looks_at_labels: ClassVar[bool] = False

    def of(self, seen: Seen) -> dict[str, Tensor]:
        assert seen.said is not None
        return {"embedding": seen.said.embedding}


@dataclass(frozen=True)
class Top(Signal):
    """The likeliest class and its probability: all that is kept where classes are many, and what people look at."""

    name: ClassVar[str] = "top"
    columns: ClassVar[tuple[Column, ...]] = (Column("top_class", "int64", "()"), Column("top_share", "float32", "()"))
    looks_at_labels: ClassVar[bool] = False

    def of(self, seen: Seen) -> dict[str, Tensor]:
        import torch

        assert seen.said is not None
        logits = seen.said.logits
        # Autocast's half precision is too coarse for probabilities.
        share, first = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(dim=1).max(dim=1)
        return {"top_class": first, "top_share": share}


LOGITS, EMBEDDING, TOP = Logits(), Embedding(), Top()
