"""Small models of transformers and diffusers, and a storage of a test's own."""

import pytest
import torch

from tests.helpers.diffusion import save_kl
from tgt_ray.core.storage import Storage


@pytest.fixture
def vit(tmp_path):
    """A tiny classifier with its image processor, as `save_pretrained` leaves them."""
    import transformers

    def save(num_labels):
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        model = transformers.ViTForImageClassification(
            transformers.ViTConfig(**sizes, image_size=16, patch_size=4, num_labels=num_labels)
        ).eval()
        folder = tmp_path / f"vit-{num_labels}"
        model.save_pretrained(folder)
        transformers.ViTImageProcessor(
            size={"height": 16, "width": 16}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.2, 0.3]
        ).save_pretrained(folder)
        return folder, model

    return save


@pytest.fixture
def kl_folder(tmp_path):
    """A pipeline with a small autoencoder in it, and that autoencoder."""
    return save_kl(tmp_path)


@pytest.fixture
def own(tmp_path) -> Storage:
    return Storage(tmp_path / "own")
