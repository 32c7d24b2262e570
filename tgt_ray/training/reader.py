"""Read synthetic rows n at a time, and measure the waiting and the lag."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tgt_ray.core.batch import Block
from tgt_ray.core.signals.values import concat_columns, take, to_torch
from tgt_ray.results.gallery import Gallery


class SyntheticReader:
    """Serve synthetic rows n at a time from blocks that come in request order, and measure waiting and lag.

    - skip_rows: rows of the first block that were used before the run resumed
    - start_wait_s: seconds until the first block, which is the pool's start
    - wait_s: seconds of waiting after the first block
    - lags: how many rows had which lag, in student steps between a row's snapshot and its use
    """

    def __init__(self, blocks: Iterator[Block], skip_rows: int = 0):
        self.blocks = blocks
        self.skip_rows = skip_rows
        self.rest: Block | None = None
        self.offset = 0
        self.start_wait_s = 0.0
        self.wait_s = 0.0
        self.lags: Counter[int] = Counter()
        self.num_blocks = 0
        self.gallery = Gallery()

    def take(self, count: int, step: int) -> tuple[Tensor, dict[str, Any]]:
        """Take the next rows.

        - count: how many rows
        - step: the student's step that uses them
        - returns: inputs (count, ...), and the columns of their signals
        """
        inputs, columns = [], []
        while count:
            block = self._block(step)
            part = slice(self.offset, self.offset + count)
            inputs.append(block.inputs[part])
            columns.append(take(block.columns, part))
            size = len(inputs[-1])
            if block.version >= 0:
                self.lags[step - block.version] += size
            count -= size
            self.offset += size
        found = {name: to_torch(values) for name, values in concat_columns(columns).items()}
        return torch.from_numpy(np.concatenate(inputs)), found

    def _block(self, step: int) -> Block:
        if self.rest is None or self.offset >= len(self.rest):
            started = time.perf_counter()
            self.rest = next(self.blocks)
            waited = time.perf_counter() - started
            if self.num_blocks:
                self.wait_s += waited
            else:
                self.start_wait_s += waited
            self.num_blocks += 1
            self.gallery.look_at(self.rest, step)
            self.offset, self.skip_rows = self.skip_rows, 0
        return self.rest

    def lag(self) -> dict[str, float]:
        """Summarise the lag of all rows in student steps; empty where no explorer looks at the student."""
        if not self.lags:
            return {}
        lags = np.repeat(list(self.lags), list(self.lags.values()))
        return {f"lag_{name}": value for name, value in percentiles(lags).items()}


def percentiles(values: np.ndarray) -> dict[str, float]:
    """Compute p50, p99 and max of a non-empty array."""
    return {
        "p50": float(np.percentile(values, 50)),
        "p99": float(np.percentile(values, 99)),
        "max": float(values.max()),
    }
