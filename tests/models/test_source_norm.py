"""Batch norm by source."""

import pytest
import torch
from torch import nn

from tgt_ray.models.image.source_norm import SourceNorm


def test_each_source_has_statistics_of_its_own_and_shares_what_is_trained():
    norm = SourceNorm(nn.BatchNorm2d(3))
    real, synthetic = torch.randn(6, 3, 4, 4), 5 + 2 * torch.randn(4, 3, 4, 4)
    norm.num_real = 6
    out = norm(torch.cat([real, synthetic]))
    torch.testing.assert_close(out[:6].mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out[6:].mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(norm.norm.running_mean, 0.1 * real.mean(dim=(0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert len(list(norm.parameters())) == 2
    norm.eval()
    torch.testing.assert_close(norm(synthetic), norm.norm(synthetic))


@pytest.mark.parametrize("num_real", [0, 5])
def test_a_batch_of_one_source_alone_goes_through(num_real):
    norm = SourceNorm(nn.BatchNorm2d(3))
    norm.num_real = num_real
    assert norm(torch.randn(5, 3, 2, 2)).shape == (5, 3, 2, 2)


def test_a_single_row_of_one_pixel_is_normalised_by_what_was_learned():
    norm = SourceNorm(nn.BatchNorm2d(3))
    norm.num_real = 7
    assert norm(torch.randn(8, 3, 1, 1)).shape == (8, 3, 1, 1)
    assert norm.norm.training
