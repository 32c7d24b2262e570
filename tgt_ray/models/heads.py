"""Finds and fills linear heads of classifiers, and turns settings of models into plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tgt_ray.core.errors import ConfigError


def set_head(head: nn.Linear, weight_KD: Tensor, bias_K: Tensor | None, classes: Sequence[int] | None) -> None:
    """Give a linear layer the weights of another one.

    - weight_KD, bias_K: of the other layer; without a bias it is 0
    - classes: which rows to take, in order; None: all
    """
    chosen = torch.tensor(classes if classes is not None else range(len(weight_KD)))
    with torch.no_grad():
        head.weight.copy_(weight_KD[chosen])
        head.bias.copy_(bias_K[chosen] if bias_K is not None else torch.zeros(len(chosen)))


def linear_head(model: Any, path: str) -> tuple[str, nn.Linear]:
    """Return name and module of the last linear layer, from embeddings to classes.

    - path: of the model, for messages
    - raises ConfigError: where there is none, or where several take part
    """
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
            f"{path}: a {type(model).__name__} has several heads ({', '.join(heads)}); save it as a classifier with one"
        )
    return layers[-1]


def settings_of(config: Any) -> dict[str, Any]:
    """Return a config of transformers or diffusers as plain data, without its path and the version that wrote it."""
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {
        name: settings_of(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if not str(name).startswith("_") and name != "transformers_version"
    }
