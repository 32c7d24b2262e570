"""Small pipelines of diffusers: one that draws images like others, and one with an autoencoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

#: Numbers of an image's embedding.
EMBEDDING = 12


def save_unclip(place: Path) -> Path:
    """Write the pipeline below a folder, and return its own."""
    from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableUnCLIPImg2ImgPipeline, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    torch.manual_seed(0)
    (place / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    small = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    blocks = {"block_out_channels": [8, 8], "norm_num_groups": 4}
    pipeline = StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(crop_size=16, size=16),
        image_encoder=CLIPVisionModelWithProjection(
            CLIPVisionConfig(**small, image_size=16, patch_size=8, projection_dim=EMBEDDING)
        ).eval(),
        image_normalizer=StableUnCLIPImageNormalizer(EMBEDDING),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=CLIPTokenizer(str(place / "vocab.json"), str(place / "merges.txt"), model_max_length=8),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(**small, vocab_size=3, max_position_embeddings=8, bos_token_id=0, eos_token_id=1)
        ).eval(),
        unet=UNet2DConditionModel(
            **blocks,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            attention_head_dim=2,
            cross_attention_dim=8,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=2 * EMBEDDING,
            sample_size=8,
        ).eval(),
        scheduler=DDIMScheduler(),
        vae=AutoencoderKL(
            **blocks, down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2
        ).eval(),
    )
    pipeline.save_pretrained(place / "pipeline")
    return place / "pipeline"


def save_kl(place: Path) -> tuple[Path, AutoencoderKL]:
    """Write a pipeline with a small autoencoder in it; return its folder, and that autoencoder."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    model = AutoencoderKL(
        **blocks, block_out_channels=[8, 8], norm_num_groups=4, latent_channels=2, sample_size=8
    ).eval()
    model.save_pretrained(place / "pipeline" / "vae")
    return place / "pipeline", model
