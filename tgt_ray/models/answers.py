"""A module that says of rows what somebody has said of them before, found by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from tgt_ray.core.batch import InputRows, Outputs
from tgt_ray.core.errors import ConfigError

#: Bytes of a row's key.
KEY_BYTES = 16
#: Rows whose keys are computed at once.
ROWS = 1024


def keys_of(inputs: InputRows) -> np.ndarray:
    """Return what stands for the content of each row, (N,) bytes: equal for rows that are the same."""
    out = np.empty(len(inputs), f"V{KEY_BYTES}")
    first = 0
    for part in inputs.split(ROWS):
        for row, each in enumerate(np.ascontiguousarray(part.cpu().numpy()), start=first):
            out[row] = hashlib.blake2b(each.tobytes(), digest_size=KEY_BYTES).digest()
        first += len(part)
    return out


class StoredAnswers(nn.Module):
    """Maps inputs (B, ...) to stored logits (B, K); there is no embedding, which has size 0.

    - keys: (N, KEY_BYTES) uint8, of the rows that it knows, in ascending order
    - logits: (N, K)
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.register_buffer("keys", torch.empty(0, KEY_BYTES, dtype=torch.uint8))
        self.register_buffer("logits", torch.empty(0, num_classes))

    def learn(self, keys_N: np.ndarray, logits_NK: np.ndarray) -> int:
        """Remember answers; rows of the same content get the mean of their probabilities.

        - returns: how many rows have another answer than an earlier row of the same content
        """
        found, first, which = np.unique(keys_N.view(f"S{KEY_BYTES}"), return_index=True, return_inverse=True)
        answers, which = logits_NK[first], which.reshape(-1)
        differ = (logits_NK != answers[which]).any(axis=1)
        for place in np.unique(which[differ]).tolist():
            p = torch.from_numpy(logits_NK[which == place]).double().softmax(dim=1).mean(dim=0)
            answers[place] = p.clamp_min(torch.finfo(torch.float32).tiny).log().float().numpy()
        as_bytes = np.ascontiguousarray(keys_N[first]).view(np.uint8).reshape(len(found), KEY_BYTES)
        self.keys, self.logits = torch.from_numpy(as_bytes.copy()), torch.from_numpy(answers.copy())
        return int(differ.sum())

    def make_room(self, state: Mapping[str, Tensor]) -> None:
        """Take the sizes of stored answers, so that these can be loaded."""
        self.keys, self.logits = (torch.zeros_like(state[name]) for name in ("keys", "logits"))

    def places(self, inputs: InputRows) -> np.ndarray:
        """Return the place of each row's answer, (B,); -1 where there is none."""
        there = np.ascontiguousarray(self.keys.cpu().numpy()).view(f"S{KEY_BYTES}").reshape(-1)
        wanted = keys_of(inputs).view(f"S{KEY_BYTES}")
        if not len(there):
            return np.full(len(wanted), -1)
        at = np.searchsorted(there, wanted).clip(max=len(there) - 1)
        return np.where(there[at] == wanted, at, -1)

    def forward(self, inputs: Tensor) -> Outputs:
        places = self.places(inputs)
        if (places < 0).any():
            raise ConfigError(
                f"teacher.labeler.type: stored, and {int((places < 0).sum())} of {len(places)} rows are none that it"
                " has an answer for"
            )
        logits = self.logits[torch.from_numpy(places).to(self.logits.device)]
        return Outputs(logits, logits.new_empty(len(logits), 0))
