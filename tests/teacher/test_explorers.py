from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tgt_ray.core.batch import Outputs
from tgt_ray.teacher.explorers import Gradient, Interpolation, Neighbourhood, NoExplorer, Random, RandomMatched
from tgt_ray.teacher.module import Teacher
from tgt_ray.teacher.synthesizer import Disagreement

L, PIXELS, K, N = 5, 12, 4, 40


class Labeler(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(PIXELS, 8), nn.Tanh(), nn.Linear(8, K))

    def forward(self, inputs):
        return Outputs(self.layers(inputs), inputs)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(L, 9), nn.Tanh(), nn.Linear(9, PIXELS), nn.Sigmoid())

    def decode(self, latents):
        return self.layers(latents)


class TinyStudent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Linear(PIXELS, K)

    def scores(self, inputs):
        return self.layers(inputs)


@pytest.fixture
def near() -> Neighbourhood:
    torch.manual_seed(0)
    labeler, decoder, student = (m.double().requires_grad_(False) for m in (Labeler(), Decoder(), TinyStudent()))
    for module in (labeler, student):
        for weights in module.parameters():
            weights.mul_(3)
    latents = torch.randn(N, L).double() * torch.tensor([0.5, 1, 2, 3, 4]).double()
    labels = torch.arange(N) % K
    return Neighbourhood(
        latents.std(dim=0),
        Disagreement(Teacher(labeler, decoder), student, torch.Generator()),
        latents,
        labels,
        labels,
        torch.Generator().manual_seed(1),
    )


def moved(explorer, near) -> torch.Tensor:
    """Steps in units of the latent scale."""
    return (explorer.explore(near.latents_NL, near) - near.latents_NL) / near.scale_L


def test_the_gradient_equals_central_differences(near):
    direction = Gradient().direction(near.latents_NL, near)
    h = 1e-5
    for dimension in range(L):
        shift = torch.zeros(L).double()
        shift[dimension] = h
        slope = (near.disagreement(near.latents_NL + shift) - near.disagreement(near.latents_NL - shift)) / (2 * h)
        np.testing.assert_allclose(direction[:, dimension], slope, rtol=1e-5, atol=1e-9)


def test_the_gradient_is_found_where_gradients_are_off(near):
    with torch.no_grad():
        direction = Gradient().direction(near.latents_NL, near)
    assert not direction.requires_grad and direction.abs().sum() > 0


def test_the_disagreement_is_the_kl_of_labeler_and_student_at_temperature_one(near):
    inputs = near.disagreement.teacher.generator.decode(near.latents_NL)
    log_p = near.disagreement.teacher.labeler(inputs).logits.log_softmax(1)
    log_q = near.disagreement.student.scores(inputs).log_softmax(1)
    expected = nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(1)
    torch.testing.assert_close(near.disagreement(near.latents_NL), expected)


def test_the_gradient_step_is_the_gradient_scaled_and_normalised(near):
    step = moved(Gradient(sigma=0, step_size=0.3), near)
    direction = Gradient().direction(near.latents_NL, near)
    expected = 0.3 * L**0.5 * direction / direction.norm(dim=1, keepdim=True)
    torch.testing.assert_close(step, expected)


@pytest.mark.parametrize("kind", [Gradient, RandomMatched])
@pytest.mark.parametrize("step_size", [0.01, 0.25, 2.0])
def test_steps_have_exactly_their_length(near, kind, step_size):
    lengths = moved(kind(sigma=0, step_size=step_size), near).norm(dim=1)
    np.testing.assert_allclose(lengths, step_size * L**0.5, rtol=1e-12)


@pytest.mark.parametrize("kind", [Gradient, RandomMatched])
def test_several_steps_are_one_after_the_other(near, kind):
    def rng():
        return replace(near, rng=torch.Generator().manual_seed(5))

    at_once = kind(sigma=0, step_size=0.2, steps=3).explore(near.latents_NL, rng())
    one, step = kind(sigma=0, step_size=0.2), near.latents_NL
    same = rng()
    same.noise_like(step)  # the random start draws its noise even where sigma is 0
    for i in range(3):
        if kind is Gradient:
            step = one.explore(step, near)
        else:
            direction = one.direction(step, same)
            step = step + 0.2 * L**0.5 * near.scale_L * direction / direction.norm(dim=1, keepdim=True)
        assert not torch.equal(step, near.latents_NL), i
    torch.testing.assert_close(at_once, step)


def test_the_random_start_of_the_gradient_step_is_the_random_explorer(near):
    start = Random(sigma=0.7).explore(near.latents_NL, replace(near, rng=torch.Generator().manual_seed(3)))
    both = Gradient(sigma=0.7, step_size=0).explore(
        near.latents_NL, replace(near, rng=torch.Generator().manual_seed(3))
    )
    torch.testing.assert_close(both, start)


def test_the_gradient_step_raises_the_disagreement(near):
    before = near.disagreement(near.latents_NL)
    small = near.disagreement(Gradient(sigma=0, step_size=0.01).explore(near.latents_NL, near))
    large = near.disagreement(Gradient(sigma=0, step_size=0.3).explore(near.latents_NL, near))
    matched = near.disagreement(RandomMatched(sigma=0, step_size=0.3).explore(near.latents_NL, near))
    assert (small > before).all()
    assert large.mean() > before.mean()
    assert large.mean() > matched.mean()


