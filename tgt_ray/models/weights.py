"""Loads weights from safetensors files strictly, and says in one line where they don't fit."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors.torch
from torch import Tensor, nn

from tgt_ray.core.errors import ConfigError


def read_safetensors(content: bytes, where: str) -> dict[str, Tensor]:
    """Read the bytes of a safetensors file; a ConfigError that starts with `where` if they are damaged."""
    try:
        return safetensors.torch.load(content)
    except Exception as err:  # safetensors raises its own type and, for short files, others
        raise ConfigError(f"{where}: not a whole safetensors file ({err})") from err


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load weights into a model; a ConfigError that starts with `where` names the first key that differs."""
    own = model.state_dict()
    for key in [*own, *state]:
        if key not in state or key not in own or own[key].shape != state[key].shape:
            have, want = (str(list(s[key].shape)) if key in s else "absent" for s in (state, own))
            raise ConfigError(
                f"{where}: weights of another architecture; first difference at '{key}': {have}, expected {want}"
            )
    model.load_state_dict(state)


def whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights for a file, on the CPU. Tied ones (of language models) are written under each of their names."""
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in state.items():
        there = value.contiguous().cpu()
        out[name] = there.clone() if there.data_ptr() in seen else there
        seen.add(there.data_ptr())
    return out
