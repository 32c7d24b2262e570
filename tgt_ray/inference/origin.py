"""Finds what the folders around a student say of how it came about: records, trials, details of its test."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tgt_ray.core import formats, records
from tgt_ray.core.storage import Storage

#: Records of a run's or sweep's folder, of the best trial of a sweep, and its table.
RECORD_FILE, BEST_FILE, TABLE = "record.json", "metrics.json", "trials"
#: What an export says of itself, and the test recall of each class.
EXPORT_FILE, CLASSES_FILE = "export.json", "per_class.csv"


@dataclass(frozen=True)
class Origin:
    """What is known of how a student came about. What no folder says is None.

    - record: of the run or the sweep
    - result: the last report of the student's own run, with its test metrics
    - trials: the sweep's table
    - storage: that has the teacher
    - per_class: the recall on the test split, a row for each class
    """

    record: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    trials: pd.DataFrame | None = None
    storage: Storage | None = None
    per_class: pd.DataFrame | None = None

    @property
    def sweeps(self) -> bool:
        return self.record is not None and self.record.get("kind") == "sweep"

    @property
    def teacher(self) -> dict[str, Any] | None:
        """The record of the labeler."""
        found: dict[str, Any] | None = (self.record or {}).get("teacher", {}).get("labeler")
        return found

    def plain(self, metrics: Sequence[str], teacher_speed: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what a card says of it, as plain data, so that a card of an export of the export says it too.

        It names no folder and no file of data.

        - metrics: the task's
        - teacher_speed: as it was measured now; None: as the record has it
        """
        columns = [*metrics, *(f"test_{name}" for name in metrics), "trial", "control", "status", "train.seed"]
        trials, result = self.trials, self.result
        return {
            "record": None if self.record is None else _shared(self.record, teacher_speed),
            "result": None if result is None else {name: result[name] for name in columns if name in result},
            "trials": None if trials is None else _rows(trials[[name for name in columns if name in trials]]),
            "per_class": None if self.per_class is None else _rows(self.per_class),
        }


def _shared(record: dict[str, Any], teacher_speed: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a card says of a record."""
    data, teacher = record.get("data", {}), record.get("teacher", {})
    left_out = [{"what": each["what"], "count": each["count"]} for each in data.get("left_out", [])]
    out = {
        **_some(record, "kind", "name", "environment"),
        "fingerprints": {"data": record.get("fingerprints", {}).get("data", {})},
        "data": {**_some(data, "rows", "leaks"), "left_out": left_out},
        "teacher": {},
    }
    if labeler := teacher.get("labeler"):
        speed = {"speed": teacher_speed} if teacher_speed is not None else _some(labeler, "speed")
        out["teacher"]["labeler"] = _some(labeler, "identity", "quality", "pretrained_on", "head") | speed
    if generator := teacher.get("generator"):
        config = {"type": generator["config"]["type"]}
        out["teacher"]["generator"] = {**_some(generator, "identity"), "config": config}
    if check := teacher.get("fit_check"):
        out["teacher"]["fit_check"] = _some(check, "agreement_explored")
    if record.get("kind") == "sweep":
        seed = _some(record["config"]["experiment"].get("train", {}), "seed")
        search = _some(record["config"]["search"], "metric", "mode")
        out["config"] = {"search": search, "experiment": {"train": seed}}
    return out


def _some(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: record[name] for name in names if name in record}


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
    return rows


def origin_of(here: Storage) -> Origin:
    """Look into a student's folder, and into those above it that may be of its run or sweep.

    - here: that has the student's weights: of a run, its `checkpoint`, a trial's, the `best` of a sweep, an export, or
      another
    """
    if (exported := _exported(here)) is not None:
        return exported
    names, classes = here.base.rstrip("/").split("/"), _per_class(here)
    above = names[-1] == "checkpoint", names[-1] == "best", len(names) > 1 and names[-2] == "train"
    for up, kind in ((0, "run"), (above[0], "run"), (above[1], "sweep"), (2 * above[2], "sweep")):
        place = here.above(up)
        record = _record(place, kind) if place is not None and (up or kind == "run") else None
        if record is None or place is None:
            continue
        storage = place.above()
        if kind == "run":
            return Origin(record, record["result"], None, storage, classes)
        trials = _trials(place)
        return Origin(record, _own(here, trials, names[-1]), trials, storage, classes)
    return Origin(result=_own(here, None, ""), per_class=classes)


def _exported(here: Storage) -> Origin | None:
    """Return what an export says; None where the folder is none, or one of a version that doesn't say it."""
    if not here.exists(EXPORT_FILE):
        return None
    about = records.read_json(here, EXPORT_FILE)
    formats.check("export", about, here.where(EXPORT_FILE), "use the version that has written it")
    said = about.get("origin")
    if said is None:
        return None
    trials, classes = (None if said[name] is None else pd.DataFrame(said[name]) for name in ("trials", "per_class"))
    return Origin(said["record"], said["result"], trials, None, classes)


def _record(folder: Storage, kind: str) -> dict[str, Any] | None:
    if not folder.exists(RECORD_FILE):
        return None
    record = records.read_json(folder, RECORD_FILE)
    return record if record.get("kind") == kind else None


def _trials(folder: Storage) -> pd.DataFrame | None:
    return records.read_table(folder, TABLE) if folder.exists(f"{TABLE}.parquet") else None


def _per_class(here: Storage) -> pd.DataFrame | None:
    if not here.exists(CLASSES_FILE):
        return None
    table = pd.read_csv(io.BytesIO(here.read(CLASSES_FILE)), dtype={"name": str}, keep_default_na=False)
    if "name" not in table:
        table["name"] = table["class"].astype(str)
    table["recall"] = pd.to_numeric(table["recall"], errors="coerce")
    return table


def _own(here: Storage, trials: pd.DataFrame | None, name: str) -> dict[str, Any] | None:
    """Return the last report of a trial: as it lies beside the student, or as the table has it."""
    if here.exists(BEST_FILE):
        return records.read_json(here, BEST_FILE)
    if trials is None or name not in set(trials.trial):
        return None
    row = trials[trials.trial == name].iloc[0].to_dict()
    return {str(key): value for key, value in row.items() if value is not None and value == value}
