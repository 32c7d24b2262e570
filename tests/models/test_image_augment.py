"""Random changes of images."""

import pytest
import torch

from tgt_ray.models.image.augment import crop, cutmix, mixup, rand_augment


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_crop_of_everything_is_the_image():
    images = torch.rand(5, 3, 7, 9)
    torch.testing.assert_close(crop(images, 1.0, rng()), images)


def test_a_crop_shows_a_part_of_the_image_enlarged():
    """Of a ramp from 0 to 1, a crop shows a ramp whose slope says how large the part is."""
    ramp = torch.linspace(0, 1, 101).expand(400, 1, 101, 101)
    seen = crop(ramp, 0.25, rng())
    slope = (seen[:, 0, 50, 90] - seen[:, 0, 50, 10]) / 0.8
    areas = slope**2
    assert areas.min() >= 0.24 and areas.max() <= 1.01
    torch.testing.assert_close(areas.mean(), torch.tensor(0.625), atol=0.03, rtol=0)
    middles = seen[:, 0, 50, 50]
    assert middles.min() < 0.35 and middles.max() > 0.65
    assert (seen >= 0).all() and (seen <= 1).all()


@pytest.mark.parametrize("shape", [(8, 8), (6, 10)])
def test_cutmix_takes_its_share_of_the_other_image_from_the_same_place(shape):
    size, other = 300, 1.0 + torch.arange(shape[0] * shape[1]).reshape(shape)
    images, others = torch.zeros(size, 1, *shape), other.expand(size, 1, *shape)
    share = torch.linspace(0, 1, size)
    mixed = cutmix(images, others, share, rng())
    taken = mixed > 0
    assert torch.equal(mixed[taken], others[taken])
    got = taken.float().mean(dim=(1, 2, 3))
    assert (got - share).abs().max() < 0.17 and abs(float((got - share).mean())) < 0.02
    assert not taken[0].any() and taken[-1].all()
    assert taken[150:200].any(dim=0).all()  # boxes lie everywhere


def test_mixup_gives_the_other_image_its_share():
    a, b, share = torch.rand(4, 3, 5, 5), torch.rand(4, 3, 5, 5), torch.tensor([0, 0.25, 0.5, 1])
    mixed = mixup(a, b, share)
    for row in range(4):
        torch.testing.assert_close(mixed[row], (1 - share[row]) * a[row] + share[row] * b[row])


def test_randaugment_follows_its_number():
    images = torch.rand(3, 3, 16, 16)
    one, again, other = (rand_augment(images, "rand-m9-n2", number) for number in (5, 5, 6))
    assert torch.equal(one, again) and not torch.equal(one, other) and one.shape == images.shape
