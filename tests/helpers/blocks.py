"""Blocks of synthetic rows, compared."""

import numpy as np

ROWS = 32


def arrays(block) -> dict:
    shown = {f"shown {name}": values for name, values in block.shown.items()}
    same = {name: np.array(getattr(block, name)) for name in ("request", "version", "explorer")}
    return {"inputs": block.inputs, "anchor": block.anchor, **block.columns, **shown, **same}


def equal(a, b) -> bool:
    a, b = arrays(a), arrays(b)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
