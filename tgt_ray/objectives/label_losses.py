"""Label losses train real rows on their true label, for balanced and for long-tailed data."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from tgt_ray.core.config import Component, OneOf

if TYPE_CHECKING:
    from torch import nn


class LabelLoss(Component):
    """A label loss trains real rows on their true label.

    `build` returns a module that maps logits (N, K) and labels (N,) or class shares (N, K) to losses (N,). Its method
    advance(done) is called before each step with the share of the steps that are over.
    """

    cosine_head: bool = Field(
        False, description="use a head of cosines between embedding and class weights instead of a linear one"
    )
    cosine_scale: float = Field(
        30.0, gt=0, le=1e6, description="factor that the cosines of a cosine head are multiplied by"
    )

    @abstractmethod
    def build(self, class_counts_K: np.ndarray) -> nn.Module:
        """Build the module; class_counts_K has the rows of each class in the student's train split."""


class CrossEntropy(LabelLoss):
    """Trains on the plain cross-entropy of the true label."""

    type: Literal["cross_entropy"] = "cross_entropy"

    def build(self, class_counts_K: np.ndarray) -> nn.Module:
        from tgt_ray.objectives.criteria.label_losses import AdjustedCrossEntropy

        return AdjustedCrossEntropy(class_counts_K, tau=0.0)


class LogitAdjusted(LabelLoss):
    """Demands a larger margin of rare classes, by CE(z + tau log(prior)).

    Source: Menon et al. 2021, arXiv 2007.07314, equation 10.
    """

    type: Literal["logit_adjusted"] = "logit_adjusted"
    tau: float = Field(
        1.0, ge=0, le=1e6, description="strength of the adjustment; higher favours rare classes; 0: cross-entropy"
    )

    def build(self, class_counts_K: np.ndarray) -> nn.Module:
        from tgt_ray.objectives.criteria.label_losses import AdjustedCrossEntropy

        return AdjustedCrossEntropy(class_counts_K, self.tau)


class LDAM(LabelLoss):
    """Demands margins that grow with rarity, then weighs rows by class (LDAM-DRW, Cao et al. 2019, arXiv 1906.07413).

    A class of n_c rows has a margin in proportion to n_c^(-1/4) on cosine logits. After the share `defer` of the steps,
    rows are also weighted by class, by effective number (Cui et al. 2019, arXiv 1901.05555): the sum of w l over the
    labelled rows of a step, or of a worker's part of it, is divided by that of w. Defaults are those of the authors'
    code; `defer` matches its 160th of 200 epochs.
    """

    type: Literal["ldam"] = "ldam"
    cosine_head: bool = Field(
        True, description="use a head of cosines between embedding and class weights instead of a linear one"
    )
    max_margin: float = Field(
        0.5, ge=0, le=1e6, description="margin of the rarest class; higher demands more of rare classes"
    )
    defer: float = Field(0.8, ge=0, le=1, description="share of the steps before rows are weighted by class; 1: never")
    beta: float = Field(
        0.9999,
        ge=0,
        lt=1,
        description="a class of n rows weighs (1 - beta) / (1 - beta^n); 0: all classes weigh the same; close to 1:"
        " nearly in inverse proportion to n",
    )

    def build(self, class_counts_K: np.ndarray) -> nn.Module:
        from tgt_ray.objectives.criteria.label_losses import MarginLoss

        scale = self.cosine_scale if self.cosine_head else 1.0
        return MarginLoss(class_counts_K, self.max_margin, scale, self.defer, self.beta)


AnyLabelLoss = Annotated[LabelLoss, OneOf(CrossEntropy, LogitAdjusted, LDAM)]