def test_rows_do_not_see_each_other(near):
    together = Gradient(sigma=0).explore(near.latents_NL, near)
    alone = torch.cat([Gradient(sigma=0).explore(row[None], near) for row in near.latents_NL])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)


def test_a_student_that_agrees_leaves_latents_finite(near):
    class Agreeing(nn.Module):
        def scores(self, inputs):
            return near.disagreement.teacher.labeler(inputs).logits

    same = replace(near, disagreement=Disagreement(near.disagreement.teacher, Agreeing(), torch.Generator()))
    assert torch.isfinite(Gradient().explore(near.latents_NL, same)).all()


def test_random_noise_has_its_standard_deviation_in_every_dimension(near):
    many = near.latents_NL.repeat(500, 1)
    noise = (Random(sigma=0.4).explore(many, near) - many) / near.scale_L
    np.testing.assert_allclose(noise.std(dim=0), 0.4, rtol=0.03)
    np.testing.assert_allclose(noise.mean(dim=0), 0, atol=0.015)
    np.testing.assert_allclose(torch.corrcoef(noise.T), np.eye(L), atol=0.03)


@pytest.mark.parametrize(
    "explorer",
    [NoExplorer(), Random(sigma=0), Gradient(sigma=0, step_size=0), RandomMatched(sigma=0, step_size=0, steps=3)],
    ids=lambda e: e.type,
)
def test_no_noise_and_no_step_is_the_identity(near, explorer):
    torch.testing.assert_close(explorer.explore(near.latents_NL, near), near.latents_NL, rtol=0, atol=0)


def nearest_segment(point, start, ends) -> tuple[float, int, float]:
    """(distance, which end, share of the way) of the segment from `start` to one of `ends` that comes closest."""
    way = ends - start
    share = ((point - start) * way).sum(1) / way.square().sum(1).clamp_min(1e-300)
    distance = (start + share[:, None] * way - point).norm(dim=1)
    best = int(distance.argmin())
    return float(distance[best]), best, float(share[best])


@pytest.mark.parametrize("partner", ["any", "same_class"])
@pytest.mark.parametrize("reach", [0.3, 1.0])
def test_interpolation_stays_on_segments_between_anchors(near, partner, reach):
    out = Interpolation(partner=partner, reach=reach).explore(near.latents_NL, near)
    shares, classes = [], []
    for i in range(N):
        if torch.equal(out[i], near.latents_NL[i]):
            continue  # drawn with itself
        distance, end, share = nearest_segment(out[i], near.latents_NL[i], near.latents_NL)
        assert distance < 1e-9
        assert -1e-9 <= share <= reach + 1e-9
        shares.append(share)
        classes.append(int(near.labels_N[end]) == int(near.labels_B[i]))
    assert len(shares) > N * 0.7
    assert max(shares) > 0.7 * reach
    assert all(classes) if partner == "same_class" else not all(classes)


def test_several_partners_are_mixed_inside_of_what_they_span(near):
    one, three = (Interpolation(partners=count).explore(near.latents_NL, near) for count in (1, 3))
    assert one.shape == three.shape == near.latents_NL.shape
    low, high = near.latents_NL.amin(dim=0), near.latents_NL.amax(dim=0)
    assert ((three >= low - 1e-5) & (three <= high + 1e-5)).all()
    # On no segment between two anchors: the mixture has further ones in it.
    ends = near.latents_NL[None] - near.latents_NL[:, None]
    way = (three - near.latents_NL)[:, None].expand_as(ends)
    along = torch.nn.functional.cosine_similarity(way, ends, dim=2).nan_to_num(-1)
    assert (along < 0.999).all(dim=1).any()


def test_interpolation_partners_are_drawn_evenly_from_the_class(near):
    size = 4000
    rows = near.latents_NL[:1].repeat(size, 1)
    same = replace(near, labels_B=near.labels_N[:1].repeat(size))
    out = Interpolation(partner="same_class").explore(rows, same)
    chosen = [nearest_segment(point, near.latents_NL[0], near.latents_NL[1:])[1] + 1 for point in out[:1500]]
    ends, counts = np.unique(
        [c for c, p in zip(chosen, out, strict=False) if not torch.equal(p, rows[0])], return_counts=True
    )
    assert set(ends) == {i for i in range(1, N) if i % K == 0}
    assert counts.max() / counts.min() < 1.5


