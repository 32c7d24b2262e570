"""Pretrained image models as backbones: task images in, the preprocessing that a model was trained with inside."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tgt_ray.config import ConfigError
from tgt_ray.hub import from_hub


class Preprocess(nn.Module):
    """Images (B, C, H, W) in [0, 1] -> the size, channels and range that a model was trained with. Differentiable.

    size: height and width; None leaves images as they are. mode: of interpolation, "bilinear" or "bicubic", with antialiasing. Grey images are repeated for a model of three channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, channels: int, mean: Sequence[float], std: Sequence[float], size: tuple[int, int] | None, mode: str
    ):
        super().__init__()
        self.size, self.channels, self.mode = size, channels, mode if mode == "bicubic" else "bilinear"
        # Not among the weights: they follow from the model's name.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    @property
    def largest_shape(self) -> tuple[int, ...] | None:
        return None if self.size is None else (self.channels, *self.size)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.size is not None and tuple(inputs.shape[2:]) != self.size:
            # On a CPU antialiasing is not there in bfloat16.
            inputs = F.interpolate(inputs.float(), self.size, mode=self.mode, antialias=True)
        if inputs.shape[1] == 1 and self.channels > 1:
            inputs = inputs.expand(-1, self.channels, -1, -1)
        return (inputs - self.mean) / self.std

    def facts(self) -> dict[str, Any]:
        """All that it does, as plain data."""
        return {
            "channels": self.channels,
            "size": self.size,
            "mode": self.mode,
            **{name: getattr(self, name).flatten().tolist() for name in ("mean", "std")},
        }


class PretrainedBackbone(nn.Module):
    """Preprocessing and a body that gives embeddings (B, dim). settings: of the body, that its weights don't show."""

    def __init__(self, preprocess: Preprocess, body: nn.Module, dim: int, settings: Mapping[str, Any] | None = None):
        super().__init__()
        self.preprocess, self.body, self.dim, self.settings = preprocess, body, dim, settings or {}

    def facts(self) -> dict[str, Any]:
        """What outputs follow from beside weights, as plain data."""
        return {"preprocess": self.preprocess.facts(), "settings": dict(self.settings)}

    def forward(self, inputs: Tensor) -> Tensor:
        return self.body(self.preprocess(inputs))


def timm_backbone(
    name: str, image_channels: int, size: int | None, own_channels: bool, options: Mapping[str, Any]
) -> PretrainedBackbone:
    """A timm architecture with fresh weights and without its head.

    size: None takes the model's own, or, from scratch, images as they are. own_channels: as many as pretrained weights have, otherwise as many as the images.
    """
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True) or timm.models.PretrainedCfg()
    channels = config.input_size[0] if own_channels else image_channels
    if image_channels not in (1, channels):
        raise ConfigError(f"'{name}' takes images of {channels} channel(s), the task's have {image_channels}")
    # From scratch there is no size that it would have to be.
    own_size = tuple(config.input_size[1:]) if own_channels or config.fixed_input_size else None
    pixels = (size, size) if size is not None else own_size
    sized = {"img_size": size} if size is not None and config.fixed_input_size else {}
    try:
        body = timm.create_model(name, num_classes=0, in_chans=channels, **sized, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as err:  # what architectures make of arguments
        raise ConfigError(
            f"'{name}' can't be made with {options} {sized} ({' '.join(str(err).split())[:200]})"
        ) from err
    mean, std = (
        values if channels == len(values) else [sum(values) / len(values)] * channels
        for values in (config.mean, config.std)
    )
    return PretrainedBackbone(
        Preprocess(channels, mean, std, pixels, config.interpolation),
        body,
        int(getattr(body, "head_hidden_size", None) or body.num_features),
    )


def at_size(body: nn.Module, state: dict[str, Tensor], name: str, key: str) -> dict[str, Tensor]:
    """A timm model's weights for the size of image that `body` is made for: resampled as timm does it, where some are for each place of an
    image and these are of another size. ConfigError where timm can't. Weights of another architecture stay as they are. key: for messages."""
    import timm

    own = body.state_dict()
    fits = {key: key in state and state[key].shape == value.shape for key, value in own.items()}
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if all(fits.values()) or not own.keys() <= state.keys() or config is None or not config.fixed_input_size:
        return state
    # Where timm keeps what its own loading does to weights, such as resampling embeddings of positions.
    bring = getattr(inspect.getmodule(type(body)), "checkpoint_filter_fn", None)
    brought: dict[str, Tensor] = bring(dict(state), body) if bring is not None else state
    other = [key for key, value in own.items() if key not in brought or brought[key].shape != value.shape]
    if other:
        raise ConfigError(
            f"{key}.img_size: weights of '{name}' are for images of {config.input_size[1]}x{config.input_size[2]} ('{other[0]}' can't be"
            " resampled); leave it out"
        )
    return brought


def timm_weights(name: str) -> dict[str, Tensor]:
    """A timm model's weights with its head, from the hub."""
    import timm

    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as err:  # the hub's client raises many kinds, for names, network and files alike
        raise ConfigError(f"cannot load pretrained weights of '{name}' ({' '.join(str(err).split())[:200]})") from err


def split_head(
    name: str, state: Mapping[str, Tensor], body_keys: Collection[str]
) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
    """A timm model's weights as (those of the body, weight (K, D) and bias (K,) of its head). None where it has no head, or none that is
    one linear layer on the embedding: some have two of them, or further layers. body_keys: names of the body's own weights."""
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    classifier = config.classifier if config is not None else "classifier"
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    # All that goes with a head, such as a norm before it.
    around = tuple(f"{each.partition('.')[0]}." for each in heads)
    of_heads = {key for key in state if key not in body_keys and key.startswith(around)} if heads else set()
    body = {key: value for key, value in state.items() if key not in of_heads}
    if len(heads) != 1 or not of_heads <= {f"{heads[0]}.weight", f"{heads[0]}.bias"}:
        return body, None, None
    weight, bias = state.get(f"{heads[0]}.weight"), state.get(f"{heads[0]}.bias")
    return body, weight.flatten(1) if weight is not None else None, bias


def set_head(head: nn.Linear, weight_KD: Tensor, bias_K: Tensor | None, classes: Sequence[int] | None) -> None:
    """Give a linear layer the rows `classes` of another one's weights, or all."""
    chosen = torch.tensor(classes if classes is not None else range(len(weight_KD)))
    with torch.no_grad():
        head.weight.copy_(weight_KD[chosen])
        head.bias.copy_(bias_K[chosen] if bias_K is not None else torch.zeros(len(chosen)))


class LogitsOf(nn.Module):
    """A transformers model as images -> tensor. options: of its forward."""

    def __init__(self, model: nn.Module, options: Mapping[str, Any] | None = None):
        super().__init__()
        self.model, self.options = model, dict(options or {})

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images, **self.options).logits


