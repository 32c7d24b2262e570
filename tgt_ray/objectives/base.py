"""What an objective is: a config that builds the trainable head and the loss on top of a student's embedding."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from tgt_ray.core.config import Component
from tgt_ray.objectives.facts import Facts

if TYPE_CHECKING:
    from torch import nn


class Objective(Component):
    """`build` gives a module with two calls.

    forward(embedding_BD, labels, teacher_logits_BK) -> Loss; the first len(labels) rows are real, the rest synthetic. labels are
    classes (N,), or shares of classes (N, K) where rows are mixed. Where `needs_embedding`, a fourth argument is the labeler's
    embedding of each row, (B, E). Where it `answers` documents, a fifth is each row's document (B,): its label, or that of its anchor.
    Where `needs_anchors`, embedding_BD has further rows: the student's of each synthetic row's anchor. Where `needs_documents`, these are
    the student's of the batch's different documents, by their numbers, and the module has embed(embedding_BD) and an attribute
    `documents`, in which it is given what that says of all of them before it is asked for scores.
    scores(embedding_BD) -> class scores (B, K).

    It may have advance(done), called before each step with the share of the steps that are over, and an attribute `head`, a linear
    layer, for second phases of long-tailed training.
    """

    answers: ClassVar[str] = "classes"  # or "documents": what a task must have
    needs_embedding: ClassVar[bool] = False
    needs_anchors: ClassVar[bool] = False

    @property
    def needs_documents(self) -> bool:
        """Whether the student embeds documents as well."""
        return False

    def plain(self) -> dict[str, Any]:
        """Plain data of the objective that this one is compared with: distillation, with what the two have in common."""
        shared = {
            key: value
            for key, value in self.model_dump(mode="json").items()
            if key in ("alpha", "temperature", "scale_by_t2")
        }
        return {"type": "distillation", **shared}

    def check(self, facts: Facts) -> None:
        """ConfigError where this doesn't fit the task and its teacher; asked before training starts."""

    @abstractmethod
    def build(self, dim: int, facts: Facts) -> nn.Module:
        """The criterion for embeddings of `dim` numbers."""
