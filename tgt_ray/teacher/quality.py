"""Measures the quality of a teacher's models on held-out rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tgt_ray.core.batch import rows_at_once
from tgt_ray.core.progress import counted
from tgt_ray.core.texts import to_texts
from tgt_ray.tasks import Task, TaskData, inputs_of
from tgt_ray.tasks.metrics.generated_texts import exact_copy_rate
from tgt_ray.teacher.module import Teacher, check_decoded


@torch.no_grad()
def scores(model: nn.Module, task: Task, data: TaskData, split: str, device: str) -> dict[str, Any]:
    """Compute the task's metrics of a labeler on a split."""
    model.eval()
    inputs = inputs_of(task, data.tables[split], data.input_shape, device)
    parts, reduce = inputs.split(rows_at_once(data.input_shape, model)), task.reducer(data.tables)
    parts = counted(parts, f"measuring the labeler on {split} rows", len(inputs), "rows")
    said = torch.cat([reduce(model(part).logits).cpu() for part in parts])
    return task.evaluate(said.numpy(), data.tables[split], data.class_counts)


@torch.no_grad()
def fidelity(teacher: Teacher, task: Task, data: TaskData, device: str, longest: int | None) -> dict[str, float]:
    """Measure reconstructions of validation rows, and how often the labeler predicts for them what it does for the row.

    Reconstructions are measured by squared error; texts by the percentage of exact copies. The agreement is in percent.

    - longest: the largest number of tokens that the generator gives a text, see `exact_copy_rate`
    """
    labeler, rng = teacher.labeler, torch.Generator().manual_seed(0)
    inputs = inputs_of(task, data.tables["validation"], data.input_shape, device)
    agree, total, measured = 0, 0.0, "reconstruction_mse"
    parts = inputs.split(rows_at_once(data.input_shape, teacher.generator, labeler))
    for part in counted(parts, "measuring the generator on validation rows", len(inputs), "rows"):
        latents, context = teacher.encode(part, rng)
        again = teacher.decode(latents, rng, context)
        check_decoded(again, part)
        if again.is_floating_point():
            mean = float((again - part).square().mean())
        else:
            measured = "exact_copy_rate"
            before, after = (to_texts(rows.cpu().numpy()) for rows in (part, again))
            mean = exact_copy_rate(before, after, longest)
        total += mean * len(part)
        agree += int((labeler(again).logits.argmax(1) == labeler(part).logits.argmax(1)).sum())
    return {measured: total / len(inputs), "labeler_agreement": 100 * agree / len(inputs)}
