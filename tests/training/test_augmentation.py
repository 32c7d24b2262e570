"""Augmentation of real rows."""

import random

import numpy as np
import pytest
import torch

from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.experiment.train import AugmentConfig
from tgt_ray.training.augmentation import Augmentation, RealRows


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


@pytest.mark.parametrize("text", ["rand", "rand-m9-mstd0.5-inc1"])
def test_randaugment_takes_timm_s_notation(text):
    assert AugmentConfig(randaugment=text).randaugment == text


def test_another_notation_is_refused():
    with pytest.raises(ConfigError, match=r"randaugment.*got 'autoaugment'"):
        validate(AugmentConfig, {"randaugment": "autoaugment"})
