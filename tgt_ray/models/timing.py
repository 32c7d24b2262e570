"""Times models on the CPU: how long one row takes them, and how many rows they take in a second."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tgt_ray.core.environment import cpu_model
from tgt_ray.models.optimise import threads

#: Rows that are given at once where rows a second are counted.
TOGETHER = 64
#: Seconds that each figure is measured for, after a first call that isn't counted; calls that a median needs; and
#: seconds after which fewer have to do (our choice).
SECONDS, CALLS, MOST_SECONDS = 0.08, 5, 0.2
#: Seconds that a call with many rows may take; a model that is slower gets fewer rows at once (our choice).
LONGEST_CALL_S = 4.0


def timed(model: Callable[[Tensor], Any], rows: Tensor, together: int = TOGETHER) -> dict[str, Any]:
    """Time a model with one thread, and with as many as there are CPUs for this process.

    - rows: (N, ...), taken in turn
    - together: how many rows to give at once where rows a second are counted, at most
    - returns: `cpu`, the processor; `load`, how many processes wanted each CPU in the last minute, this one included;
      `rows`, how many were given at once; and the list `threads`, which has for each number of threads: `threads`,
      `latency_ms` (the median of calls with one row), `latency_p95_ms` (their 95th percentile) and `rows_per_second`
    """
    counts = sorted({1, usable_cpus()})
    found: list[dict[str, Any]] = []
    given = together
    with torch.no_grad():
        for count in counts:
            with threads(count):
                one = _seconds(model, [rows[place : place + 1] for place in range(len(rows))])
                usual = float(np.median(one))
                if not found:
                    given = max(1, min(together, int(LONGEST_CALL_S / usual)))
                many = _seconds(model, [_repeated(rows, given)])
            found.append(
                {
                    "threads": count,
                    "latency_ms": 1000 * usual,
                    "latency_p95_ms": 1000 * float(np.percentile(one, 95)),
                    "rows_per_second": given / float(np.median(many)),
                }
            )
    return {"cpu": cpu_model(), "load": os.getloadavg()[0] / usable_cpus(), "rows": given, "threads": found}


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _repeated(rows: Tensor, count: int) -> Tensor:
    return rows[torch.arange(count) % len(rows)]


def _seconds(model: Callable[[Tensor], Any], inputs: list[Tensor]) -> list[float]:
    """Return how long each call takes, with the inputs in turn."""
    model(inputs[0])  # the first call is slower, since it makes room
    taken: list[float] = []
    started = now = time.perf_counter()
    while not taken or now - started < (SECONDS if len(taken) >= CALLS else MOST_SECONDS):
        model(inputs[len(taken) % len(inputs)])
        before, now = now, time.perf_counter()
        taken.append(now - before)
    return taken
