"""The built-in generators as modules, and pretraining that stops when the labeler agrees."""

from typing import Literal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.configs import experiment, refusal
from tgt_ray.core.batch import InputSpec, Outputs
from tgt_ray.core.config import validate
from tgt_ray.teacher.generators import (
    CausalLMGenerator,
    ConvAutoencoderGenerator,
    Generator,
    MaskedLMGenerator,
    MLPAutoencoderGenerator,
    Seq2SeqGenerator,
    SpanGenerator,
    SpatialAutoencoderGenerator,
)


@pytest.mark.parametrize(
    ("cls", "settings", "key"),
    [
        (ConvAutoencoderGenerator, {"weights": "x.safetensors", "pretrain": {"steps": 7}}, "pretrain"),
        (MaskedLMGenerator, {"path": "x/y", "pretrain": {"agreement": 90}}, "pretrain"),
        (MaskedLMGenerator, {"path": "x/y", "layers": 3}, "layers"),
        (Seq2SeqGenerator, {"path": "x/y", "width": 64}, "width"),
        (Seq2SeqGenerator, {"revision": "main"}, "revision"),
        (SpanGenerator, {"pretrain": {"steps": 7}}, "pretrain"),
        (CausalLMGenerator, {"path": "x/y", "pretrain": {"steps": 7}}, "pretrain"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(cls, settings, key):
    """It would change fingerprints alone. Where it counts, or says the default, it is taken."""
    assert refusal(cls, settings).startswith(f"{key}: has no effect, since ")
    rest = {name: value for name, value in settings.items() if name != key}
    made = validate(cls, rest)
    assert validate(cls, made.model_dump(mode="json")) == made, "as records have it, with every default"
    if key not in ("revision",) and cls not in (SpanGenerator, CausalLMGenerator):
        assert getattr(validate(cls, {key: settings[key]}), key) == getattr(cls(**{key: settings[key]}), key)


def test_generators_are_not_differentiable_unless_they_say_so():
    assert Generator.differentiable is False
    kinds = Literal["mlp_autoencoder", "conv_autoencoder"].__args__
    assert all(experiment(("teacher.generator.type", kind)).teacher.generator.differentiable for kind in kinds)


KINDS = [MLPAutoencoderGenerator(), ConvAutoencoderGenerator(), SpatialAutoencoderGenerator(widths=(8, 16))]


@pytest.mark.parametrize("how", KINDS, ids=lambda how: how.type)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 13, 10), (3, 32, 32)])
def test_latents_are_flat_and_images_come_back_in_their_size(how, shape):
    model = how.build(InputSpec(shape)).eval()
    images = torch.rand(4, *shape)
    latents = model.encode(images)
    assert latents.dim() == 2 and len(latents) == 4
    again = model.decode(latents)
    assert again.shape == images.shape and again.min() >= 0 and again.max() <= 1


@pytest.mark.parametrize("how", KINDS, ids=lambda how: how.type)
def test_gradients_reach_latents(how):
    model = how.build(InputSpec((3, 16, 16))).eval()
    latents = model.encode(torch.rand(2, 3, 16, 16)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(model.decode(latents).square().sum(), latents)
    assert slope.abs().sum() > 0


def test_an_untrained_spatial_autoencoder_gives_the_blurred_image():
    model = SpatialAutoencoderGenerator(widths=(8, 8)).build(InputSpec((3, 16, 16))).eval()
    images = torch.rand(2, 3, 16, 16)
    blurred = F.interpolate(F.avg_pool2d(images, 4), scale_factor=4, mode="bilinear")
    torch.testing.assert_close(model.decode(model.encode(images)), blurred, atol=1e-5, rtol=1e-4)
    assert model.encode(images).shape == (2, (3 + 8) * 4 * 4)


class Labeler(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 3)

    def forward(self, inputs):
        embedding = inputs.flatten(1)
        return Outputs(self.layer(embedding), embedding)


@pytest.mark.parametrize(("reached", "steps"), [(75.0, 6), (79.0, 9), (100.0, 20)])
def test_pretraining_stops_when_the_labeler_agrees(reached, steps):
    """Agreement is 74, 77, 80 ... at each look, every third step."""
    looks = iter(range(74, 200, 3))
    pretrain = {"steps": 20, "batch_size": 4, "check_every": 3, "agreement": min(reached, 100)}
    how = SpatialAutoencoderGenerator(widths=(4,), pretrain=pretrain)
    looked = []

    def agreement():
        looked.append(min(float(next(looks)), 99.0))
        return looked[-1]

    record = how.fit(how.build(InputSpec((1, 8, 8))), torch.rand(16, 1, 8, 8), Labeler(), agreement)
    assert record == {"steps": steps}


def test_without_a_wanted_agreement_nobody_looks():
    how = SpatialAutoencoderGenerator(
        widths=(4,), pretrain={"steps": 5, "batch_size": 4, "latent_noise": 0.3, "flip": True}
    )

    def never():
        raise AssertionError("looked")

    assert how.fit(how.build(InputSpec((1, 8, 8))), torch.rand(16, 1, 8, 8), Labeler(), never) == {"steps": 5}


@pytest.mark.parametrize(("start", "steps_with_labeler"), [(0.0, 8), (0.5, 4), (0.9, 0)])
def test_consistency_counts_after_a_share_of_the_steps(start, steps_with_labeler):
    class Counting(nn.Module):
        calls = 0

        def forward(self, images):
            Counting.calls += 1
            return Outputs(images.flatten(1)[:, :3], images.flatten(1))

    pretrain = {"steps": 8, "batch_size": 4, "consistency": 0.1, "consistency_start": start}
    how = MLPAutoencoderGenerator(pretrain=pretrain)
    how.fit(how.build(InputSpec((1, 4, 4))), torch.rand(8, 1, 4, 4), Counting(), lambda: 0.0)
    # Of the image and of its reconstruction.
    assert Counting.calls == 2 * steps_with_labeler
