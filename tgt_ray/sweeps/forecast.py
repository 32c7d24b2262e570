"""Says what a sweep will ask of the teacher, keep, send and take, from its config, its data and one measured step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tgt_ray.core.memory import in_bytes
from tgt_ray.core.progress import duration
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.text.vocabulary import corpus_vocabulary
from tgt_ray.sweeps.banks import about_banks, row_bytes
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.request import Request, measure_request
from tgt_ray.sweeps.search import first_values
from tgt_ray.tasks import TaskData, inputs_of, with_calibration
from tgt_ray.teacher.transfer_set import needs, wanted_signals

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Bytes of a number, of most arrays.
FLOAT = 4
#: Texts of which a vocabulary is learnt for the measured step.
TEXTS = 2000
#: Steps that are measured after a first one, and seconds after which no further step begins.
STEPS, LONGEST_S = 5, 1.0


@dataclass(frozen=True)
class Step:
    """A student's measured step.

    - seconds: of one step
    - weights: numbers in the student's backbone
    - steps: that were measured
    """

    seconds: float
    weights: int
    steps: int


def forecast(sweep: SweepConfig, scan: Any, lanes: int, storage: Storage | None = None) -> Iterator[str]:
    """Yield what a sweep will take, a fact a line: teacher calls, synthetic rows, bytes, time.

    - scan: what the task's `scan` has found
    - lanes: trials that run at once
    - storage: may have the teacher; nothing is written to it
    """
    experiment = sweep.experiment
    data = experiment.task.before_reading(scan)
    if data is not None:
        needed = max((each.calibration_rows for each in sweep.objectives()), default=0)
        data = with_calibration(experiment.task, data, needed)
        yield _teacher(sweep, data)
    trials = [sweep.trial_experiment(values) for values in first_values(sweep)]
    controls = [sweep.trial_experiment({"control": name}) for name in sweep.search.controls]
    unknown = sweep.num_trials - len(trials) - len(controls)
    rows = [_synthetic_rows(each) for each in trials]
    usual = sum(rows) / len(rows) if rows else _synthetic_rows(experiment)
    total = sum(rows) + sum(_synthetic_rows(each) for each in controls) + unknown * usual
    yield f"synthetic rows: about {usual:,.0f} a trial, {total:,.0f} in all, unless trials are stopped early"
    if data is None or not data.input_shape:
        yield "bytes and time: not known before the data is read, since its scan doesn't tell the shape of rows"
        return
    real = isinstance(scan, TaskData)
    data = replace(data, tokenizer=_vocabulary(experiment.task, data))
    step = measure(experiment, data.spec, _rows(experiment, data, real))
    yield from _bytes(sweep, step, data.spec, total)
    making = sweep.making()
    request = measure_request(making, data, real, storage) if making is not None else None
    yield from _time(sweep, step, making or experiment, request, lanes)
    seconds_per_row = request.seconds / request.rows if request is not None else None
    banks = about_banks(sweep, row_bytes(data.input_shape, data.num_classes), seconds_per_row)
    if banks is not None:
        yield banks
    if request is not None:
        yield _request(request)
    elif making is not None:
        yield (
            "request: not measured, since generators use a GPU (pool.gpus_per_actor) and this machine has none;"
            " assumed that they keep up"
        )


def _teacher(sweep: SweepConfig, data: TaskData) -> str:
    """Say how many rows the teacher labels, once for all trials."""
    signals, fits = needs(sweep.objectives())
    wanted = wanted_signals(data, sweep.experiment.teacher.generator, signals, tuple(fits.values()))
    counts = {name: len(data.tables[name]) for name, asked in wanted.items() if asked}
    own = sweep.experiment.train.relabelled
    changes = {*sweep.augmented_rows(), *([own] if own is not None else [])}
    if changes and signals:
        counts["augmented train"] = sum(each.versions for each in changes) * len(data.tables["train"])
    named = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    said = f"teacher: labels {sum(counts.values()):,} rows once for all trials ({named or 'none'})"
    if sweep.experiment.task.has_documents:
        return f"{said}, and embeds {len(data.tables['documents']):,} documents once"
    cached = sum(counts.values()) * data.num_classes * FLOAT
    return f"{said}; with logits of {data.num_classes:,} classes its cache takes about {in_bytes(cached)}"


def _synthetic_rows(experiment: Experiment) -> float:
    train = experiment.train
    return train.steps * train.batch_size * experiment.synthetic_ratio


def _rows(experiment: Experiment, data: TaskData, real: bool) -> Tensor:
    """Return a batch of inputs: real rows where they are in memory, or random images."""
    import torch

    from tgt_ray.models.built import check_batch

    batch = experiment.train.batch_size // experiment.train.workers
    check_batch(batch, data.input_shape)
    if not real:
        return torch.rand(batch, *data.input_shape)
    table = data.tables["train"].slice(0, batch)
    return inputs_of(experiment.task, table, data.input_shape)[torch.arange(batch) % len(table)]


def _vocabulary(task: Any, data: TaskData) -> str:
    """Learn the vocabulary of some of the texts, which takes less time than that of all; "" for other inputs."""
    if task.modality != "text":
        return ""
    names = ("documents", "full") if task.has_documents else ("full",)
    texts = [text for name in names for text in task.texts(name, data.tables[name].slice(0, TEXTS))[1]]
    return corpus_vocabulary(texts, task.vocabulary, [], None)


def measure(experiment: Experiment, spec: Any, inputs: Tensor) -> Step | None:
    """Measure some steps of the student's backbone and its optimizer, with untrained weights.

    - returns: None where the student trains on a GPU, and this machine has none
    """
    import torch

    from tgt_ray.models.built import built
    from tgt_ray.training.batches import PreparesInputs

    train = experiment.train
    if train.gpus_per_worker and not torch.cuda.is_available():
        return None
    device, threads = "cuda" if train.gpus_per_worker else "cpu", torch.get_num_threads()
    torch.set_num_threads(max(1, int(train.cpus_per_worker)))
    try:
        backbone: nn.Module = built("student", experiment.student, spec)
        prepared = backbone.prepare(inputs) if isinstance(backbone, PreparesInputs) else inputs
        backbone, prepared = backbone.to(device).train(), prepared.to(device)
        optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-4) if train.optimizer == "adamw" else None
        times: list[float] = []
        while len(times) <= STEPS and sum(times) < LONGEST_S:
            began = time.perf_counter()
            backbone(prepared).square().mean().backward()
            if optimizer is not None:
                optimizer.step()
            backbone.zero_grad()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    later = times[1:] or times  # the first one is slower
    return Step(sorted(later)[len(later) // 2], sum(each.numel() for each in backbone.parameters()), len(later))


def _bytes(sweep: SweepConfig, step: Step | None, spec: Any, total: float) -> Iterator[str]:
    """Say what is kept and sent."""
    train, row = sweep.experiment.train, math.prod(spec.shape) * (1 if spec.tokenizer else FLOAT)
    sent = f"messages: synthetic rows of about {in_bytes(row)} each, {in_bytes(total * row)} in all"
    if step is not None:
        weights = step.weights * FLOAT
        state = weights * (3 if train.optimizer == "adamw" else 2 if train.momentum else 1)
        kept = 2 * state + weights  # the last two states, and the student itself
        yield f"checkpoints: about {in_bytes(kept)} a trial, {in_bytes(kept * sweep.num_trials)} in all"
        if sweep.experiment.explorer.on_policy:
            snapshots = train.steps // sweep.experiment.pool.snapshot_every + 1
            sent += f"; snapshots of the student, about {in_bytes(snapshots * weights)} a trial"
    yield sent


def _time(
    sweep: SweepConfig, step: Step | None, making: Experiment, request: Request | None, lanes: int
) -> Iterator[str]:
    """Say how long trials take, what was measured for that, and what is assumed.

    - making: a trial with synthetic rows, where there is one
    """
    train, pool = making.train, making.pool
    if step is None:
        yield "time: not measured, since students train on a GPU (train.gpus_per_worker) and this machine has none"
        return
    longest = int(sweep.largest("train.steps"))
    rows, seconds, slower = train.batch_size * making.synthetic_ratio, step.seconds, ""
    made = train.workers * pool.actors * request.rows / request.seconds if request is not None else 0.0
    if made and rows / made > seconds:
        slower = f"; its generators are slower: {made:,.0f} of {rows / seconds:,.0f} rows/s; more pool.actors may help"
        seconds = rows / made
    trial = longest * seconds
    together = math.ceil(sweep.num_trials / max(1, lanes)) * trial
    yield (
        f"time: about {duration(trial)} a trial and {duration(together)} in all, {lanes} at once; measured here: a step"
        f" of {1000 * step.seconds:.3g} ms (the student's network with {step.weights:,} weights,"
        f" {train.batch_size // train.workers} rows, median of {step.steps}){slower}"
    )
    yield (
        "  assumed: as many free cores as are asked for, no trial is stopped early"
        + (f", and generators work beside students ({rows / seconds:,.0f} rows/s a trial)" if made else "")
        + "; not in it: the loss, evaluation, the teacher's training and its pass, starts"
    )


def _request(request: Request) -> str:
    """Say how long a generator takes, and what was measured for that."""
    some = "" if request.measured == request.rows else f", from {request.measured:,} of them"
    return (
        f"request: {request.rows:,} synthetic rows take a generator about {_seconds(request.seconds)}"
        f" ({request.rows / request.seconds:,.0f} rows/s{some}); measured here: {request.by}"
    )


def _seconds(seconds: float) -> str:
    return duration(seconds) if seconds >= 10 else f"{seconds:.2g} s"
