"""How far the teacher is trusted: conformal weights."""

import numpy as np
import pytest
import torch

from tests.helpers.numerics import softmax
from tgt_ray.objectives import Distillation, Facts
from tgt_ray.objectives.distillation import ConformalWeights
from tgt_ray.objectives.facts import CALIBRATION
from tgt_ray.tasks import with_calibration
from tgt_ray.training.local import prepare_local

K = 4
COUNTS = np.array([10, 10, 10, 10])


def calibrated(scores) -> Facts:
    return Facts(K, COUNTS, fits={CALIBRATION.name: scores})


def test_weights_follow_the_size_of_the_conformal_set():
    scores = np.linspace(0.01, 0.99, 99)  # 1 - p(true class): the 90th of them is the quantile for coverage 0.9
    weigh = ConformalWeights(gamma=3.0, coverage=0.9).build(calibrated(scores))
    assert weigh.quantile == pytest.approx(0.9)
    logits = np.log(
        [[0.97, 0.01, 0.01, 0.01], [0.5, 0.3, 0.15, 0.05], [0.25, 0.25, 0.25, 0.25], [0.85, 0.11, 0.03, 0.01]]
    )
    sizes = np.maximum((1 - softmax(logits) <= 0.9 + 1e-12).sum(axis=1), 1)
    assert sizes.tolist() == [1, 3, 4, 2]
    np.testing.assert_allclose(weigh(torch.tensor(logits)), np.exp(-3.0 * (sizes - 1) / (K - 1)), rtol=1e-6)


def test_a_certain_teacher_keeps_its_first_class():
    weigh = ConformalWeights().build(calibrated(np.full(50, 1e-6)))
    np.testing.assert_allclose(weigh(torch.randn(6, K)), 1.0)


def test_sets_cover_what_they_promise():
    """Split-conformal prediction's guarantee, on a labeler that is honest about its doubts."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, K)) * 2
    p = softmax(logits)
    labels = np.array([rng.choice(K, p=row) for row in p])
    scores = 1 - p[np.arange(4000), labels]
    quantile = ConformalWeights(coverage=0.8).build(calibrated(scores[:2000])).quantile
    assert np.mean(scores[2000:] <= quantile) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("coverage", "least"), [(0.9, 9), (0.8, 4), (0.5, 1), (0.1, 1), (0.95, 19), (0.7, 3)])
def test_the_fewest_rows_that_have_such_a_quantile(coverage, least):
    weights = ConformalWeights(coverage=coverage)
    assert weights.rows == least == Distillation(conformal=weights).calibration_rows
    for rows in range(1, 40):
        scores = np.linspace(0.1, 0.9, rows)
        assert (weights.build(calibrated(scores)).quantile < 1) == (rows >= least)


def test_weights_multiply_the_teacher_s_term_alone():
    torch.manual_seed(0)
    plain = Distillation(alpha=0.5).build(6, Facts(K, COUNTS))
    weighted = Distillation(alpha=0.5, conformal={"gamma": 2.0}).build(6, calibrated(np.linspace(0, 1, 50)))
    weighted.load_state_dict(plain.state_dict())
    embedding, labels, teacher = torch.randn(7, 6), torch.tensor([0, 1, 2]), torch.randn(7, K)
    w = weighted.weights(teacher)
    assert w.min() < 1
    a, b = (each(embedding, labels, {"logits": teacher}, {}) for each in (plain, weighted))
    assert a.parts["ce"] == b.parts["ce"]
    assert b.parts["kl_synthetic"] < a.parts["kl_synthetic"]
    torch.testing.assert_close(b.parts["weight_synthetic"], w[3:].mean())
    torch.testing.assert_close(b.parts["weight_real"], w[:3].mean())


def test_the_calibration_is_the_labeler_s_on_held_out_rows(quick_experiment, storage, digits):
    config = quick_experiment.model_copy(update={"objective": Distillation(conformal={})})
    data = with_calibration(config.task, digits, config.objective.calibration_rows)
    student = prepare_local(config, data, storage).student
    scores = student.fits[CALIBRATION.name]
    held = round(len(digits.labels("validation")) / 4)
    assert scores.shape == (held,) and scores.min() >= 0 and scores.max() <= 1
    assert len(student.tables["validation"]) == len(digits.labels("validation")) - held
    assert "calibration" not in student.tables, "the student doesn't need them"
    assert np.mean(scores < 0.5) > 0.8, "the labeler is right on most rows"