def one_hot_anchors(counts):
    """Anchors whose latents say which they are, so that the partner can be read from where a row lies."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    latents = torch.eye(len(labels), dtype=torch.float64)
    return latents, labels


def partners_of(explorer, counts, places, seed=0):
    """The places of the partners: the share of the way that isn't the anchor's own."""
    latents, labels = one_hot_anchors(counts)
    near = Neighbourhood(
        torch.ones(len(labels)), None, latents, labels, labels[places], torch.Generator().manual_seed(seed), places
    )
    moved = explorer.explore(latents[places], near) - latents[places]
    moved[torch.arange(len(places)), places] = 0
    found = moved.argmax(dim=1)
    return torch.where(moved.amax(dim=1) > 0, found, places).numpy(), labels.numpy()


@pytest.mark.parametrize("anchors", ["natural", "balanced", 0.5])
def test_partners_are_drawn_as_anchors_are(anchors):
    """Classes in proportion to n_c^exponent, and each row of a class equally often, but never the anchor itself."""
    counts, size = [70, 20, 9, 1], 60_000
    probabilities = Random(anchors=anchors).anchor_probabilities(np.repeat(range(4), counts))
    places = torch.multinomial(torch.from_numpy(probabilities), size, True, generator=torch.Generator().manual_seed(3))
    found, labels = partners_of(Interpolation(anchors=anchors), counts, places)
    assert (found != places.numpy()).all()
    q = np.array(counts, float) ** {"natural": 1, "balanced": 0}.get(anchors, anchors)
    q /= q.sum()
    own = labels[places.numpy()]
    for number in range(4):
        here = own == number
        expected = q.copy()
        if counts[number] == 1:  # has no other row, so another class is drawn
            expected[number] = 0
            expected /= expected.sum()
        shares = np.bincount(labels[found[here]], minlength=4) / here.sum()
        np.testing.assert_allclose(shares, expected, atol=5 * np.sqrt(0.25 / here.sum()))
    within = np.bincount(found[own == 0], minlength=100)[70:90]  # the rows of a class that isn't the anchors' own
    np.testing.assert_allclose(within / within.sum(), 1 / 20, atol=5 * np.sqrt(0.05 / within.sum()))


def test_a_partner_of_the_same_class_is_another_row_where_there_is_one():
    counts = [5, 2, 1]
    places = torch.arange(8).repeat(500)
    found, labels = partners_of(Interpolation(partner="same_class", anchors="balanced"), counts, places)
    assert (labels[found] == labels[places.numpy()]).all()
    assert ((found != places.numpy()) == (places.numpy() != 7)).all()
    for place in range(5):
        drawn = np.bincount(found[places.numpy() == place], minlength=5)[:5]
        assert drawn[place] == 0 and (np.delete(drawn, place) > 80).all()


def test_a_single_anchor_has_no_partner_but_itself():
    for partner in ("any", "same_class"):
        found, _ = partners_of(Interpolation(partner=partner), [1], torch.zeros(9, dtype=torch.long))
        assert (found == 0).all()


@pytest.mark.parametrize("kind", [Gradient, RandomMatched])
def test_steps_of_padded_latents_are_those_of_their_tokens(near, kind):
    """|step| = step_size sqrt(real tokens x H) in units of the scale, and nothing of it lies on padding."""
    present = torch.ones(N, L, dtype=torch.bool)
    present[::2, 3:] = False
    out = kind(sigma=0, step_size=0.3).explore(near.latents_NL, replace(near, present_BL=present))
    step = (out - near.latents_NL) / near.scale_L
    assert (step[~present] == 0).all()
    np.testing.assert_allclose(step[::2].norm(dim=1), 0.3 * 3**0.5, rtol=1e-12)
    np.testing.assert_allclose(step[1::2].norm(dim=1), 0.3 * L**0.5, rtol=1e-12)


def test_the_same_request_generator_gives_the_same_latents(near):
    for explorer in (Random(), Gradient(), RandomMatched(), Interpolation()):
        first, second, other = (
            explorer.explore(near.latents_NL, replace(near, rng=torch.Generator().manual_seed(seed)))
            for seed in (1, 1, 2)
        )
        assert torch.equal(first, second), explorer.type
        assert not torch.equal(first, other), explorer.type


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.floats(0, 1))
def test_quotas_follow_the_formula(counts, exponent):
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = np.array(counts, float) ** exponent
    probabilities = Random(anchors=exponent).anchor_probabilities(labels)
    by_class = np.bincount(labels, weights=probabilities)
    np.testing.assert_allclose(by_class, expected / expected.sum(), rtol=1e-9)
    np.testing.assert_allclose(probabilities, (by_class / counts)[labels], rtol=1e-9)


def test_natural_and_balanced_are_the_ends_of_the_exponent():
    labels = np.repeat([0, 1, 2], [6, 3, 1])
    np.testing.assert_allclose(Random(anchors="natural").anchor_probabilities(labels), 0.1)
    np.testing.assert_allclose(
        Random(anchors="balanced").anchor_probabilities(labels)[[0, 6, 9]], [1 / 18, 1 / 9, 1 / 3]
    )
    for name, exponent in (("natural", 1), ("balanced", 0)):
        named, number = (Random(anchors=a).anchor_probabilities(labels) for a in (name, exponent))
        np.testing.assert_allclose(named, number)


def test_explorers_say_what_they_need():
    assert Gradient.on_policy and Gradient.needs_differentiable
    assert not any(e.on_policy or e.needs_differentiable for e in (Random, RandomMatched, Interpolation, NoExplorer))
    assert not NoExplorer.synthesizes