def transformers_backbone(path: str, revision: str | None, image_channels: int, size: int | None) -> PretrainedBackbone:
    """An image classifier of transformers with fresh weights and without its head. size: None takes the model's own."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    config = from_hub(AutoConfig.from_pretrained, path, revision)
    processor = from_hub(AutoImageProcessor.from_pretrained, path, revision)
    model = AutoModelForImageClassification.from_config(config, dtype=torch.float32)
    name, head = linear_head(model, path)
    model.set_submodule(name, nn.Identity())
    channels = int(getattr(config, "num_channels", 3))
    if image_channels not in (1, channels):
        raise ConfigError(f"{path} takes images of {channels} channel(s), the task's have {image_channels}")
    normalises = getattr(processor, "do_normalize", True)
    mean = processor.image_mean if normalises else [0.0] * channels
    std = processor.image_std if normalises else [1.0] * channels
    pixels = (size, size) if size is not None else _own_size(processor, config)
    mode = "bicubic" if getattr(processor, "resample", 2) == 3 else "bilinear"
    # What a vision transformer takes for other sizes than its own.
    resample = "interpolate_pos_encoding"
    other = size is not None and resample in inspect.signature(model.forward).parameters
    body = LogitsOf(model, {resample: True} if other else None)
    if size is not None:
        _check_size(body, channels, size, path)
    return PretrainedBackbone(
        Preprocess(channels, mean, std, pixels, mode), body, head.in_features, settings_of(config)
    )


def _check_size(body: nn.Module, channels: int, size: int, path: str) -> None:
    """ConfigError where a model doesn't take images of this height and width."""
    body.eval()
    try:
        with torch.no_grad():
            body(torch.zeros(1, channels, size, size))
    except (ValueError, RuntimeError) as err:
        raise ConfigError(
            f"teacher.labeler.img_size: {size}, but {path} doesn't take such images ({' '.join(str(err).split())[:200]})"
        ) from err


def transformers_weights(path: str, revision: str | None) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
    """An image classifier's weights as (those of the body, weight (K, D) and bias (K,) of its head), None where it has no head."""
    from transformers import AutoModelForImageClassification

    load = AutoModelForImageClassification.from_pretrained
    model, info = from_hub(load, path, revision, output_loading_info=True, dtype=torch.float32)
    name, head = linear_head(model, path)
    body = {f"model.{key}": value for key, value in model.state_dict().items() if not key.startswith(f"{name}.")}
    if f"{name}.weight" in info["missing_keys"]:
        return body, None, None
    return body, head.weight.detach(), head.bias.detach() if head.bias is not None else None


def linear_head(model: Any, path: str) -> tuple[str, nn.Linear]:
    """Name and module of the last linear layer, from embeddings to classes. ConfigError where there is none, or several take part."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ConfigError(f"{path}: a classifier without a linear head is of no use here")
    # Heads lie beside the encoder, each alone in its part of the model.
    beside = Counter(name.partition(".")[0] for name, _ in layers)
    heads = [
        name
        for name, module in layers
        if module.out_features == layers[-1][1].out_features and beside[name.partition(".")[0]] == 1
    ]
    if len(heads) > 1:
        raise ConfigError(
            f"{path}: a {type(model).__name__} has several heads ({', '.join(heads)}); save it as a classifier with one, without a"
            " distillation token's"
        )
    return layers[-1]


def settings_of(config: Any) -> dict[str, Any]:
    """A config of transformers or diffusers as plain data, without what says where it was found, and which version wrote it."""
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {
        name: settings_of(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if not str(name).startswith("_") and name != "transformers_version"
    }


def _own_size(processor: Any, config: Any) -> tuple[int, int] | None:
    for sizes in (getattr(processor, "crop_size", None), getattr(processor, "size", None)):
        if sizes:
            height = sizes.get("height") or sizes.get("shortest_edge")
            return int(height), int(sizes.get("width") or height)
    side = getattr(config, "image_size", None)
    return (int(side), int(side)) if side else None
