"""Turns image classifiers of transformers into backbones."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tgt_ray.core.errors import ConfigError
from tgt_ray.models.heads import linear_head, settings_of
from tgt_ray.models.hub import from_hub, has_head, made_from, model_from_hub
from tgt_ray.models.image.preprocess import Preprocess, PretrainedBackbone, normalisation


class LogitsOf(nn.Module):
    """Makes a transformers model a module that maps images to a tensor.

    - options: further arguments of its forward
    """

    def __init__(self, model: nn.Module, options: Mapping[str, Any] | None = None):
        super().__init__()
        self.model, self.options = model, dict(options or {})

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images, **self.options).logits


def transformers_backbone(path: str, revision: str | None, image_channels: int, size: int | None) -> PretrainedBackbone:
    """Build an image classifier of transformers with fresh weights and without its head.

    - image_channels: of the task's images
    - size: height and width that images are resized to; None: the model's own
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    config = from_hub(AutoConfig.from_pretrained, path, revision)
    processor = from_hub(AutoImageProcessor.from_pretrained, path, revision)
    with made_from(path):
        model = AutoModelForImageClassification.from_config(config, dtype=torch.float32)
    name, head = linear_head(model, path)
    model.set_submodule(name, nn.Identity())
    channels = int(getattr(config, "num_channels", 3))
    if image_channels not in (1, channels):
        raise ConfigError(f"{path} takes images of {channels} channel(s), the task's have {image_channels}")
    normalises = getattr(processor, "do_normalize", True)
    mean, std = normalisation(processor, channels, path) if normalises else ([0.0] * channels, [1.0] * channels)
    pixels = (size, size) if size is not None else _own_size(processor, config)
    mode = "bicubic" if getattr(processor, "resample", 2) == 3 else "bilinear"
    # The argument by which a vision transformer takes other sizes than its own.
    resample = "interpolate_pos_encoding"
    other = size is not None and resample in inspect.signature(model.forward).parameters
    body = LogitsOf(model, {resample: True} if other else None)
    own = _side(getattr(config, "image_size", None))
    if pixels is not None and (size is not None or own not in (None, pixels)):
        said = "teacher.labeler.img_size" if size is not None else "the size in its preprocessor_config.json"
        _check_size(body, channels, pixels, f"{said}: {pixels[0]}x{pixels[1]}, but {path}")
    return PretrainedBackbone(
        Preprocess(channels, mean, std, pixels, mode), body, head.in_features, settings_of(config)
    )


def _side(size: Any) -> tuple[int, int] | None:
    """Return height and width of a model's own images, which it gives as one number or two."""
    return (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list | tuple) else None


def _check_size(body: nn.Module, channels: int, pixels: tuple[int, int], said: str) -> None:
    """Raise ConfigError where a model doesn't take images of this height and width.

    - said: what the message begins with
    """
    body.eval()
    try:
        with torch.no_grad():
            body(torch.zeros(1, channels, *pixels))
    except (ValueError, RuntimeError) as err:
        raise ConfigError(f"{said} doesn't take such images ({' '.join(str(err).split())[:200]})") from err


def transformers_weights(path: str, revision: str | None) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
    """Load an image classifier's weights.

    - returns: (weights of the body, weight (K, D) and bias (K,) of the head); None where it has no head
    - raises ConfigError: where other weights are missing, since the library would draw them at random
    """
    from transformers import AutoModelForImageClassification

    where = f"teacher.labeler.path: {path}"
    model, info = model_from_hub(AutoModelForImageClassification, path, revision, where)
    name, head = linear_head(model, path)
    body = {f"model.{key}": value for key, value in model.state_dict().items() if not key.startswith(f"{name}.")}
    if not has_head(info, name, head, where):
        return body, None, None
    return body, head.weight.detach(), head.bias.detach() if head.bias is not None else None


def _own_size(processor: Any, config: Any) -> tuple[int, int] | None:
    for sizes in (getattr(processor, "crop_size", None), getattr(processor, "size", None)):
        if sizes:
            height = sizes.get("height") or sizes.get("shortest_edge")
            return int(height), int(sizes.get("width") or height)
    side = getattr(config, "image_size", None)
    return _side(side) if side else None
