"""Losses of the label for long-tailed data, against a second computation in numpy."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.helpers.numerics import log_softmax
from tgt_ray.objectives import Distillation, Facts
from tgt_ray.objectives.label_losses import LDAM, CrossEntropy, LogitAdjusted

COUNTS = np.array([100, 40, 10, 4])
LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.5, 0.5, 0.5, 3.0], [-1.0, 2.0, 0.3, 0.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 3, 2])


def test_cross_entropy_knows_no_prior():
    loss = CrossEntropy().build(COUNTS)(LOGITS, LABELS)
    np.testing.assert_allclose(loss, -log_softmax(LOGITS.numpy())[range(3), LABELS], rtol=1e-6)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_logit_adjustment_adds_the_log_prior(tau):
    loss = LogitAdjusted(tau=tau).build(COUNTS)(LOGITS, LABELS)
    adjusted = LOGITS.numpy() + tau * np.log(COUNTS / COUNTS.sum())
    np.testing.assert_allclose(loss, -log_softmax(adjusted)[range(3), LABELS], rtol=1e-6)


def test_margins_follow_the_fourth_root_and_weights_come_late():
    loss = LDAM(cosine_scale=20, max_margin=0.4, defer=0.8, beta=0.99).build(COUNTS)
    margins = COUNTS**-0.25 / (4**-0.25) * 0.4 * 20
    assert margins.max() == margins[3] == pytest.approx(8)
    logits = LOGITS.numpy().copy()
    logits[range(3), LABELS] -= margins[LABELS]
    plain = -log_softmax(logits)[range(3), LABELS]
    loss.advance(0.79)
    np.testing.assert_allclose(loss(LOGITS, LABELS), plain, rtol=1e-5)
    weights = 0.01 / (1 - 0.99**COUNTS)
    loss.advance(0.8)
    # The mean over rows is sum(w l) / sum(w), as torch's weighted cross-entropy has it.
    ours = loss(LOGITS, LABELS)
    np.testing.assert_allclose(ours.mean(), (plain * weights[LABELS]).sum() / weights[LABELS].sum(), rtol=1e-5)
    oracle = F.cross_entropy(torch.from_numpy(logits), LABELS, weight=torch.from_numpy(weights))
    np.testing.assert_allclose(ours.mean(), oracle, rtol=1e-5)
    # Two rare rows weigh what each alone does: a step's level doesn't depend on which classes it has drawn.
    rare = loss(LOGITS[[1, 1]], LABELS[[1, 1]])
    np.testing.assert_allclose(rare, plain[[1, 1]], rtol=1e-5)
    assert loss(LOGITS[:0], LABELS[:0]).sum() == 0


def test_weights_of_mixed_rows_are_those_of_their_shares():
    loss = LDAM(cosine_scale=20, max_margin=0.4, defer=0, beta=0.99).build(COUNTS)
    loss.advance(1.0)
    shares = np.array([[0.25, 0.75, 0, 0], [0, 0, 0.5, 0.5], [1, 0, 0, 0.0]])
    weights = shares @ (0.01 / (1 - 0.99**COUNTS))
    margins = COUNTS**-0.25 / (4**-0.25) * 0.4 * 20
    rows = -(shares * log_softmax(LOGITS.numpy() - shares * margins)).sum(axis=1)
    found = loss(LOGITS, torch.from_numpy(shares)).mean()
    np.testing.assert_allclose(found, (weights * rows).sum() / weights.sum(), rtol=1e-5)


@pytest.mark.parametrize("kind", [CrossEntropy(), LogitAdjusted(), LDAM(defer=0)])
def test_shares_of_classes_that_are_one_class_are_its_label(kind):
    loss = kind.build(COUNTS)
    loss.advance(1.0)
    torch.testing.assert_close(loss(LOGITS, F.one_hot(LABELS, 4).double()), loss(LOGITS, LABELS))


def test_the_posthoc_adjustment_changes_scores_and_not_the_loss():
    torch.manual_seed(0)
    plain = Distillation(alpha=0.0).build(6, Facts(4, COUNTS))
    adjusted = Distillation(alpha=0.0, posthoc_adjustment=1.5).build(6, Facts(4, COUNTS))
    adjusted.load_state_dict(plain.state_dict())
    embedding, teacher = torch.randn(3, 6), {"logits": torch.randn(3, 4)}
    assert adjusted(embedding, LABELS, teacher, {}).value == plain(embedding, LABELS, teacher, {}).value
    shift = (plain.scores(embedding) - adjusted.scores(embedding)).detach().numpy()
    np.testing.assert_allclose(shift, np.tile(1.5 * np.log(COUNTS / COUNTS.sum()), (3, 1)), rtol=1e-4)


def test_a_cosine_head_does_not_see_lengths():
    criterion = Distillation(alpha=0.5, label_loss=LDAM(cosine_scale=7)).build(6, Facts(4, COUNTS))
    embedding = torch.randn(5, 6)
    torch.testing.assert_close(criterion.scores(embedding), criterion.scores(3 * embedding))
    assert criterion.scores(embedding).abs().max() <= 7
