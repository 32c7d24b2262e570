"""Turns image models of timm into backbones."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from tgt_ray.core.errors import ConfigError
from tgt_ray.models.image.preprocess import Preprocess, PretrainedBackbone


def timm_backbone(
    name: str, image_channels: int, size: int | None, own_channels: bool, options: Mapping[str, Any]
) -> PretrainedBackbone:
    """Build a timm architecture with fresh weights and without its head.

    - image_channels: of the task's images
    - size: height and width that images are resized to; None: the model's own, or, from scratch, as they are
    - own_channels: whether the model has as many channels as its pretrained weights, otherwise as many as the images
    - options: further arguments of `timm.create_model`
    """
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True) or timm.models.PretrainedCfg()
    channels = config.input_size[0] if own_channels else image_channels
    if image_channels not in (1, channels):
        raise ConfigError(f"'{name}' takes images of {channels} channel(s), the task's have {image_channels}")
    # From scratch most models take any size.
    own_size = tuple(config.input_size[1:]) if own_channels or config.fixed_input_size else None
    pixels = (size, size) if size is not None else own_size
    sized = {"img_size": size} if size is not None and config.fixed_input_size else {}
    try:
        body = timm.create_model(name, num_classes=0, in_chans=channels, **sized, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as err:  # how architectures refuse arguments
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
    """Return a timm model's weights for the size of image that `body` is made for.

    Weights that belong to places of an image, such as embeddings of positions, are resampled as timm does it. Weights
    of another architecture stay as they are.

    - key: of the config, for messages
    - raises ConfigError: where timm can't resample them
    """
    import timm

    own = body.state_dict()
    fits = {key: key in state and state[key].shape == value.shape for key, value in own.items()}
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if all(fits.values()) or not own.keys() <= state.keys() or config is None or not config.fixed_input_size:
        return state
    # timm's own loading calls this function, which resamples embeddings of positions, among other things.
    bring = getattr(inspect.getmodule(type(body)), "checkpoint_filter_fn", None)
    brought: dict[str, Tensor] = bring(dict(state), body) if bring is not None else state
    other = [key for key, value in own.items() if key not in brought or brought[key].shape != value.shape]
    if other:
        raise ConfigError(
            f"{key}.img_size: weights of '{name}' are for images of {config.input_size[1]}x{config.input_size[2]}"
            f" ('{other[0]}' can't be resampled); leave it out"
        )
    return brought


def timm_weights(name: str) -> dict[str, Tensor]:
    """Load a timm model's weights with its head, from the hub."""
    import timm

    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as err:  # the hub's client raises many kinds, for names, network and files alike
        raise ConfigError(f"cannot load pretrained weights of '{name}' ({' '.join(str(err).split())[:200]})") from err


def split_head(
    name: str, state: Mapping[str, Tensor], body_keys: Collection[str]
) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
    """Split a timm model's weights into those of the body and those of its head.

    - body_keys: names of the body's own weights
    - returns: (weights of the body, weight (K, D), bias (K,)); the last two are None unless the head is one linear
      layer on the embedding: some models have no head, two heads, or further layers
    """
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
