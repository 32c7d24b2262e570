"""Finds what the folders around a student say of how it came about: records, trials, details of its test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tgt_ray.core import records
from tgt_ray.core.storage import Storage

if TYPE_CHECKING:
    import pandas as pd

#: Records of a run's or sweep's folder, of the best trial of a sweep, and its table.
RECORD_FILE, BEST_FILE, TABLE = "record.json", "metrics.json", "trials"


@dataclass(frozen=True)
class Origin:
    """What is known of how a student came about. What no folder says is None.

    - record: of the run or the sweep
    - result: the last report of the student's own run, with its test metrics
    - trials: the sweep's table
    - storage: that has the teacher
    """

    record: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    trials: pd.DataFrame | None = None
    storage: Storage | None = None

    @property
    def sweeps(self) -> bool:
        return self.record is not None and self.record.get("kind") == "sweep"

    @property
    def teacher(self) -> dict[str, Any] | None:
        """The record of the labeler."""
        found: dict[str, Any] | None = (self.record or {}).get("teacher", {}).get("labeler")
        return found


def origin_of(folder: str) -> Origin:
    """Look into a student's folder, and into those above it that may be of its run or sweep.

    - folder: that has the student's weights: of a run, its `checkpoint`, a trial's, the `best` of a sweep, or another
    """
    here, names = Storage(folder), folder.rstrip("/").split("/")
    above = names[-1] == "checkpoint", names[-1] == "best", len(names) > 1 and names[-2] == "train"
    for up, kind in ((0, "run"), (above[0], "run"), (above[1], "sweep"), (2 * above[2], "sweep")):
        place = _up(folder, up)
        record = _record(place, kind) if place is not None and (up or kind == "run") else None
        if record is None or place is None:
            continue
        root = _up(folder, up + 1)
        storage = Storage(root) if root is not None else None
        if kind == "run":
            return Origin(record, record["result"], None, storage)
        trials = _trials(place)
        return Origin(record, _own(here, trials, names[-1]), trials, storage)
    return Origin(result=_own(here, None, ""))


def _up(folder: str, levels: int) -> str | None:
    """Return the folder so many levels above one; None where there is none."""
    scheme, sign, path = folder.rpartition("://")
    parts = path.rstrip("/").split("/")
    kept = parts[: len(parts) - levels]
    return scheme + sign + "/".join(kept) if any(kept) else None


def _record(place: str, kind: str) -> dict[str, Any] | None:
    folder = Storage(place)
    if not folder.exists(RECORD_FILE):
        return None
    record = records.read_json(folder, RECORD_FILE)
    return record if record.get("kind") == kind else None


def _trials(place: str) -> pd.DataFrame | None:
    folder = Storage(place)
    return records.read_table(folder, TABLE) if folder.exists(f"{TABLE}.parquet") else None


def _own(here: Storage, trials: pd.DataFrame | None, name: str) -> dict[str, Any] | None:
    """Return the last report of a trial: as it lies beside the student, or as the table has it."""
    if here.exists(BEST_FILE):
        return records.read_json(here, BEST_FILE)
    if trials is None or name not in set(trials.trial):
        return None
    row = trials[trials.trial == name].iloc[0].to_dict()
    return {str(key): value for key, value in row.items() if value is not None and value == value}
