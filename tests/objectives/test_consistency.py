"""Consistency of a student with itself."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.numerics import log_softmax, with_identity_head
from tgt_ray.objectives import Consistency, Facts

K = 5
COUNTS = np.array([50, 20, 10, 5, 1])


def test_consistency_follows_the_student_s_own_prediction_on_the_anchor():
    rng, real, made = np.random.default_rng(0), 3, 6
    student = rng.normal(size=(real + made, K)) * 2
    anchors = rng.normal(size=(made, K)) * 2
    labels = np.array([0, 3, 1])
    objective = Consistency(weight=0.7, sharpening=0.5, threshold=0.6)
    module = with_identity_head(objective.build(K, Facts(K, COUNTS)).double(), K)
    embedding, of_anchors = (torch.tensor(each, requires_grad=True) for each in (student, anchors))
    teacher = {"logits": torch.zeros(real + made, K)}
    loss = module(embedding, torch.tensor(labels), teacher, {"anchor_inputs": of_anchors})
    total, sure = 0.0, 0
    for row in range(real):
        total -= log_softmax(student[row : row + 1])[0, labels[row]]
    for row in range(made):
        p = np.exp(log_softmax(anchors[row : row + 1]))[0]
        if p.max() > 0.6:
            sure += 1
            sharp = p**2 / (p**2).sum()
            total += 0.7 * (sharp * (np.log(sharp) - log_softmax(student[real + row : real + row + 1])[0])).sum()
    assert 0 < sure < made, "the test has rows of both kinds"
    assert float(loss.value) == pytest.approx(total / (real + made), rel=1e-9)
    assert float(loss.parts["sure"]) == pytest.approx(sure / made)
    of_rows, of_target = torch.autograd.grad(loss.value, (embedding, of_anchors), allow_unused=True)
    assert of_rows.any() and of_target is None, "the target is not trained"


def test_consistency_without_synthetic_rows_is_one_hot_training():
    module = with_identity_head(Consistency().build(K, Facts(K, COUNTS)).double(), K)
    logits, labels = torch.randn(4, K, dtype=torch.double), torch.tensor([0, 1, 2, 3])
    loss = module(logits, labels, {"logits": torch.zeros(4, K)}, {"anchor_inputs": logits[:0]})
    assert float(loss.value) == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-12)
