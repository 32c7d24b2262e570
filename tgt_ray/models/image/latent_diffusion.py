"""Wraps the autoencoders of latent diffusion models, with flat latents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tgt_ray.core.errors import ConfigError
from tgt_ray.models.heads import settings_of
from tgt_ray.models.hub import check_files, made_from, place, refuse_missing
from tgt_ray.models.weights import read_safetensors, unprefixed

#: diffusers' own names of files of weights.
WEIGHTS, PICKLE = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"


class KLAutoencoder(nn.Module):
    """diffusers' AutoencoderKL: (B, C, H, W) in [0, 1] <-> latents (B, L), which are flattened maps.

    The scale of the latents follows from the anchors, so that the diffusion model's own scaling factor isn't used.

    - sample: whether a sample of the posterior encodes an image, instead of its mean
    """

    def __init__(self, body: Any, input_shape: tuple[int, ...], sample: bool):
        super().__init__()
        self.body, self.sample, self.channels = body, sample, input_shape[0]
        for name, there in (("in_channels", body.config.in_channels), ("out_channels", body.config.out_channels)):
            if input_shape[0] not in (1, there):
                raise ConfigError(
                    f"teacher.generator.path: an autoencoder for images of {there} channel(s) ({name}),"
                    f" the task's have {input_shape[0]}"
                )
        shrink = 2 ** (len(body.config.block_out_channels) - 1)
        if any(side % shrink for side in input_shape[1:]):
            raise ConfigError(
                f"teacher.generator: halves images {shrink.bit_length() - 1} times, so height and width must be"
                f" multiples of {shrink}; the task's images are {input_shape[1]}x{input_shape[2]}: give task.data.size"
            )
        self.maps = (body.config.latent_channels, input_shape[1] // shrink, input_shape[2] // shrink)

    def encode(self, inputs: Tensor) -> Tensor:
        wanted = self.body.config.in_channels
        inputs = inputs.expand(-1, wanted, -1, -1) if inputs.shape[1] == 1 else inputs
        posterior = self.body.encode(2 * inputs - 1).latent_dist
        # The same noise at each call, so that a teacher pass can be repeated.
        noise = torch.Generator(inputs.device).manual_seed(0)
        return (posterior.sample(noise) if self.sample else posterior.mode()).flatten(1)

    def decode(self, latents_BL: Tensor) -> Tensor:
        images = (self.body.decode(latents_BL.unflatten(1, self.maps)).sample + 1) / 2
        images = images.mean(dim=1, keepdim=True) if self.channels == 1 else images
        return images.clamp(0, 1)

    def facts(self) -> dict[str, Any]:
        """Return everything besides the weights that changes the outputs, as plain data; part of the fingerprint."""
        return settings_of(self.body.config)


def load_config(path: str, subfolder: str | None, revision: str | None) -> Any:
    from diffusers import AutoencoderKL

    config = _from(AutoencoderKL.load_config, path, subfolder, revision)
    # The library would make its own class of any config.
    kind = config.get("_class_name") if isinstance(config, Mapping) else None
    wanted = AutoencoderKL.__name__
    if kind != wanted:
        raise ConfigError(f"teacher.generator.path: {path}: its config.json says _class_name {kind!r}, not '{wanted}'")
    return config


def build(config: Any, input_shape: tuple[int, ...], sample: bool, path: str) -> KLAutoencoder:
    """Build an autoencoder with fresh weights."""
    from diffusers import AutoencoderKL

    with made_from(path):
        return KLAutoencoder(AutoencoderKL.from_config(config), input_shape, sample)


def weights(path: str, subfolder: str | None, revision: str | None) -> dict[str, Tensor]:
    """Load an autoencoder's weights.

    - raises ConfigError: where some are missing, since the library would draw them at random
    """
    from diffusers import AutoencoderKL

    options = {"torch_dtype": torch.float32, "output_loading_info": True}
    model, info = _from(AutoencoderKL.from_pretrained, path, subfolder, revision, **options)
    own, where = model.state_dict(), f"teacher.generator.path: {path}"
    if not info["missing_keys"]:
        return own
    # The names may begin with that of a wrapper, which the library doesn't leave off.
    folder, there = Path(place(path)) / (subfolder or ""), dict[str, Tensor]()
    if (folder / WEIGHTS).is_file():
        there = unprefixed(read_safetensors((folder / WEIGHTS).read_bytes(), where), own, where)
    elif (folder / PICKLE).is_file():
        there = unprefixed(torch.load(folder / PICKLE, map_location="cpu", weights_only=True), own, where)
    refuse_missing(set(own) - set(there) if there.keys() & own.keys() else info["missing_keys"], where)
    return there


def _from(load: Any, path: str, subfolder: str | None, revision: str | None, **options: Any) -> Any:
    check_files(path, revision, subfolder)
    try:
        return load(place(path), subfolder=subfolder, revision=revision, **options)
    except Exception as err:  # folders, names, network and files alike
        raise ConfigError(
            f"teacher.generator.path: {path} cannot be loaded ({' '.join(str(err).split())[:200]})"
        ) from err
