"""Losses of the true label on real rows, for balanced and for long-tailed data."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from tgt_ray.core.config import Component, OneOf

if TYPE_CHECKING:
    from torch import nn


class LabelLoss(Component):
    """`build` gives a module: (logits (N, K), labels (N,) or class shares (N, K)) -> losses (N,), with advance(done), called before
    each step with the share of the steps that are over."""

    cosine_head: bool = Field(
        False, description="a head of cosines between embedding and class weights instead of a linear one"
    )
    cosine_scale: float = Field(30.0, gt=0, description="what the cosines are multiplied by")

    @abstractmethod
    def build(self, class_counts_K: np.ndarray) -> nn.Module:
        """class_counts_K: rows of each class in the student's train split."""


class CrossEntropy(LabelLoss):
    type: Literal["cross_entropy"] = "cross_entropy"

    def build(self, class_counts_K: np.ndarray) -> nn.Module:
        from tgt_ray.objectives.criteria.label_losses import AdjustedCrossEntropy

        return AdjustedCrossEntropy(class_counts_K, tau=0.0)


class LogitAdjusted(LabelLoss):
    """CE(z + tau log(prior)): rare classes need a larger margin (Menon et al. 2021, arXiv 2007.07314, equation 10)."""

    type: Literal["logit_adjusted"] = "logit_adjusted"
    tau: float = Field(1.0, ge=0)

    def build(self, class_counts_K: np.ndarray) -> nn.Module:
        from tgt_ray.objectives.criteria.label_losses import AdjustedCrossEntropy

        return AdjustedCrossEntropy(class_counts_K, self.tau)


class LDAM(LabelLoss):
    """Margins of n_c^(-1/4) on cosine logits, and after `defer` of the steps weights of the classes (LDAM-DRW, Cao et al. 2019,
    arXiv 1906.07413; the weights by effective number, Cui et al. 2019, arXiv 1901.05555). Defaults as in the authors' code, `defer`
    after its 160th of 200 epochs."""

    type: Literal["ldam"] = "ldam"
    cosine_head: bool = True
    max_margin: float = Field(0.5, ge=0, description="of the rarest class")
    defer: float = Field(0.8, ge=0, le=1, description="share of the steps before rows are weighted by class; 1: never")
    beta: float = Field(0.9999, ge=0, lt=1, description="a class of n rows weighs (1 - beta) / (1 - beta^n)")

    def build(self, class_counts_K: np.ndarray) -> nn.Module:
        from tgt_ray.objectives.criteria.label_losses import MarginLoss

        scale = self.cosine_scale if self.cosine_head else 1.0
        return MarginLoss(class_counts_K, self.max_margin, scale, self.defer, self.beta)


AnyLabelLoss = Annotated[LabelLoss, OneOf(CrossEntropy, LogitAdjusted, LDAM)]
