"""Builds models, unless their weights, or the batches that they are trained on, are more than memory holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tgt_ray.core.errors import ConfigError, concerning
from tgt_ray.core.memory import in_bytes, memory


def built(key: str, part: Any, *args: Any) -> nn.Module:
    """Build a model with fresh weights.

    - key: of its config, for messages
    - args: what its `build` takes
    - raises ConfigError: where memory doesn't hold its weights
    """
    check_size(key, part, *args)
    with concerning(key):
        try:
            model: nn.Module = part.build(*args)
        except RuntimeError as err:
            if "can't allocate memory" not in str(err):
                raise
            raise ConfigError(
                f"there is no memory for its weights: this machine has {in_bytes(memory())}; make it smaller"
            ) from err
    return model


def check_size(key: str, part: Any, *args: Any, copies: int = 1) -> None:
    """Count a model's weights before memory is taken for them, where its size follows from its config alone.

    - key, args: as for `built`
    - copies: as many numbers as weights are kept, in training also gradients and what the optimizer keeps
    - raises ConfigError: where memory doesn't hold them
    """
    if part.external or ":" in part.type:
        return
    with concerning(key):
        count = _weights(part, args)
        if 4 * copies * count > (most := memory()):
            trained = ", with gradients and what the optimizer keeps," if copies > 1 else ""
            taken, there = in_bytes(4 * copies * count), in_bytes(most)
            raise ConfigError(
                f"its {count:.2g} weights of 4 bytes{trained} take {taken}, and this machine has {there} of memory;"
                " make it smaller"
            )


def check_batch(rows: int, shape: Sequence[int]) -> None:
    """Raise ConfigError where memory doesn't hold a batch of images, which are numbers of 4 bytes.

    - rows: of a batch
    - shape: of one row's inputs; those of texts have one dimension
    """
    taken = 4 * rows * math.prod(shape)
    if len(shape) > 1 and taken > (most := memory()):
        raise ConfigError(
            f"train.batch_size: a worker's {rows:,} images of {'x'.join(map(str, shape))} take {in_bytes(taken)}"
            f" (4 bytes a number), and this machine has {in_bytes(most)} of memory; set it, or task.data.size, to less"
        )


def _weights(part: Any, args: tuple[Any, ...]) -> int:
    """Count a model's weights without taking memory for them; 0 where that isn't possible."""
    try:
        # Without a fork, what is drawn for weights that nobody uses would change those that are drawn afterwards.
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            model = part.build(*args)
    except (RuntimeError, ConfigError):
        # It computes with its weights while it is made, or can't be made at all, which making it says.
        return 0
    return sum(each.numel() for each in model.parameters())
