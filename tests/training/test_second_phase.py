"""Baselines for long-tailed data: losses of the label, sampling, second phases, augmentation."""

import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import with_overrides
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.experiment.train import AugmentConfig
from tgt_ray.objectives import Distillation, Facts
from tgt_ray.objectives.label_losses import LDAM, CrossEntropy, LogitAdjusted
from tgt_ray.tasks.metrics.classification import by_shots
from tgt_ray.teacher.store import load_teacher
from tgt_ray.teacher.synthesizer import Synthesizer
from tgt_ray.training import checkpoint
from tgt_ray.training.augmentation import Augmentation, RealRows
from tgt_ray.training.generation import recipe_of
from tgt_ray.training.plan import Plan, row_probabilities
from tgt_ray.training.reader import SyntheticReader
from tgt_ray.training.run import StudentRun

COUNTS = np.array([100, 40, 10, 4])
LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.5, 0.5, 0.5, 3.0], [-1.0, 2.0, 0.3, 0.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 3, 2])


def log_softmax(rows):
    rows = rows - rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


# Losses, against a second computation in numpy


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
    weights /= weights.mean()
    loss.advance(0.8)
    np.testing.assert_allclose(loss(LOGITS, LABELS), plain * weights[LABELS], rtol=1e-5)


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


# Sampling


@pytest.mark.parametrize(("sampling", "power"), [("balanced", 0.0), ("square_root", 0.5)])
def test_classes_come_as_often_as_the_sampling_says(sampling, power):
    labels = np.repeat(np.arange(4), COUNTS)
    plan = Plan(50, 0.0, 0, 1, len(labels), 3, ((0, row_probabilities(sampling, labels)),))
    drawn = np.concatenate([plan.real_indices(step) for step in range(400)])
    shares = np.bincount(labels[drawn]) / len(drawn)
    np.testing.assert_allclose(shares, COUNTS**power / (COUNTS**power).sum(), atol=0.015)
    np.testing.assert_array_equal(plan.real_indices(7), plan.real_indices(7))


def test_natural_sampling_takes_each_row_once_an_epoch():
    assert row_probabilities("natural", np.array([0, 0, 1])) is None
    plan = Plan(10, 0.0, 0, 1, 100, 3)
    assert sorted(np.concatenate([plan.real_indices(step) for step in range(10)])) == list(range(100))


def test_the_second_phase_draws_its_own_way():
    labels = np.repeat(np.arange(4), COUNTS)
    plan = Plan(50, 0.0, 0, 1, len(labels), 0, ((0, None), (200, row_probabilities("balanced", labels))))
    early = np.bincount(labels[np.concatenate([plan.real_indices(step) for step in range(200)])])
    late = np.bincount(labels[np.concatenate([plan.real_indices(step) for step in range(200, 400)])])
    np.testing.assert_allclose(early / early.sum(), COUNTS / COUNTS.sum(), atol=0.01)
    np.testing.assert_allclose(late / late.sum(), 0.25, atol=0.02)


# Second phases


def experiment(prepared, **values) -> Experiment:
    short = {"train.steps": 20, "train.eval_every": 10, "train.batch_size": 16, "pool.rows_per_request": 64}
    return validate(
        Experiment, with_overrides(prepared.experiment.model_dump(mode="json"), list({**short, **values}.items()))
    )


def reader(config, prepared, storage) -> SyntheticReader:
    data = prepared.prepared.student
    teacher = load_teacher(config.teacher, prepared.prepared.teacher, data.spec, data.num_classes, storage)
    make = Synthesizer(teacher, prepared.prepared.anchors, recipe_of(config))
    return SyntheticReader(make(request, 0, config.explorer) for request in range(100))


SECOND = {"explorer.type": "random", "objective.alpha": 0.5}


@pytest.mark.parametrize("kind", ["crt", "lws"])
def test_the_second_phase_trains_the_head_alone(kind, prepared, storage):
    config = experiment(prepared, **SECOND, **{"train.second_phase": {"type": kind, "share": 0.3}})
    run = StudentRun(config, prepared.prepared.student)
    run.student.train()
    rows = reader(config, prepared, storage)
    for _ in range(14):
        run.train_step(rows)
    before = {name: value.clone() for name, value in run.student.state_dict().items()}
    for _ in range(6):
        run.train_step(rows)
    after = run.student.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    wanted = {"crt": {"criterion.head.weight", "criterion.head.bias"}, "lws": {"criterion.head.factors"}}
    assert changed == wanted[kind]


