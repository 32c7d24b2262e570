"""What a teacher says of real rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tgt_ray.core.batch import InputRows, rows_at_once
from tgt_ray.teacher.module import Teacher


@torch.no_grad()
def teacher_outputs(
    teacher: Teacher,
    inputs: InputRows,
    input_shape: tuple[int, ...],
    embedding: bool = False,
    most: int = 512,
    logits: bool = True,
) -> dict[str, np.ndarray]:
    """Logits (N, K) and latents (N, L) of N rows, and with `embedding` the labeler's embeddings (N, E), float32; no latents where the
    generator is contextual. The inputs are where the teacher is. most: rows that it gets at once. logits: False gives the first class
    alone, "first" (N,)."""
    batch_size = rows_at_once(input_shape, teacher.labeler, teacher.generator, most=most)
    found: dict[str, list[Tensor]] = {}
    for there in inputs.split(batch_size):
        said = teacher.labeler(there)
        parts = {"logits": said.logits} if logits else {"first": said.logits.argmax(dim=1)}
        if not teacher.contextual:
            parts["latent"] = teacher.generator.encode(there)  # type: ignore[operator]
        if embedding:
            parts["embedding"] = said.embedding
        for name, values in parts.items():
            found.setdefault(name, []).append(values.cpu())
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}
