"""Caches what the teacher says of real rows in the storage: one content-addressed file for each split and signal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy

from tgt_ray.core import formats
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.patience import patiently
from tgt_ray.core.signals.base import Signal
from tgt_ray.core.signals.values import Columns, flat, unflat
from tgt_ray.core.storage import Storage

#: Part of each file's address: a version finds what it can read.
VERSION = formats.FORMATS["teacher_cache"]
#: The folder of these files in the storage.
FOLDER = "teacher_cache"


@dataclass(frozen=True)
class TeacherCache:
    """Reads and writes the cached outputs of one teacher on one task's splits.

    - splits: fingerprint of each split
    - makers: names of labeler and generator, see `tgt_ray.teacher.forms.names.speaker`; None where there is none
    """

    storage: Storage
    splits: dict[str, str]
    makers: dict[str, str | None]

    def signal_key(self, split: str, signal: Signal) -> str:
        return digest("signal", VERSION, self.splits[split], self.makers[signal.by], signal.key())

    def fit_key(self, split: str, fit: str) -> str:
        """Return the file key of a fit; for `fit` see `tgt_ray.objectives.facts.Fit.key`."""
        return digest("fit", VERSION, self.splits[split], self.makers["labeler"], fit)

    def missing(self, split: str, signals: Sequence[Signal]) -> tuple[Signal, ...]:
        """Return the signals that have no whole file yet."""
        there = (self.storage.holds(FOLDER, f"{self.signal_key(split, each)}.safetensors") for each in signals)
        return tuple(signal for signal, found in zip(signals, there, strict=True) if not found)

    def keep(self, split: str, signals: Sequence[Signal], columns: Columns) -> None:
        for signal in signals:
            own = {column.name: columns[column.name] for column in signal.columns}
            self.write(self.signal_key(split, signal), flat(own))

    def read_signals(self, split: str, signals: Sequence[Signal]) -> Columns:
        out: Columns = {}
        for signal in signals:
            out |= unflat(self.read(self.signal_key(split, signal)))
        return out

    def write(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        content = safetensors.numpy.save(arrays, formats.metadata("teacher_cache"))
        patiently(lambda: self.storage.write(content, FOLDER, f"{key}.safetensors"))

    def read(self, key: str) -> dict[str, Any]:
        return safetensors.numpy.load(self.storage.read(FOLDER, f"{key}.safetensors"))

    def find(self, key: str) -> dict[str, Any] | None:
        """Read a file; None where there is no whole one."""
        content = self.storage.find(FOLDER, f"{key}.safetensors")
        return None if content is None else safetensors.numpy.load(content)

    def holds_older(self) -> bool:
        """Whether the folder has files of format 1, which are Parquet."""
        return any(file.endswith(".parquet") for file in self.storage.files(FOLDER))
