"""LELP: the formula against a second computation in loops, its identities, and what it refuses."""

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.helpers.lelp import lelp, statistics_of
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.models.image.conv import Classifier, ConvNet
from tgt_ray.objectives import LELP, Distillation, Facts, embeddings
from tgt_ray.objectives.embeddings import CLASS_DIRECTIONS
from tgt_ray.teacher.labelers.image import ConvLabeler
from tgt_ray.training.local import prepare_local

K, D, E = 3, 7, 5  # classes, numbers of the teacher's embedding, of the student's


def made_up(seed: int = 0, rows: int = 40, classes: int = K, dim: int = D) -> Facts:
    """Train rows of a labeler that isn't centred anywhere, each class with at least a third of an even share."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(rows) % classes, rng.integers(classes, size=rows // 2)])
    middle, spread = rng.normal(0, 3, (classes, dim)), rng.normal(0, 1, (classes, dim, dim))
    embedding = middle[labels] + np.einsum("nd,nde->ne", rng.normal(0, 1, (len(labels), dim)), spread[labels])
    head = rng.normal(0, 1, (classes, dim)).astype(np.float32)
    return fitted(labels, embedding.astype(np.float32), head)


def fitted(labels, embedding, head, names=()) -> Facts:
    statistics = embeddings.fit(embedding, labels, head)
    counts = np.bincount(labels, minlength=len(head))
    return Facts(len(head), counts, names, {"embedding": embedding}, {CLASS_DIRECTIONS.name: statistics})


def subspace_by_hand(facts: Facts, count: int, null_space: bool) -> np.ndarray:
    """(K, S, D) eigenvectors of each class's covariance, with the largest component positive."""
    there = statistics_of(facts)
    head = there.head_KD.astype(float)
    out = []
    for c in range(len(head)):
        rows = []
        for h, of in zip(facts.columns["embedding"].astype(float), there.class_N, strict=True):
            if of == c:
                # The part of h in the span of the head's rows, by least squares.
                coefficients = np.linalg.lstsq(head.T, h, rcond=None)[0]
                rows.append(h - head.T @ coefficients if null_space else h)
        values, vectors = np.linalg.eigh(np.cov(np.array(rows).T, bias=True))
        chosen = [vectors[:, i] for i in np.argsort(values)[::-1][:count]]
        out.append([v if v[np.argmax(np.abs(v))] > 0 else -v for v in chosen])
    return np.array(out)


def teacher_by_hand(facts: Facts, directions, embedding, logits, beta, temperature, null_space) -> list:
    """p_{c,s} of each row, as lists."""
    there = statistics_of(facts)
    head = there.head_KD.astype(float)
    projection = np.eye(head.shape[1]) - np.linalg.pinv(head) @ head if null_space else np.eye(head.shape[1])
    mean = []
    for c in range(facts.num_classes):
        of_class = [
            projection @ h
            for h, of in zip(facts.columns["embedding"].astype(float), there.class_N, strict=True)
            if of == c
        ]
        mean.append(sum(of_class) / len(of_class))
    own = []
    for h, c in zip(facts.columns["embedding"].astype(float), there.class_N, strict=True):
        own += [u @ (projection @ h - mean[c]) for u in directions[c]]
    unit = beta * np.std(own)
    out = []
    for h, row in zip(embedding, logits, strict=True):
        exps = [np.exp(value / temperature) for value in row]
        joint = []
        for c in range(facts.num_classes):
            z = [np.exp(u @ (projection @ h - mean[c]) / unit) for u in directions[c]]
            joint.append([exps[c] / sum(exps) * value / sum(z) for value in z])
        out.append(joint)
    return out


def loss_by_hand(p, student, labels, alpha, temperature, scale) -> dict[str, float]:
    """student: logits of subclasses (B, K, S). T^2 is of the classes' part alone; the rest is the joint KL."""
    real, total = len(labels), {"ce": 0.0, "kl_real": 0.0, "kl_synthetic": 0.0, "all_real": 0.0, "all_synthetic": 0.0}
    for i, (of_teacher, logits) in enumerate(zip(p, student, strict=True)):
        score = [np.log(sum(np.exp(value) for value in of_class)) for of_class in logits]
        q_class = [np.exp(value / temperature) for value in score]
        q_class = [value / sum(q_class) for value in q_class]
        joint = between = 0.0
        for c, of_class in enumerate(logits):
            inside = [np.exp(value) for value in of_class]
            for s, value in enumerate(inside):
                q = q_class[c] * value / sum(inside)
                joint += of_teacher[c][s] * (np.log(of_teacher[c][s]) - np.log(q))
            p_class = sum(of_teacher[c])
            between += p_class * (np.log(p_class) - np.log(q_class[c]))
        kind = "real" if i < real else "synthetic"
        factor = temperature**2 if scale else 1.0
        total[f"kl_{kind}"] += factor * between
        total[f"all_{kind}"] += joint + (factor - 1) * between
        if i < real:
            total["ce"] += np.log(sum(np.exp(value) for value in score)) - score[labels[i]]
    synthetic = len(p) - real
    value = ((1 - alpha) * total["ce"] + alpha * total["all_real"] + total["all_synthetic"]) / len(p)
    return {
        "value": value,
        "ce": total["ce"] / max(real, 1),
        **{name: total[name] / max(real if "real" in name else synthetic, 1) for name in ("kl_real", "kl_synthetic")},
    }


