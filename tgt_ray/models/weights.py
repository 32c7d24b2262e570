"""Weights from safetensors files: strict, and in one clear line where they don't fit."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors.torch
from torch import Tensor, nn

from tgt_ray.config import ConfigError


def read_safetensors(content: bytes, where: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except Exception as err:  # safetensors raises its own type and, for short files, others
        raise ConfigError(f"{where}: not a whole safetensors file ({err})") from err


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """ConfigError names the first key that differs."""
    own = model.state_dict()
    for key in [*own, *state]:
        if key not in state or key not in own or own[key].shape != state[key].shape:
            have, want = (str(list(s[key].shape)) if key in s else "absent" for s in (state, own))
            raise ConfigError(
                f"{where}: weights of another architecture; first difference at '{key}': {have}, expected {want}"
            )
    model.load_state_dict(state)
