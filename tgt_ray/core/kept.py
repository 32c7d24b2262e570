"""Reads a trained student as it lies in a folder: its weights, what is known of it, and its tokenizer. Without torch.

Nothing that the folder names is imported or run.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pyarrow.fs import FileType
from pydantic import AfterValidator

from tgt_ray.core import formats, records
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.storage import Storage, shown
from tgt_ray.core.stored import OTHER, Damaged, checksum

log = logging.getLogger(__name__)

#: The student's weights alone.
WEIGHTS_FILE = "student.safetensors"
#: What must be known beside the weights to use the student.
STUDENT_FILE = "student.json"
#: A text student's tokenizer, so that its weights can be used without the data that its vocabulary was learnt from.
TOKENIZER_FILE = "tokenizer.json"


def _whole(folder: str) -> str:
    if not folder.strip():
        raise ValueError("is empty; expected the folder of a run, a trial, a sweep or an export")
    if shown(folder) != folder:  # experiments are stored and printed
        raise ValueError("has a secret in it; leave it out, and give it by the environment")
    if "\0" in folder:
        raise ValueError("cannot be the path of a folder (it has a zero byte)")
    try:
        return folder if "://" in folder else str(Path(folder).expanduser().absolute())
    except RuntimeError as err:  # ~name of a user who doesn't exist
        raise ValueError(str(err)) from err


#: The folder of a student, made absolute, or a URI that pyarrow knows.
StudentFolder = Annotated[str, AfterValidator(_whole)]


@dataclass(frozen=True)
class KeptStudent:
    """A trained student in a folder.

    - storage: the folder
    - known: what `student.json` says
    """

    storage: Storage
    known: dict[str, Any]

    @classmethod
    def at(cls, folder: str) -> KeptStudent:
        """Find the student of a run, of a trial, of a sweep (its best one), or of an export.

        - folder: its folder, or a URI that pyarrow knows
        - raises ConfigError: where there is none, or one that an older version has written
        """
        storage = find(folder)
        known = records.read_json(storage, STUDENT_FILE)
        formats.check("student", known, storage.where(STUDENT_FILE), "use the version that has written it")
        return cls(storage, known)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row's inputs: (C, H, W) of images, (bytes,) of texts."""
        return tuple(self.known["input_shape"])

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of its classes in the order of its scores; None where it ranks documents."""
        return tuple(self.known["classes"]) if "classes" in self.known else None

    def say_unfinished(self) -> None:
        """Log a warning where its run goes on, so that other weights may lie there soon."""
        if self.known.get("finished") is False:
            shown = self.storage.shown
            log.warning("%s: its run hasn't finished, so this is the student of its last checkpoint", shown)

    def setting(self, *keys: str) -> Any:
        """Return a setting of the experiment that has trained it, as plain data; None where it doesn't have it."""
        found = self.known["experiment"]
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        return found

    @cached_property
    def weights(self) -> bytes:
        """The content of its file of weights, which fits its checksum."""
        return self.storage.read(WEIGHTS_FILE)

    @cached_property
    def weights_digest(self) -> str:
        """What stands for its weights, whichever file has them: their names, types, shapes and bytes."""
        content, where = self.weights, self.storage.where(WEIGHTS_FILE)
        try:
            start = 8 + int.from_bytes(content[:8], "little")
            header = json.loads(content[8:start])
            header.pop("__metadata__", None)
            return digest(header, memoryview(content)[start:])
        except (ValueError, AttributeError) as err:  # of a file without a checksum
            raise Damaged.of(where, "it is no safetensors file") from err

    @cached_property
    def tokenizer(self) -> str:
        """The JSON of its tokenizer; empty where it has none."""
        storage = self.storage
        if not storage.exists(TOKENIZER_FILE):
            return ""
        content = storage.read(TOKENIZER_FILE)
        if self.known.get("tokenizer_checksum") not in (None, checksum(content)):
            raise Damaged.of(storage.where(TOKENIZER_FILE), OTHER)
        try:
            json.loads(content)
        except ValueError as err:  # a version without checksums has written it
            raise Damaged.of(
                storage.where(TOKENIZER_FILE), "it is cut off, or has other bytes than were written"
            ) from err
        return content.decode()


def find(folder: str) -> Storage:
    """Return the folder that has a student's weights and their description: the one given, or the best one in it."""
    storage = Storage(folder)
    if not storage.exists(WEIGHTS_FILE):
        for inside in ("best", "checkpoint"):  # of a sweep; of a run that still trains, or was stopped
            if storage.exists(inside, WEIGHTS_FILE):
                storage = storage.within(inside)
                break
        else:
            raise ConfigError(_why_none(storage))
    if not storage.exists(STUDENT_FILE):
        raise ConfigError(
            f"{storage.shown}: has no {STUDENT_FILE}, since a version before 0.2.0 has written it; for a run, --resume"
            " adds it; train students of a sweep anew"
        )
    return storage


def _why_none(storage: Storage) -> str:
    if storage.exists("sweep.yaml"):
        return f"{storage.shown}: the sweep has no best student yet; wait for a trial to finish, or go on with --resume"
    if storage.exists("experiment.yaml"):
        return f"{storage.shown}: the run has written no student yet; wait for its first evaluation"
    if storage.exists("export.json"):
        return (
            f"{storage.shown}: is an export in the format '{records.read_json(storage, 'export.json').get('export')}',"
            " which other libraries open; load_student opens exports in the format safetensors"
        )
    if storage.fs.get_file_info(storage.path()).type == FileType.NotFound:
        return f"{storage.shown}: there is no such folder; expected that of a run, a trial, a sweep or an export"
    return f"{storage.shown}: has no {WEIGHTS_FILE}; expected the folder of a run, a trial or a sweep"
