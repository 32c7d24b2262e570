"""Draws variations of images by diffusion: an encoder embeds an image, a decoder draws images for an embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgt_ray.core.errors import ConfigError
from tgt_ray.models.heads import settings_of
from tgt_ray.models.hub import check_parts, place
from tgt_ray.models.image.preprocess import Preprocess, normalisation
from tgt_ray.models.weights import check_finite


class Variation(nn.Module):
    """diffusers' StableUnCLIPImg2ImgPipeline with an empty prompt: images -> embeddings (B, L) -> other images.

    - input_shape: of the task's images, (C, H, W) in [0, 1]
    - pixels: height and width that are drawn, before images are brought to the task's size
    - steps, guidance, noise_level: the pipeline's num_inference_steps, guidance_scale and noise_level
    - rows_at_once: images that are embedded or drawn together
    """

    def __init__(
        self,
        pipeline: Any,
        input_shape: tuple[int, ...],
        pixels: int,
        steps: int,
        guidance: float,
        noise_level: int,
        rows_at_once: int,
    ):
        super().__init__()
        # The pipeline is not a module: those of its parts that have weights move to a device with this one.
        parts = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
        self.parts, self.pipeline = nn.ModuleDict(parts), pipeline
        self.input_shape, self.pixels, self.rows_at_once = input_shape, pixels, rows_at_once
        self.how = {"num_inference_steps": steps, "guidance_scale": guidance, "noise_level": noise_level}
        processor = pipeline.feature_extractor
        size, (mean, std) = processor.crop_size, normalisation(processor, 3, "teacher.generator.path")
        self.preprocess = Preprocess(3, mean, std, (size["height"], size["width"]), "bicubic")

    def encode(self, inputs: Tensor) -> Tensor:
        parts = inputs.split(self.rows_at_once)
        return torch.cat([self.parts["image_encoder"](self.preprocess(part)).image_embeds for part in parts])

    def decode(self, latents_BL: Tensor, rng: torch.Generator) -> Tensor:
        parts = [self._draw(part, rng) for part in latents_BL.split(self.rows_at_once)]
        return torch.cat(parts)

    def facts(self) -> dict[str, Any]:
        """Return everything besides the weights that changes the outputs, as plain data; part of the fingerprint."""
        parts = {name: part for name, part in self.pipeline.components.items() if hasattr(part, "config")}
        return {
            "preprocess": self.preprocess.facts(),
            "pixels": self.pixels,
            "prompt": self.pipeline.tokenizer("", padding="max_length")["input_ids"],
            "parts": {name: [type(part).__name__, settings_of(part.config)] for name, part in parts.items()},
        }

    def _draw(self, latents_BL: Tensor, rng: torch.Generator) -> Tensor:
        images = self.pipeline(
            prompt=[""] * len(latents_BL),
            image_embeds=latents_BL,
            height=self.pixels,
            width=self.pixels,
            generator=rng,
            output_type="pt",
            **self.how,
        ).images
        images = F.interpolate(images.float(), self.input_shape[1:], mode="bicubic", antialias=True).clamp(0, 1)
        return images.mean(dim=1, keepdim=True) if self.input_shape[0] == 1 else images


def load(
    path: str,
    revision: str | None,
    input_shape: tuple[int, ...],
    size: int | None,
    steps: int,
    guidance: float,
    noise_level: int,
    rows_at_once: int,
) -> Variation:
    """Load a Variation with the weights of a folder or hub name.

    - size: height and width that are drawn; None: the pipeline's own
    - raises ConfigError: where the weights are not those of such a pipeline, or sizes don't fit
    """
    from diffusers import StableUnCLIPImg2ImgPipeline

    check_parts(path, revision)
    try:
        pipeline = StableUnCLIPImg2ImgPipeline.from_pretrained(
            place(path), revision=revision, torch_dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except Exception as err:  # folders, names, network and files alike
        raise ConfigError(
            f"teacher.generator.path: {path} cannot be loaded ({' '.join(str(err).split())[:200]})"
        ) from err
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            check_finite(part.named_parameters(name), f"teacher.generator.path: {path}")
    pipeline.set_progress_bar_config(disable=True)
    own = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    multiple = 8 * max(1, pipeline.vae_scale_factor // 8)
    if size is not None and size % multiple:
        raise ConfigError(f"teacher.generator.size: {size}; it must be a multiple of {multiple}")
    longest = pipeline.scheduler.config.num_train_timesteps
    if steps > longest:
        raise ConfigError(f"teacher.generator.steps: {steps}; the pipeline has {longest} steps at the most")
    levels = pipeline.image_noising_scheduler.config.num_train_timesteps
    if noise_level >= levels:
        raise ConfigError(f"teacher.generator.noise_level: {noise_level}; the pipeline has {levels} levels, from 0 on")
    return Variation(pipeline, input_shape, size or own, steps, guidance, noise_level, rows_at_once)