@pytest.mark.parametrize("kind", ["crt", "lws"])
@pytest.mark.parametrize("at", [9, 14, 17])
def test_a_run_with_two_phases_resumes_exactly(kind, at, prepared, storage):
    config = experiment(prepared, **SECOND, **{"train.second_phase": {"type": kind, "share": 0.3}})
    whole = StudentRun(config, prepared.prepared.student)
    whole.student.train()
    rows = reader(config, prepared, storage)
    for _ in range(at):
        whole.train_step(rows)
    state, position = checkpoint.state(whole), whole.position
    for _ in range(20 - at):
        whole.train_step(rows)
    resumed = StudentRun(config, prepared.prepared.student)
    checkpoint.load_state(resumed, state)
    resumed.student.train()
    rest = reader(config, prepared, storage)
    rest.take(position[0] * 64 + position[1], 0)
    for _ in range(20 - at):
        resumed.train_step(rest)
    for name, value in whole.student.state_dict().items():
        assert torch.equal(value, resumed.student.state_dict()[name]), name


# Augmentation


def rows(count=6, channels=1) -> RealRows:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, 8, 8), generator=rng) / 255
    return RealRows(images, torch.arange(count) % 4, {"logits": torch.randn(count, 4, generator=rng)})


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings", [{"shift": 2}, {"flip": True}, {"randaugment": "rand-m9-mstd0.5"}, {"mixup": 0.4}])
def test_augmentation_changes_rows_by_seed_and_step_alone(settings, channels):
    config = AugmentConfig(**settings)
    own, again = (Augmentation(config, 4, seed=1, rank=0) for _ in range(2))
    before = random.getstate(), np.random.get_state()[1].copy()
    first, second = own(rows(channels=channels), 3), again(rows(channels=channels), 3)
    assert random.getstate() == before[0] and (np.random.get_state()[1] == before[1]).all()
    torch.testing.assert_close(first.inputs, second.inputs)
    torch.testing.assert_close(first.labels, second.labels)
    assert not torch.equal(first.inputs, rows(channels=channels).inputs)
    assert not torch.equal(first.inputs, own(rows(channels=channels), 4).inputs)
    assert first.inputs.shape == (6, channels, 8, 8) and first.inputs.min() >= 0 and first.inputs.max() <= 1


def test_mixup_mixes_images_labels_and_teacher_alike():
    rng = torch.Generator().manual_seed(0)
    before = RealRows(
        torch.rand(6, 1, 4, 4, generator=rng), torch.arange(6), {"logits": torch.randn(6, 6, generator=rng)}
    )
    after = Augmentation(AugmentConfig(mixup=1.0), 6, 0, 0)(before, 0)
    # Every row has a class of its own, so that the labels tell what was mixed with what.
    shares = after.labels
    np.testing.assert_allclose(shares.sum(dim=1), 1, rtol=1e-6)
    assert (shares > 0).sum(dim=1).max() == 2
    torch.testing.assert_close(after.inputs, torch.einsum("ij,jchw->ichw", shares, before.inputs))
    p_after, p_before = (each.teacher["logits"].softmax(dim=1) for each in (after, before))
    torch.testing.assert_close(p_after, shares @ p_before)


def test_a_run_with_everything_at_once_trains(prepared, storage):
    config = experiment(
        prepared,
        **SECOND,
        **{
            "train.sampling": "balanced",
            "train.augment": {"shift": 1, "flip": True, "mixup": 0.2, "randaugment": "rand-m5"},
            "objective.label_loss": {"type": "ldam"},
            "objective.posthoc_adjustment": 0.5,
        },
    )
    run = StudentRun(config, prepared.prepared.student)
    run.student.train()
    synthetic = reader(config, prepared, storage)
    for _ in range(20):
        run.train_step(synthetic)
    assert np.isfinite(list(run.train_metrics().values())).all()


@pytest.mark.parametrize("text", ["rand", "rand-m9-mstd0.5-inc1"])
def test_randaugment_takes_timm_s_notation(text):
    assert AugmentConfig(randaugment=text).randaugment == text


def test_another_notation_is_refused():
    with pytest.raises(ConfigError, match=r"randaugment.*got 'autoaugment'"):
        validate(AugmentConfig, {"randaugment": "autoaugment"})


# Metrics


def test_shots_group_classes_by_their_train_rows():
    recalls = {0: 90.0, 1: 80.0, 2: 70.0, 3: 40.0, 4: 10.0}
    counts = np.array([500, 101, 100, 20, 19])
    assert by_shots(recalls, counts) == {"many_shot": 85.0, "medium_shot": 55.0, "few_shot": 10.0}
    assert by_shots({0: 50.0}, np.array([5])) == {"few_shot": 50.0}
