"""Holds rows of validation out that neither labeler nor student nor selection sees, for what has to be calibrated."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.data import HeldForCalibration
from tgt_ray.tasks.base import take
from tgt_ray.tasks.leaks import keys_of

if TYPE_CHECKING:
    from tgt_ray.tasks.base import Task, TaskData

log = logging.getLogger(__name__)

#: The table with these rows.
CALIBRATION = "calibration"


def with_calibration(task: Task, data: TaskData, needed: int) -> TaskData:
    """Return the data with a part of validation in a table of its own; the rest is what models are selected by.

    Rows that are in train or among unlabelled rows as well, and those that validation has twice, stay in validation.

    - needed: the fewest rows that do; 0: none is asked for, and nothing changes, of which a warning tells where the
      user has set how they are held out
    - raises ConfigError: where there are fewer
    """
    if not needed:
        if task.calibration != HeldForCalibration():
            log.warning("task.calibration: has no effect, since no run or trial has objective.conformal; leave it out")
        return data
    validation = data.tables["validation"]
    fresh = _fresh(task, data)
    wanted = round(task.calibration.fraction * len(validation))
    labels = np.arange(len(fresh)) * 0 if task.has_documents else data.labels("validation")
    chosen = proportional(labels, fresh, wanted, task.calibration.seed)
    if len(chosen) < needed:
        raise ConfigError(
            f"objective.conformal: needs {needed} rows to be calibrated on, since of fewer no quantile covers the share"
            f" objective.conformal.coverage, and has {len(chosen)}: task.calibration.fraction"
            f" {task.calibration.fraction:g} of {len(validation)} validation rows, of which {int((~fresh).sum())}"
            " are in train as well or come twice; give more validation rows, a larger fraction or a lower coverage"
        )
    kept = np.setdiff1d(np.arange(len(validation)), chosen)
    tables, fingerprints = {}, {}
    for name, table in data.tables.items():
        tables[name], fingerprints[name] = table, data.fingerprints[name]
        if name == "validation":
            for part, rows in ((name, kept), (CALIBRATION, chosen)):
                tables[part] = take(table, rows)
                fingerprints[part] = digest(data.fingerprints[name], part, rows.tobytes())
    keys = {name: each for name, each in data.keys.items() if name != "validation"}
    return replace(data, tables=tables, fingerprints=fingerprints, keys=keys)


def proportional(labels_N: np.ndarray, may_be_N: np.ndarray, wanted: int, seed: int) -> np.ndarray:
    """Choose rows so that each class has its share, by chance, and leave a row of each class.

    - may_be_N: (N,) which rows may be chosen
    - returns: sorted indices; fewer than `wanted` where there are no more
    """
    rng = np.random.default_rng(seed)
    place = np.full(len(labels_N), np.inf)
    for c in np.unique(labels_N):
        there = int((labels_N == c).sum())
        rows = rng.permutation(np.flatnonzero((labels_N == c) & may_be_N))[: there - 1]
        # With one random begin for each class, its rows up to any share are that share, rounded up or down by chance.
        place[rows] = (np.arange(len(rows)) + rng.random()) / there
    first = np.argsort(place, kind="stable")[:wanted]
    return np.sort(first[np.isfinite(place[first])])


def _fresh(task: Task, data: TaskData) -> np.ndarray:
    """Tell which validation rows are nowhere else, (N,)."""
    keys, full = (
        data.keys[name] if name in data.keys else keys_of(task, name, data.tables[name])
        for name in ("validation", "full")
    )
    _, place, count = np.unique(keys, return_inverse=True, return_counts=True)
    out: np.ndarray = (count[place] == 1) & ~np.isin(keys, full)
    return out
