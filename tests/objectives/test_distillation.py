"""Distillation, against its formula and values worked out by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.numerics import log_softmax, with_identity_head
from tgt_ray.models.numerics import kl_rows
from tgt_ray.objectives import Distillation, Facts

K = 5
COUNTS = np.array([50, 20, 10, 5, 1])


def criterion(**settings) -> nn.Module:
    """A criterion whose head passes the embedding on, so that tests choose the student's logits."""
    return with_identity_head(Distillation(**settings).build(K, Facts(K, COUNTS)).double(), K)


def reference(student, labels, teacher, alpha, temperature, scale):
    """METHODS.md section 1, written down a second time: means over each kind of row, weighted by its share."""
    real, rows = len(labels), len(student)
    factor = temperature**2 if scale else 1.0
    log_p, log_q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    kl = factor * (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    total = 0.0
    if real:
        ce = -log_softmax(student)[np.arange(real), labels].mean()
        total += real / rows * ((1 - alpha) * ce + alpha * kl[:real].mean())
    if rows > real:
        total += (rows - real) / rows * kl[real:].mean()
    return total


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("real, synthetic", [(6, 0), (0, 6), (4, 2), (1, 7)])
def test_the_loss_equals_the_formula(temperature, alpha, scale, real, synthetic):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 3, (2, real + synthetic, K))
    labels = rng.integers(K, size=real)
    loss = criterion(alpha=alpha, temperature=temperature, scale_by_t2=scale)(
        torch.from_numpy(student), torch.from_numpy(labels), {"logits": torch.from_numpy(teacher)}, {}
    )
    expected = reference(student, labels, teacher, alpha, temperature, scale)
    np.testing.assert_allclose(loss.value.detach(), expected, rtol=1e-10)


STUDENT = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]], dtype=torch.float64)
TEACHER = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], dtype=torch.float64)


# Worked out by hand from softmax(1, 2, 3) = (.0900306, .2447285, .6652410)
# and softmax(.5, 1, 1.5) = (.1863237, .3071959, .5064804).
@pytest.mark.parametrize(
    "settings, labels, expected",
    [
        ({"alpha": 0.0, "temperature": 2.0}, [0, 0], 0.4076060),
        ({"alpha": 1.0, "temperature": 1.0}, [0, 0], 1.1504208),
        ({"alpha": 1.0, "temperature": 2.0, "scale_by_t2": False}, [0, 0], 0.3201567),
        ({"alpha": 1.0, "temperature": 2.0}, [0, 0], 1.2806268),
        ({"alpha": 0.25, "temperature": 2.0}, [0, 0], 0.75 * 0.4076060 + 0.25 * 1.2806268),
        ({"alpha": 0.25, "temperature": 2.0}, [0], (0.75 * 0.4076060 + 0.25 * 1.2806268 + 1.2806268) / 2),
        ({"alpha": 0.0, "temperature": 2.0}, [], 1.2806268),
    ],
)
def test_golden_values(settings, labels, expected):
    module = with_identity_head(Distillation(**settings).build(3, Facts(3, np.array([3, 2, 1]))).double(), 3)
    value = module(STUDENT, torch.tensor(labels, dtype=torch.int64), {"logits": TEACHER}, {}).value.item()
    assert value == pytest.approx(expected, abs=2e-6)


def test_one_hot_is_cross_entropy():
    torch.manual_seed(0)
    logits, teacher, labels = torch.randn(7, K).double(), torch.randn(7, K).double(), torch.randint(K, (7,))
    loss = criterion(alpha=0.0)(logits, labels, {"logits": teacher}, {})
    assert float(loss.value) == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-12)
    assert float(loss.parts["ce"]) == pytest.approx(float(loss.value), rel=1e-12)


def test_kl_agrees_with_torch():
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 9, K).double()
    expected = nn.functional.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
    assert float(kl_rows(teacher, student).mean()) == pytest.approx(float(expected), rel=1e-12)
    assert (kl_rows(teacher, student) > 0).all()
    assert kl_rows(teacher, teacher).abs().max() == 0


def gradient_norm(temperature: float, scale: bool) -> float:
    torch.manual_seed(0)
    logits, teacher = torch.randn(8, K).double().requires_grad_(), torch.randn(8, K).double()
    criterion(alpha=1.0, temperature=temperature, scale_by_t2=scale)(
        logits, torch.zeros(8, dtype=torch.int64), {"logits": teacher}, {}
    ).value.backward()
    return float(logits.grad.norm())


def test_t_squared_keeps_the_size_of_the_gradient():
    assert gradient_norm(40, True) / gradient_norm(20, True) == pytest.approx(1, rel=0.05)
    assert gradient_norm(40, False) / gradient_norm(20, False) == pytest.approx(1 / 4, rel=0.05)


def test_parts_are_means_over_their_own_rows_and_detached():
    torch.manual_seed(0)
    logits, teacher = torch.randn(6, K).double().requires_grad_(), torch.randn(6, K).double()
    labels = torch.randint(K, (4,))
    loss = criterion(alpha=0.5, temperature=1.0)(logits, labels, {"logits": teacher}, {})
    kl = kl_rows(teacher, logits.detach())
    assert float(loss.parts["kl_real"]) == pytest.approx(float(kl[:4].mean()))
    assert float(loss.parts["kl_synthetic"]) == pytest.approx(float(kl[4:].mean()))
    assert not any(part.requires_grad for part in loss.parts.values())


def test_synthetic_rows_claim_no_label():
    torch.manual_seed(0)
    logits, teacher = torch.randn(6, K).double(), torch.randn(6, K).double()
    module = criterion(alpha=0.0)
    moved = logits.clone()
    moved[4:] = teacher[4:]
    without_synthetic_loss = module(moved, torch.zeros(4, dtype=torch.int64), {"logits": teacher}, {})
    assert float(without_synthetic_loss.parts["kl_synthetic"]) == pytest.approx(0, abs=1e-12)
    assert float(without_synthetic_loss.value) == pytest.approx(
        4 / 6 * float(nn.functional.cross_entropy(logits[:4], torch.zeros(4, dtype=torch.int64)))
    )


def test_the_head_trains_with_the_loss():
    module = Distillation().build(3, Facts(K, COUNTS))
    assert module.scores(torch.randn(2, 3)).shape == (2, K)
    module(torch.randn(4, 3), torch.tensor([0, 1]), {"logits": torch.randn(4, K)}, {}).value.backward()
    assert module.head.weight.grad.abs().sum() > 0
