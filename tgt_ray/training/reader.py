"""Read synthetic rows n at a time, and measure the waiting and the lag."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tgt_ray.core.batch import Block
from tgt_ray.core.signals.values import concat_columns, flat, take, to_torch, unflat
from tgt_ray.results.gallery import Gallery


class SyntheticReader:
    """Serve synthetic rows n at a time from blocks that come in request order, and measure waiting and lag.

    - skip_rows: rows of the first block that were used before the run resumed
    - start_wait_s: seconds until the first block of this session, which is the pool's start
    - earlier_start_wait_s: the same of the sessions before
    - wait_s: seconds of waiting after the first block of each session
    - lags: how many rows had which lag, in student steps between a row's snapshot and its use
    """

    def __init__(self, blocks: Iterator[Block], skip_rows: int = 0):
        self.blocks = blocks
        self.skip_rows = skip_rows
        self.rest: Block | None = None
        self.offset = 0
        self.start_wait_s = self.earlier_start_wait_s = 0.0
        self.wait_s = 0.0
        self.lags: Counter[int] = Counter()
        self.num_blocks = 0
        self.gallery = Gallery()
        self._looked_at = False  # whether the gallery knows the first block already

    @classmethod
    def going_on(
        cls, blocks: Callable[[int], Iterator[Block]], position: tuple[int, int], state: dict[str, Any] | None
    ) -> SyntheticReader:
        """Make the reader of a run that begins, or goes on from a checkpoint.

        - blocks: gives the blocks from a request on, by its index
        - position: index of the first request, and how many of its rows are used up
        - state: of `state`, with this worker's `rest`; None: the run begins, or its checkpoint has none
        """
        first, used = position
        rest = (state or {}).get("rest")
        reader = cls(blocks(first if rest is None else first + 1), used if rest is None else 0)
        if state is not None:
            reader.lags = Counter(state["lags"])
            reader.wait_s, reader.earlier_start_wait_s = state["wait_s"], state["start_wait_s"]
            reader.gallery = Gallery.of(state["gallery"])
            reader._looked_at = used > 0 and rest is None
        if rest is not None:
            reader.rest = Block(**{**rest, "columns": unflat(rest["columns"]), "shown": {}})
        return reader

    def state(self) -> dict[str, Any]:
        """Give what must be known to go on, apart from `unused`: plain values, and numpy arrays."""
        return {
            "lags": dict(self.lags),
            "wait_s": self.wait_s,
            "start_wait_s": self.earlier_start_wait_s + self.start_wait_s,
            "gallery": self.gallery.state(),
        }

    def unused(self) -> dict[str, Any] | None:
        """Give the rows that are left of the present block, where they can't be made again.

        They can't where the explorer has looked at the student, which has changed since.

        - returns: None where nothing is left, or all of it can be made again
        """
        block, part = self.rest, slice(self.offset, None)
        if block is None or block.version < 0 or self.offset >= len(block):
            return None
        same = {name: getattr(block, name) for name in ("request", "version", "explorer", "origin", "steps")}
        rows = flat({"inputs": block.inputs[part], "anchor": block.anchor[part]})
        return {**same, **rows, "columns": flat(take(block.columns, part))}

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
            if not self._looked_at:
                self.gallery.look_at(self.rest, step)
            self.offset, self.skip_rows, self._looked_at = self.skip_rows, 0, False
        return self.rest

    def wait_share(self, train_s: float) -> float:
        """Give the share of the training time in which the student waited, without the waits for first blocks.

        - train_s: seconds of training in all sessions
        """
        return self.wait_s / max(train_s - self.earlier_start_wait_s - self.start_wait_s, 1e-9)

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
