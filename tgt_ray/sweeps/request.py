"""Measures how long one request of the synthesizer takes, without training or storing anything."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tgt_ray.core.errors import concerning
from tgt_ray.core.storage import Storage
from tgt_ray.distributed.resources import device_of
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.tasks import TaskData, inputs_of
from tgt_ray.teacher.fingerprints import stored_teacher
from tgt_ray.teacher.transfer_set import Anchors
from tgt_ray.training.banked import roles_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tgt_ray.teacher.generators import Generator
    from tgt_ray.teacher.labelers.base import Labeler
    from tgt_ray.teacher.module import Teacher

#: Anchors that the measured request starts from, and numbers that they have together; always a few of them.
ANCHORS, NUMBERS = 256, 2**26
#: Rows of a first, small request, how many times larger the next ones are, and seconds that none should take.
FEW, GROWTH, LONGEST_S = 4, 8, 8.0


@dataclass(frozen=True)
class Request:
    """A synthesizer's measured request.

    - seconds: that a whole one takes
    - rows: that it makes
    - measured: rows that were made; fewer where a whole one takes long
    - by: which labeler and generator have made them
    """

    seconds: float
    rows: int
    measured: int
    by: str


def measure_request(experiment: Experiment, data: TaskData, real: bool, storage: Storage | None) -> Request | None:
    """Measure one request of an experiment's synthesizer.

    - experiment: one whose synthetic rows the teacher makes
    - data: with the vocabulary of models of its own
    - real: whether its rows have inputs; otherwise these are drawn at random
    - storage: may have the teacher; nothing is written to it
    - returns: None where generators use a GPU, and this machine has none
    """
    import torch

    from tgt_ray.models.optimise import threads
    from tgt_ray.teacher.synthesizer import Synthesizer
    from tgt_ray.training.fit_check import fresh_student
    from tgt_ray.training.generation import recipe_of

    device = device_of(experiment)
    if device == "cuda" and not torch.cuda.is_available():
        return None
    with threads(max(1, int(experiment.pool.cpus_per_actor))), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher, by = _teacher(experiment, data, real, storage)
        teacher, (inputs, labels) = teacher.to(device), _anchors(experiment, data, real)
        latents = np.empty((len(inputs), 0), np.float32)
        if teacher.generator is not None and not teacher.contextual:
            latents = _latents(teacher, inputs, experiment.teacher.generator.most_rows or FEW, device)
        student = None
        if experiment.explorer.on_policy:
            student = fresh_student(experiment, teacher, data).to(device).eval().requires_grad_(False)
        anchors, recipe = Anchors(np.arange(len(inputs)), labels, latents), recipe_of(experiment)

        def make(rows: int) -> Callable[[], Any]:
            synthesizer = Synthesizer(teacher, anchors, replace(recipe, rows=rows), inputs, device)
            return lambda: synthesizer(0, 0, experiment.explorer, student, shown=0)

        rows = min(FEW, recipe.rows)
        make(rows)()  # the first one is slower
        seconds = _seconds(make(rows), device)
        # Each call costs some time of its own, so that few rows don't tell how long many take.
        while rows < recipe.rows and seconds * GROWTH < LONGEST_S:
            rows = min(rows * GROWTH, recipe.rows)
            seconds = _seconds(make(rows), device)
    return Request(seconds * recipe.rows / rows, recipe.rows, rows, by)


def _seconds(work: Callable[[], Any], device: str) -> float:
    import torch

    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _teacher(experiment: Experiment, data: TaskData, real: bool, storage: Storage | None) -> tuple[Teacher, str]:
    """Return the teacher, as it is stored or comes from elsewhere, and else with untrained weights, and say which."""
    from tgt_ray.models.built import built
    from tgt_ray.teacher.module import Teacher
    from tgt_ray.teacher.part import frozen
    from tgt_ray.teacher.store import load_teacher

    config = experiment.teacher
    if real and storage is not None and (record := stored_teacher(config, data, storage, writes=False)) is not None:
        teacher = load_teacher(config, record, data.spec, data.num_classes, storage)
        by = [f"the stored {role} {record[role]['identity']}" for role in roles_of(experiment)]
        return teacher, " and ".join(by)
    labeler, generator = built("teacher.labeler", config.labeler, data.spec, data.num_classes), None
    parts: list[tuple[str, Labeler | Generator, nn.Module]] = [("labeler", config.labeler, labeler)]
    if experiment.explorer.decodes:
        generator = built("teacher.generator", config.generator, data.spec)
        parts.append(("generator", config.generator, generator))
    for role, part, model in parts:
        with concerning(f"teacher.{role}"):
            if part.external:
                part.load_weights(model)
    said = [f"the {role}" if part.external else f"an untrained {role} of the same shape" for role, part, _ in parts]
    if generator is None:
        return Teacher(frozen(labeler), None), " and ".join(said)
    return Teacher.of(frozen(labeler), frozen(generator), config.generator), " and ".join(said)


def _anchors(experiment: Experiment, data: TaskData, real: bool) -> tuple[Tensor, np.ndarray]:
    """Return inputs and labels of some of the rows that the generator starts from."""
    import torch

    name = next(name for name in experiment.teacher.generator.starts_from if name in data.tables)
    table = data.tables[name]
    count = min(ANCHORS, len(table), max(FEW, NUMBERS // math.prod(data.input_shape)))
    some = np.linspace(0, len(table) - 1, count).round().astype(np.int64)
    labels = np.maximum(data.labels(name)[some], 0)
    if not real:
        return torch.rand(len(some), *data.input_shape), labels
    rows = table.take(some)
    return inputs_of(experiment.task, rows, data.input_shape)[torch.arange(len(some))], labels


def _latents(teacher: Teacher, inputs: Tensor, size: int, device: str) -> np.ndarray:
    """Encode anchors as the teacher pass does."""
    import torch

    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        parts = [teacher.encode(each.to(device), rng)[0].float().cpu() for each in inputs.split(size)]
    latents: np.ndarray = torch.cat(parts).numpy()
    return latents
