"""Sums up what the teacher has made for runs, and what the bank has saved them.

The teacher's seconds are those of processors, and on a GPU those that pass (`tgt_ray.training.banked.teacher_clock`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tgt_ray.core.memory import in_bytes
from tgt_ray.core.progress import duration

#: Columns of a report that are sums over workers and over the sessions of a run.
SUMMED = ("rows_made", "rows_found", "rows_not_kept", "teacher_seconds", "teacher_seconds_saved", "bank_damaged")


def summed(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the last part says, with the sums of all parts in the columns that are sums."""
    sums = {name: sum(_number(part, name) for part in parts) for name in SUMMED if name in parts[-1]}
    return {**parts[-1], **sums}


def ledger(reports: Iterable[Mapping[Any, Any]]) -> dict[str, Any]:
    """Sum up the last reports of runs.

    - returns: the sums, and the bytes and names of the banks; empty where no run had synthetic rows
    """
    there = [each for each in reports if _number(each, "rows_made") or _number(each, "rows_found")]
    if not there:
        return {}
    banks: dict[str, int] = {}
    for each in there:
        if isinstance(each.get("bank"), str):
            banks[each["bank"]] = max(banks.get(each["bank"], 0), int(_number(each, "bank_bytes")))
    counts = {name: int(sum(_number(each, name) for each in there)) for name in SUMMED if "seconds" not in name}
    times = {name: round(sum(_number(each, name) for each in there), 3) for name in SUMMED if "seconds" in name}
    return {**counts, **times, "bank_bytes": sum(banks.values()), "banks": sorted(banks)}


def line(sums: Mapping[str, Any]) -> str:
    """Say the sums in one line.

    - sums: of `ledger`, not empty
    """
    said = (
        f"synthetic rows: {sums['rows_made']:,} made, {sums['rows_found']:,} found; the teacher took"
        f" {duration(sums['teacher_seconds'])} and the bank saved about {duration(sums['teacher_seconds_saved'])}"
    )
    size = f"; {in_bytes(sums['bank_bytes'])}" if sums["banks"] else ""
    damaged = f"; {sums['bank_damaged']} damaged file(s) were made again" if sums["bank_damaged"] else ""
    unkept = f"; {sums['rows_not_kept']:,} of those made could not be kept" if sums["rows_not_kept"] else ""
    return f"{said}{size}{damaged}{unkept}"


def _number(report: Mapping[Any, Any], name: str) -> float:
    """Return a number of a report; 0 where it isn't there, or a table has no value for it."""
    value = report.get(name)
    return value if isinstance(value, int | float) and value == value else 0