@pytest.mark.parametrize("null_space", [True, False])
@pytest.mark.parametrize(
    "alpha, temperature, scale", [(1.0, 1.0, True), (0.3, 4.0, True), (0.0, 2.0, True), (0.7, 3.0, False)]
)
@pytest.mark.parametrize("real, synthetic", [(5, 3), (4, 0), (0, 4)])
@pytest.mark.parametrize("subclasses, beta", [(2, 1.0), (4, 0.5)])
def test_the_loss_equals_the_formula(null_space, alpha, temperature, scale, real, synthetic, subclasses, beta):
    facts, rng, rows = made_up(), np.random.default_rng(1), real + synthetic
    config = LELP(
        alpha=alpha,
        temperature=temperature,
        scale_by_t2=scale,
        subclasses=subclasses,
        beta=beta,
        null_space=null_space,
        rotate=False,
    )
    torch.manual_seed(0)
    criterion = config.build(E, facts).double()
    student, logits = rng.normal(0, 1, (rows, E)), rng.normal(0, 2, (rows, K))
    embedding, labels = rng.normal(0, 3, (rows, D)), rng.integers(K, size=real)
    teacher = {"logits": torch.from_numpy(logits), "embedding": torch.from_numpy(embedding)}
    loss = criterion(torch.from_numpy(student), torch.from_numpy(labels), teacher, {})
    directions = subspace_by_hand(facts, subclasses, null_space)
    p = teacher_by_hand(facts, directions, embedding, logits, beta, temperature, null_space)
    of_head = student @ criterion.head.weight.detach().numpy().T + criterion.head.bias.detach().numpy()
    wanted = loss_by_hand(p, of_head.reshape(rows, K, subclasses), labels, alpha, temperature, scale)
    # Directions and means are stored as float32.
    found = {
        "value": loss.value.item(),
        **{name: float(loss.parts[name]) for name in ("ce", "kl_real", "kl_synthetic")},
    }
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    whole = sum(
        share * (loss.parts[f"kl_{kind}"] + loss.parts[f"subclass_kl_{kind}"])
        for kind, share in (("real", alpha * real / rows), ("synthetic", synthetic / rows))
    )
    assert loss.value.item() == pytest.approx(float(whole + (1 - alpha) * real / rows * loss.parts["ce"]), rel=1e-9)
    assert not any(part.requires_grad for part in loss.parts.values())


def test_scores_are_the_logsumexp_of_a_class_s_subclasses():
    criterion, embedding = LELP(subclasses=3).build(E, made_up()).double(), torch.randn(6, E).double()
    logits = criterion.head(embedding).detach().numpy()
    scores = criterion.scores(embedding).detach().numpy()
    assert scores.shape == (6, K)
    for c in range(K):
        np.testing.assert_allclose(scores[:, c], np.log(np.exp(logits[:, 3 * c : 3 * c + 3]).sum(axis=1)), rtol=1e-9)


def test_a_student_that_fits_the_teacher_has_its_scores():
    """Whatever T and beta are: no part of the loss pulls the classes out of their order."""
    facts, config = made_up(), LELP(subclasses=2, temperature=5.0, beta=0.3)
    criterion = config.build(K * 2, facts).double()
    logits, embedding = torch.randn(8, K).double(), torch.randn(8, D).double()
    log_p = logits[:, :, None] + criterion.targets(embedding)
    with torch.no_grad():
        criterion.head.weight.copy_(torch.eye(K * 2))
        criterion.head.bias.zero_()
    loss = criterion(
        log_p.flatten(1), torch.zeros(8, dtype=torch.int64), {"logits": logits, "embedding": embedding}, {}
    )
    assert abs(loss.value.item()) < 1e-10
    torch.testing.assert_close(criterion.scores(log_p.flatten(1)), logits)


configs = st.builds(
    LELP,
    subclasses=st.integers(1, 4),
    beta=st.floats(0.2, 5),
    temperature=st.floats(0.5, 8),
    alpha=st.floats(0, 1),
    null_space=st.booleans(),
    directions=st.sampled_from(["principal", "random"]),
    rotate=st.booleans(),
    seed=st.integers(0, 3),
)
worlds = st.builds(made_up, seed=st.integers(0, 50))


