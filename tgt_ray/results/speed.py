"""Says how small and how fast a student is, beside its teacher's labeler; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tgt_ray.core.memory import in_bytes

Speed = Mapping[str, Any]
#: Processes that want each CPU, from which on figures are said to be those of a busy machine (our choice).
BUSY = 1.5


def against(student: Speed, teacher: Speed | None) -> dict[str, float]:
    """Compare a student with its teacher's labeler; each number says how many times better the student is.

    - student, teacher: as `tgt_ray.inference.speed` measures them; None: the teacher wasn't measured
    - returns: `bytes`, `parameters`, `latency`, `latency_p95` and `rows_per_second`, the last three with one thread;
      empty where they can't be compared
    """
    if why_not(student, teacher) or not teacher:
        return {}
    one, other = student["threads"][0], teacher["threads"][0]
    return {
        "bytes": teacher["bytes"] / student["bytes"],
        "parameters": teacher["parameters"] / student["parameters"],
        "latency": other["latency_ms"] / one["latency_ms"],
        "latency_p95": other["latency_p95_ms"] / one["latency_p95_ms"],
        "rows_per_second": one["rows_per_second"] / other["rows_per_second"],
    }


def why_not(student: Speed, teacher: Speed | None) -> str:
    """Say why a student can't be compared with its teacher; empty where it can."""
    if not teacher:
        return "its teacher was not measured"
    if teacher.get("cpu") != student["cpu"]:
        return f"its teacher was measured on another processor ({teacher.get('cpu')})"
    return "" if teacher["parameters"] else "its teacher has no weights"


def line(student: Speed, teacher: Speed | None) -> str:
    """Say a student's size and speed with one thread, and how the teacher compares, in one line."""
    one = student["threads"][0]
    said = (
        f"student: {in_bytes(student['bytes'])}, {student['parameters']:,} parameters; with 1 thread"
        f" {number(one['latency_ms'])} ms for one row, {number(one['rows_per_second'])} rows a second"
        f" {student['rows']} at a time{busy(student)}"
    )
    why = why_not(student, teacher)
    if why or not teacher:
        return f"{said}; {why}"
    times, other = against(student, teacher), teacher["threads"][0]
    return (
        f"{said}; its teacher is {_times(times['bytes'], 'larger', 'smaller')} ({in_bytes(teacher['bytes'])},"
        f" {teacher['parameters']:,} parameters) and takes {_times(times['latency'], 'longer', 'shorter')}"
        f" ({number(other['latency_ms'])} ms, {number(other['rows_per_second'])} rows a second)"
    )


def lines(record: Mapping[str, Any], trial: str | None = None) -> Iterator[str]:
    """Yield what is said of a student at the end of its run or sweep; nothing where the record says nothing of it.

    - record: of the run or the sweep
    - trial: the best one of the sweep
    """
    found = record.get("speed") or {}
    if found.get("trial") != trial:
        return
    if "student" in found:
        yield line(found["student"], record["teacher"]["labeler"].get("speed"))
    elif "lacking" in found:
        yield f"how small and how fast the student is, was not measured ({found['lacking']})"


def busy(measured: Speed) -> str:
    """Say that a machine was busy while it was measured, which makes times longer; empty where it wasn't."""
    load = measured.get("load", 0.0)
    return f" (while {number(load)} processes wanted each CPU)" if load >= BUSY else ""


def table(student: Speed, teacher: Speed | None) -> list[dict[str, Any]]:
    """Return a row for each model and number of threads, for pages."""
    return [
        {
            "model": name,
            "bytes": model["bytes"],
            "parameters": model["parameters"],
            "threads": each["threads"],
            "ms for one row (median)": each["latency_ms"],
            "ms for one row (95 %)": each["latency_p95_ms"],
            "rows a second": each["rows_per_second"],
            "rows at a time": model["rows"],
            "processor": model["cpu"],
        }
        for name, model in (("student", student), ("teacher's labeler", teacher))
        if model
        for each in model["threads"]
    ]


def number(value: float) -> str:
    """Return a number with three digits that mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _times(ratio: float, more: str, less: str) -> str:
    return f"{number(ratio)} times {more}" if ratio >= 1 else f"{number(1 / ratio)} times {less}"
