"""Records what a result depends on besides its config: versions, commit and hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

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
    """Return the versions, the commit and the hardware that a result depends on."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := version(name))},
        "hardware": {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "cpu": cpu_model(),
            "memory_gib": _memory_gib(),
        },
    }


def commit() -> str | None:
    """Return the commit of the running code, with `+changes` where files differ; None outside a checkout."""
    here = Path(__file__).resolve().parents[2]
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


def version(package: str) -> str | None:
    """Return the version of an installed package, without importing it; None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Return what this machine's processor calls itself."""
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
        return None  # not every system reports this