@given(configs, worlds)
@settings(deadline=None, max_examples=60)
def test_directions_are_orthonormal_and_the_head_does_not_see_them(config, facts):
    there = statistics_of(facts)
    directions = config.directions_of(there)
    assert directions.shape == (K, config.subclasses, D)
    for u in directions:
        np.testing.assert_allclose(u @ u.T, np.eye(config.subclasses), atol=1e-5)
        if config.null_space:
            np.testing.assert_allclose(u @ there.head_KD.T, 0, atol=1e-5)


@given(configs, worlds, st.integers(0, 100))
@settings(deadline=None, max_examples=40)
def test_subclasses_sum_to_the_teacher_s_classes_and_one_alone_is_distillation(config, facts, seed):
    rng = torch.Generator().manual_seed(seed)
    logits, embedding = (torch.randn(6, n, generator=rng).double() * 3 for n in (K, D))
    targets = config.build(E, facts).double().targets(embedding)
    p = (logits / config.temperature).softmax(dim=1)
    torch.testing.assert_close((p[:, :, None] * targets.exp()).sum(dim=2), p)

    one = config.model_copy(update={"subclasses": 1}).build(E, facts).double()
    plain = Distillation(alpha=config.alpha, temperature=config.temperature).build(E, facts).double()
    plain.load_state_dict(one.state_dict())
    student, labels = torch.randn(6, E, generator=rng).double(), torch.tensor([0, 2, 1, 0])
    teacher = {"logits": logits, "embedding": embedding}
    a, b = (each(student, labels, teacher, {}) for each in (one, plain))
    torch.testing.assert_close(a.value, b.value)
    for name, part in b.parts.items():
        torch.testing.assert_close(a.parts[name], part)
    assert float(a.parts["subclass_kl_real"].abs() + a.parts["subclass_kl_synthetic"].abs()) < 1e-12
    torch.testing.assert_close(one.scores(student), plain.scores(student))


@given(worlds)
@settings(deadline=None, max_examples=20)
def test_fewer_subclasses_take_the_first_directions_and_a_rotation_keeps_their_span(facts):
    there = statistics_of(facts)
    four, two = (LELP(subclasses=s, rotate=False).directions_of(there) for s in (4, 2))
    np.testing.assert_array_equal(four[:, :2], two)
    turned = LELP(subclasses=4).directions_of(there)
    for u, v in zip(turned, four, strict=True):
        np.testing.assert_allclose(u.T @ u, v.T @ v, atol=1e-5)
        assert not np.allclose(u, v, atol=1e-3)


