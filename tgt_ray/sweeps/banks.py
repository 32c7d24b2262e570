"""Says how far the trials of a sweep can share synthetic rows, and what these take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tgt_ray.core.errors import ConfigError, cut
from tgt_ray.core.memory import in_bytes
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps.config import SweepConfig

#: Bytes of a logit, and of a row's own numbers: request, version, anchor.
FLOAT, PLACE = 4, 24


def about_banks(sweep: SweepConfig, row_bytes: float, seconds_per_row: float | None = None) -> str | None:
    """Say how many banks of synthetic rows the trials of a space can need, and what the teacher makes for them.

    - row_bytes: what the bank takes for a row
    - seconds_per_row: that a generator takes; None: not known
    - returns: None where no trial has synthetic rows
    """
    experiment = sweep.making() or sweep.experiment
    if not experiment.streams:
        return None
    mode = experiment.pool.bank.mode
    if mode == "none":
        return "bank: synthetic rows are not kept (pool.bank.mode: none), so each trial's are made for it alone"
    if experiment.explorer.on_policy and mode != "shared":
        return (
            f"bank: rows that {experiment.explorer.type} explores for a trial's student are made for it alone"
            f" (pool.bank.mode: {mode}); with shared they serve other trials as well"
        )
    keys = {key: sweep.space[key].all_values() for key in sweep.space if _matters(sweep, key)}
    without_end = [key for key, values in keys.items() if values is None]
    if without_end:
        return (
            f"bank: trials share no synthetic rows, since {cut(', '.join(without_end))} takes any value of a range; to"
            " share them, give the range `levels`, such as levels: 4"
        )
    count = math.prod(len(values or ()) for values in keys.values())
    rows = _most_rows(sweep)
    made = f"up to {rows:,.0f} rows ({in_bytes(rows * row_bytes)})"
    if seconds_per_row is not None:
        made += f", for which a generator takes about {rows * seconds_per_row:,.0f} s"
    if count == 1:
        return f"bank: all trials share one bank of synthetic rows, {made}"
    why = ", ".join(f"{key}: {len(values or ())} values" for key, values in keys.items())
    return f"bank: trials share {count:,} banks of synthetic rows ({cut(why)}), each of {made}"


def row_bytes(input_shape: Sequence[int], num_classes: int) -> float:
    """Return about how many bytes a bank takes for a row with logits; inputs are 8-bit numbers there."""
    return math.prod(input_shape) + FLOAT * num_classes + PLACE


def _matters(sweep: SweepConfig, key: str) -> bool:
    """Tell whether synthetic rows follow from a key of the space."""
    found = set()
    for value in sweep.space[key].ends():
        with suppress(ConfigError):  # some values are legal only together with those of other keys
            found.add(repr(_made_from(sweep.trial_experiment({key: value}))))
    return len(found) > 1


def _made_from(experiment: Experiment) -> list[Any]:
    """Return what a bank's name follows from, of an experiment alone."""
    pool, signals = experiment.pool, experiment.objective.signals
    return [
        experiment.explorer,
        experiment.teacher,
        experiment.train.seed,
        *(pool.rows_per_request, pool.precision, pool.cpus_per_actor, pool.gpus_per_actor),
        *(signal.key() for signal in signals if signal.synthetic),
    ]


def _most_rows(sweep: SweepConfig) -> float:
    """Return how many synthetic rows the trial takes that takes the most."""
    bank, rows = sweep.experiment.pool.bank, 1.0
    for key in ("train.steps", "train.batch_size", "train.synthetic_ratio"):
        rows *= sweep.largest(key)
    if bank.mode != "reuse":
        return rows
    return min(rows, bank.rows if isinstance(bank.rows, int) else bank.rows * rows)
