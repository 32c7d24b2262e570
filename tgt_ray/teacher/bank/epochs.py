"""Draws the rows of a bank of fixed size, epoch after epoch."""

from __future__ import annotations

import numpy as np

from tgt_ray.core.fingerprint import digest


def places(index: int, size: int, total: int, seed: int) -> np.ndarray:
    """Return which rows of a bank the block of this index takes.

    Rows come in the order in which they were made, and in each further epoch in another random order, so that a block
    may begin in one epoch and end in the next (our choice).

    - index: of the block
    - size: rows of a block
    - total: rows of the bank
    - seed: of the orders
    - returns: (size,), places of rows
    """
    wanted = index * size + np.arange(size)
    epochs, inside = np.divmod(wanted, total)
    orders = {epoch: _order(int(epoch), total, seed) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][place] for epoch, place in zip(epochs, inside, strict=True)], np.int64)


def _order(epoch: int, total: int, seed: int) -> np.ndarray:
    if not epoch:
        return np.arange(total)
    return np.random.default_rng(int(digest("bank", seed, epoch), 16)).permutation(total)
