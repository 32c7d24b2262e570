"""Finds a stored teacher by its fingerprint, without torch."""

from __future__ import annotations

from typing import Any

from tgt_ray.core import records
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.storage import Storage
from tgt_ray.tasks import TaskData
from tgt_ray.teacher.config import TeacherConfig
from tgt_ray.teacher.generators import Generator
from tgt_ray.teacher.labelers.base import Labeler


def teacher_fingerprint(role: str, config: Labeler | Generator, made_from: list[str]) -> str:
    """Compute the fingerprint of a model that is pretrained here.

    - role: "labeler" or "generator"
    - made_from: fingerprints of its data and, for a generator, of the labeler
    """
    return digest(role, config.model_dump(mode="json", exclude={"weights"}), made_from)


def stored_teacher(config: TeacherConfig, data: TaskData, storage: Storage) -> dict[str, Any] | None:
    """Return the record of a pretrained teacher from the storage; None where the teacher must still be prepared."""
    store, out = storage.within("teachers"), {}
    made_from: list[str] = []
    for role, part in (("labeler", config.labeler), ("generator", config.generator)):
        if part.external:
            return None
        fingerprint = teacher_fingerprint(role, part, [data.fingerprints[part.pretrain.split], *made_from])
        name = f"{role}-{fingerprint}"
        record = records.find(store, "teacher", f"{name}.json")
        if record is None or (part.stored and not store.holds(f"{name}.safetensors")):
            return None
        out[role] = {**record, "reused": True}
        made_from = [fingerprint]
    return out