def test_random_directions_follow_the_seed_and_hold_less_variance():
    facts = made_up(rows=200)
    there = statistics_of(facts)

    def variance(**options):
        directions = LELP(subclasses=2, **options).directions_of(there)
        parts = [
            ((facts.columns["embedding"][there.class_N == c] - there.mean_KD[c]) @ u.T).var(axis=0).sum()
            for c, u in enumerate(directions)
        ]
        return np.array(parts)

    random = [variance(directions="random", seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(random[0], random[1])
    assert not np.allclose(random[0], random[2])
    assert (variance() > random[0]).all() and (variance(null_space=False) >= variance() - 1e-6).all()


def test_a_rotation_does_not_change_the_unit_of_beta():
    facts = made_up()
    sizes = [
        LELP(subclasses=3, rotate=rotate).build(E, facts).targets.weight.norm(dim=1).mean() for rotate in (True, False)
    ]
    assert float(sizes[0]) == pytest.approx(float(sizes[1]), rel=1e-5)
    assert LELP(subclasses=3, beta=2.0).build(E, facts).targets.weight.norm(dim=1).mean() == pytest.approx(sizes[0] / 2)


def test_without_the_teacher_it_is_one_hot_training_of_class_scores():
    torch.manual_seed(0)
    criterion = LELP(alpha=0.0).build(E, made_up())
    student, labels = torch.randn(6, E), torch.randint(K, (6,))
    teacher = {"logits": torch.randn(6, K), "embedding": torch.randn(6, D)}
    loss = criterion(student, labels, teacher, {}).value
    torch.testing.assert_close(loss, nn.functional.cross_entropy(criterion.scores(student), labels))


def test_statistics_survive_their_file():
    there = statistics_of(made_up())
    again = CLASS_DIRECTIONS.load(safetensors.numpy.load(safetensors.numpy.save(there.arrays())))
    for name in ("head_KD", "class_N", "count_K", "mean_KD"):
        np.testing.assert_array_equal(getattr(again, name), getattr(there, name))
    for name in ("everywhere", "in_null_space"):
        np.testing.assert_array_equal(getattr(again, name).rank_K, getattr(there, name).rank_K)
        np.testing.assert_array_equal(getattr(again, name).directions_KRD, getattr(there, name).directions_KRD)


def facts_of(labels, embedding, head, names=()) -> Facts:
    return fitted(np.asarray(labels), embedding.astype(np.float32), head.astype(np.float32), names)


def refusals():
    rng = np.random.default_rng(0)
    rows, head = rng.normal(0, 1, (13, 6)), rng.normal(0, 1, (2, 6))
    few = [0] * 10 + [1] * 3
    flat = rows.copy()
    flat[10:] = flat[10] + np.outer(np.arange(3), rng.normal(0, 1, 6))
    return {
        "as many as rows": (few, rows, head, 3, ["at most 2 fit", "class 1 ('rare') has 3 row(s)", "more rows"]),
        "a class of one row": ([0] * 12 + [1], rows, head, 1, ["none fits", "'rare'", "1 row(s)", "distillation"]),
        "a class of none": ([0] * 13, rows, head, 1, ["none fits", "'rare'", "0 row(s)"]),
        "a small null space": (
            [0] * 6 + [1] * 7,
            rows[:, :3],
            head[:, :3],
            2,
            ["at most 1 fit", "1 of 3 dimensions", "null_space"],
        ),
        "no null space": ([0] * 6 + [1] * 7, rows[:, :2], head[:, :2], 1, ["none fits", "0 of 2 dimensions"]),
        "rows on a line": (few, flat, head, 2, ["at most 1 fit", "class 1 ('rare')", "only 1 dimensions"]),
    }


@pytest.mark.parametrize("labels, rows, head, subclasses, expected", refusals().values(), ids=refusals())
@pytest.mark.parametrize("directions", ["principal", "random"])
def test_more_subclasses_than_fit_are_refused(labels, rows, head, subclasses, expected, directions):
    facts = facts_of(labels, rows, head, ("common", "rare"))
    config = LELP(subclasses=subclasses, directions=directions)
    for refused in (config.check, lambda facts: config.build(E, facts)):
        with pytest.raises(ConfigError) as error:
            refused(facts)
        message = str(error.value)
        assert message.startswith(f"objective.subclasses: {subclasses}, ") and "\n" not in message
        assert not [part for part in expected if part not in message], message
    most = expected[0].split()[2] if "at most" in expected[0] else "0"
    if int(most):
        LELP(subclasses=int(most), directions=directions).build(E, facts)


class NotStored(ConvLabeler):
    """A user's own labeler that comes with its weights."""

    type: str = "tests.objectives.test_lelp:NotStored"
    stored = False


class OtherHead(ConvLabeler):
    """A user's own labeler whose logits aren't a linear layer's."""

    type: str = "tests.objectives.test_lelp:OtherHead"

    def build(self, spec, num_classes):
        model = Classifier(ConvNet(spec.shape[0], self.widths, "pool", grid=2), num_classes)
        model.head = nn.Sequential(nn.Linear(model.backbone.dim, 12), nn.Linear(12, num_classes))
        return model


EXPERIMENTS = {
    "mixed rows": ({"train__augment": {"mixup": 0.2}}, r"train\.augment\.mixup: 0\.2, .*'lelp'"),
    "weights that aren't stored": (
        {"teacher__labeler__type": "tests.objectives.test_lelp:NotStored"},
        r"objective\.type: 'lelp' .*'tests.objectives.test_lelp:NotStored'",
    ),
    "too many for any teacher": ({"objective__subclasses": 65}, r"objective\.subclasses: .*64 .*got 65"),
    "none": ({"objective__subclasses": 0}, r"objective\.subclasses: .*got 0"),
    "beta 0": ({"objective__beta": 0}, r"objective\.beta: .*got 0"),
}


@pytest.mark.parametrize("values, expected", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_an_experiment_that_cannot_have_it_is_refused(quick_experiment, values, expected):
    with pytest.raises(ConfigError, match=expected):
        lelp(quick_experiment, **values)


def test_a_labeler_without_a_linear_head_is_refused(quick_experiment, digits, tmp_path):
    quick = {"teacher__labeler__pretrain__steps": 2, "teacher__generator__pretrain__steps": 2}
    config = lelp(
        quick_experiment, teacher__labeler__type="tests.objectives.test_lelp:OtherHead", explorer__type="none", **quick
    )
    with pytest.raises(
        ConfigError, match=r"teacher\.labeler\.type: tests.objectives.test_lelp:OtherHead: .*no linear layer `head`"
    ):
        prepare_local(config, digits, Storage(tmp_path))
