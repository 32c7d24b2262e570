"""Hands students on in other formats, which need nothing of this package."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from tgt_ray.core import formats
from tgt_ray.core.environment import environment
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.kept import KeptStudent
from tgt_ray.core.storage import Storage
from tgt_ray.inference.card import CARD_FILE, Export, card
from tgt_ray.inference.export.base import Format, Options, Student
from tgt_ray.inference.export.onnx import Onnx
from tgt_ray.inference.export.pt2 import Pt2
from tgt_ray.inference.export.rows import Data
from tgt_ray.inference.export.safetensors import Safetensors
from tgt_ray.inference.export.sentence_transformers import SentenceTransformers
from tgt_ray.inference.export.timm import Timm
from tgt_ray.inference.export.transformers import Transformers
from tgt_ray.inference.origin import EXPORT_FILE, origin_of
from tgt_ray.inference.predictions import check_parent
from tgt_ray.inference.speed import compared
from tgt_ray.results import speed

log = logging.getLogger(__name__)

#: By their names.
FORMATS: dict[str, type[Format]] = {
    each.name: each for each in (Safetensors, Transformers, Timm, SentenceTransformers, Onnx, Pt2)
}


def export_student(
    student: Student,
    name: str,
    out: Path,
    storage: Storage,
    options: Options | None = None,
    licence: str | None = None,
) -> dict[str, Any]:
    """Write a student to a new folder, with a card, and say how small and how fast it is.

    - name: of the format
    - out: absent, or an empty folder
    - storage: keeps what reading the student's data makes
    - licence: of the student, for the card; None: it says that none was given
    - returns: the record, which lies in the folder as well
    - raises ConfigError: where the format can't express the student, or gives other answers; nothing is left then
    """
    options = options or Options()
    chosen = FORMATS[name]()
    if ignored := [key for key, value in vars(options).items() if value and key not in chosen.takes]:
        raise ConfigError(f"--{ignored[0].replace('_', '-')}: has no effect on --format {name}; leave it out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: is there already; give a new folder")
    check_parent(out)
    chosen.check(student)
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir()
        data, origin = Data(student, storage), origin_of(student.storage)
        about = chosen.write(student, draft, data, options)
        record = {
            formats.KEY: formats.FORMATS["export"],
            "export": name,
            "student": (origin.record or {}).get("name", student.storage.base.rpartition("/")[2]),
            "weights": KeptStudent(student.storage, student.about).weights_digest,
            "parameters": student.parameters,
            "bytes": sum(file.stat().st_size for file in draft.rglob("*") if file.is_file()),
            **about,
            "license": licence,
            "speed": (speeds := compared(student, origin, data)),
            "origin": origin.plain(student.experiment.task.metric_names, speeds.get("teacher")),
            "environment": environment(),
        }
        content = card(Export(student, origin, chosen, out, record, licence))
        (draft / CARD_FILE).write_text(content, encoding="utf-8")
        (draft / EXPORT_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        draft.rename(out)
    except OSError as err:
        raise ConfigError(f"--out {out}: cannot be written ({err.strerror})") from err
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    log.info("%s", speed.line(record["speed"]["student"], record["speed"].get("teacher")))
    return record
