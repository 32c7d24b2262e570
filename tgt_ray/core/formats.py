"""Format numbers of what the storage holds, so that no version reads wrongly what another one has written.

A stored thing says its number in a place of its own kind: the key `format` of a JSON record or of a checkpoint, the
metadata of a safetensors or Parquet file. What has no number is of format 1: it was written before numbers were. A
number goes up when a version can't read, or would read otherwise, what the one before has written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tgt_ray.core.errors import ConfigError

#: The number that this version writes of each kind.
FORMATS = {
    "run": 2,  # 2: with student.json
    "sweep": 3,  # 3: it goes on from its journal, and no longer from the state of Ray Tune
    "checkpoint": 2,  # 2: with the rows that are shown, and those that are left of a request
    "pretraining": 1,
    "teacher": 2,  # 2: with an identity
    "teacher_cache": 2,  # 2: a file for each split and signal
    "fit_check": 1,
    "documents": 1,
    "data_cache": 2,  # 2: what of images is not used is counted
    "student": 1,
    "table": 1,
    "journal": 1,
    "bank": 1,
    "imported": 1,
    "export": 1,
    "predictions": 1,
    "document_tower": 1,
    "form": 2,  # 2: embeddings are compared
}
#: Older numbers that this version reads as well.
ALSO_READ = {"teacher": (1,), "form": (1,)}
#: The key, in a record and in a checkpoint, and in the metadata of a file, where "format" has another meaning.
KEY, METADATA_KEY = "format", "tgt_ray_format"


def stamped(kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its format number."""
    return {KEY: FORMATS[kind], **record}


def metadata(kind: str) -> dict[str, str]:
    """What the metadata of a file of this kind says."""
    return {METADATA_KEY: str(FORMATS[kind])}


def number(stored: Mapping[str, Any] | None) -> int:
    """The format number that a record, or a file's metadata, says; 0 where it says something that is no number."""
    said = stored or {}
    try:
        return int(said.get(METADATA_KEY, said.get(KEY, 1)))
    except (ValueError, TypeError):
        return 0


def readable(kind: str, stored: Mapping[str, Any] | None) -> bool:
    return number(stored) in (FORMATS[kind], *ALSO_READ.get(kind, ()))


def check(kind: str, stored: Mapping[str, Any], what: str, remedy: str) -> None:
    """Raise a ConfigError that names the versions where something stored can't be used any more, or not yet.

    - what: the thing, for the message
    - remedy: what to do
    """
    if not readable(kind, stored):
        raise ConfigError(
            f"{what}: has format {number(stored)}{written_by(stored)}, and this version goes on with"
            f" {FORMATS[kind]}; {remedy}"
        )


def check_not_newer(
    kind: str, stored: Mapping[str, Any], what: str, remedy: str = "use the version that has written it"
) -> None:
    """Raise a ConfigError where a later version has written something whose older formats this one goes on with.

    - what, remedy: as for `check`
    """
    if number(stored) > FORMATS[kind]:
        check(kind, stored, what, remedy)


def written_by(stored: Mapping[str, Any]) -> str:
    """The version that has written a record, where it says so, as the continuation of a message."""
    environment = stored.get("environment", {})
    version = environment.get("packages", {}).get("tgt-ray")
    commit = (environment.get("commit") or "")[:12]
    return f", written by tgt-ray {version}" + (f" (commit {commit})" if commit else "") if version else ""
