"""Says what a sweep will ask of the teacher, keep, send and take, from its config, its data and one measured step."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tgt_ray.core.progress import duration
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.text.vocabulary import corpus_vocabulary
from tgt_ray.sweeps.config import SweepConfig
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


def forecast(sweep: SweepConfig, scan: Any, lanes: int) -> Iterator[str]:
    """Yield what a sweep will take, a fact a line: teacher calls, synthetic rows, bytes, time.

    - scan: what the task's `scan` has found
    - lanes: trials that run at once
    """
    experiment = sweep.experiment
    if isinstance(scan, TaskData):
        needed = max((each.calibration_rows for each in sweep.objectives()), default=0)
        scan = with_calibration(experiment.task, scan, needed)
        yield _teacher(sweep, scan)
    trials = [sweep.trial_experiment(values) for values in first_values(sweep)]
    controls = [sweep.trial_experiment({"control": name}) for name in sweep.search.controls]
    unknown = sweep.num_trials - len(trials) - len(controls)
    rows = [_synthetic_rows(each) for each in trials]
    usual = sum(rows) / len(rows) if rows else _synthetic_rows(experiment)
    total = sum(rows) + sum(_synthetic_rows(each) for each in controls) + unknown * usual
    yield f"synthetic rows: about {usual:,.0f} a trial, {total:,.0f} in all, unless trials are stopped early"
    rows_, why = _rows(experiment, scan)
    if rows_ is None:
        yield f"bytes and time: not known before the data is read ({why})"
        return
    step = measure(experiment, *rows_)
    yield from _bytes(sweep, step, rows_[0], total)
    yield from _time(sweep, step, lanes)


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
    return f"{said}; with logits of {data.num_classes:,} classes its cache takes about {_size(cached)}"


def _synthetic_rows(experiment: Experiment) -> float:
    train = experiment.train
    return train.steps * train.batch_size * experiment.synthetic_ratio


def _rows(experiment: Experiment, scan: Any) -> tuple[tuple[Any, Tensor] | None, str]:
    """Return the models' spec and a batch of inputs: real rows where they are in memory, or random images.

    - returns: None, and the reason, where their shape is not known yet
    """
    import torch

    from tgt_ray.core.batch import InputSpec

    batch = experiment.train.batch_size // experiment.train.workers
    if isinstance(scan, TaskData):
        table = scan.tables["train"].slice(0, batch)
        rows = inputs_of(experiment.task, table, scan.input_shape)[torch.arange(batch) % len(table)]
        return (InputSpec(scan.input_shape, _vocabulary(experiment.task, scan)), rows), ""
    size = getattr(experiment.task.data, "size", None)  # type: ignore[attr-defined]
    if size is None:
        return None, "task.data.size isn't set, so an image must be decoded first"
    shape = (experiment.task.data.channels, size, size)  # type: ignore[attr-defined]
    return (InputSpec(shape), torch.rand(batch, *shape)), ""


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

    from tgt_ray.training.batches import PreparesInputs

    train = experiment.train
    if train.gpus_per_worker and not torch.cuda.is_available():
        return None
    device, threads = "cuda" if train.gpus_per_worker else "cpu", torch.get_num_threads()
    torch.set_num_threads(max(1, int(train.cpus_per_worker)))
    try:
        backbone: nn.Module = experiment.student.build(spec)
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
    sent = f"messages: synthetic rows of about {_size(row)} each, {_size(total * row)} in all"
    if step is not None:
        weights = step.weights * FLOAT
        state = weights * (3 if train.optimizer == "adamw" else 2 if train.momentum else 1)
        kept = 2 * state + weights  # the last two states, and the student itself
        yield f"checkpoints: about {_size(kept)} a trial, {_size(kept * sweep.num_trials)} in all"
        if sweep.experiment.explorer.on_policy:
            snapshots = train.steps // sweep.experiment.pool.snapshot_every + 1
            sent += f"; snapshots of the student, about {_size(snapshots * weights)} a trial"
    yield sent


def _time(sweep: SweepConfig, step: Step | None, lanes: int) -> Iterator[str]:
    """Say how long trials take, what was measured for that, and what is assumed."""
    train = sweep.experiment.train
    if step is None:
        yield "time: not measured, since students train on a GPU (train.gpus_per_worker) and this machine has none"
        return
    longest = int(sweep.largest("train.steps"))
    trial, rows = longest * step.seconds, train.batch_size * sweep.experiment.synthetic_ratio / step.seconds
    together = math.ceil(sweep.num_trials / max(1, lanes)) * trial
    yield (
        f"time: about {duration(trial)} a trial and {duration(together)} in all, {lanes} at once; measured here: a step"
        f" of {1000 * step.seconds:.3g} ms (the student's network with {step.weights:,} weights,"
        f" {train.batch_size // train.workers} rows, median of {step.steps})"
    )
    yield (
        "  assumed: as many free cores as are asked for, no trial is stopped early, and generators keep up"
        + (f" ({rows:,.0f} rows/s a trial)" if rows else "")
        + "; not in it: the loss, evaluation, the teacher, starts"
    )


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"
