"""Floor 1: run records: what was run, on what, with which result. No torch, no ray; pandas only once there is a table."""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgt_ray.storage import Storage

if TYPE_CHECKING:
    import pandas as pd

PACKAGES = (
    "tgt-ray",
    "ray",
    "torch",
    "optuna",
    "numpy",
    "pyarrow",
    "pandas",
    "scikit-learn",
    "timm",
    "transformers",
    "tokenizers",
    "diffusers",
    "datasets",
)


def environment() -> dict[str, Any]:
    """Versions, commit and hardware that a number depends on."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "hardware": {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "cpu": _cpu_model(),
            "memory_gib": _memory_gib(),
        },
    }


def commit() -> str | None:
    """The commit of the code that runs, with `+changes` where it differs; None outside a checkout of this project."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None  # no git on this machine, or a checkout that git refuses to read: the version number has to do
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None  # not every system tells


def write_json(storage: Storage, data: Mapping[str, Any], *parts: str) -> None:
    storage.write((json.dumps(data, indent=2, default=str) + "\n").encode(), *parts)


def read_json(storage: Storage, *parts: str) -> dict[str, Any]:
    return json.loads(storage.read(*parts))


def write_jsonl(storage: Storage, rows: Iterable[Mapping[str, Any]], *parts: str) -> None:
    storage.write("".join(json.dumps(row, default=str) + "\n" for row in rows).encode(), *parts)


def write_table(storage: Storage, table: pd.DataFrame, stem: str) -> None:
    """`stem`.csv and `stem`.parquet. A column of values of several kinds, or of lists, is written as JSON text."""
    import pandas as pd

    table = table.copy()
    for name in table.columns:
        kinds = {type(value) for value in table[name].dropna()}
        if not pd.api.types.is_numeric_dtype(table[name]) and kinds - {str}:
            table[name] = [None if _is_missing(value) else json.dumps(value) for value in table[name]]
    storage.write(table.to_csv(index=False).encode(), f"{stem}.csv")
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    storage.write(buffer.getvalue(), f"{stem}.parquet")


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def read_table(storage: Storage, stem: str) -> pd.DataFrame:
    """What `write_table` has written."""
    import pandas as pd

    return plain_text(pd.read_parquet(io.BytesIO(storage.read(f"{stem}.parquet"))))


def plain_text(table: pd.DataFrame) -> pd.DataFrame:
    """The table with None, not NaN, where a text is missing."""
    import pandas as pd

    out = table.copy()
    for name in out.columns:
        if not pd.api.types.is_numeric_dtype(out[name]):
            out[name] = out[name].astype(object).where(out[name].notna(), None)
    return out
