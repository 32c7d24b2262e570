"""The package's own format: weights as safetensors, and JSON beside them, which `load_student` opens anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from tgt_ray.core.storage import Storage
from tgt_ray.inference.export.base import Format, Options, Student
from tgt_ray.inference.export.rows import Data
from tgt_ray.inference.students import LoadedRetriever
from tgt_ray.training.files import DOCUMENTS_FILE, STUDENT_FILE, TOKENIZER_FILE, WEIGHTS_FILE


class Safetensors(Format):
    """Weights, description, tokenizer and documents, as they are."""

    name: ClassVar[str] = "safetensors"
    usage: ClassVar[str] = 'import tgt_ray\nstudent = tgt_ray.load_student("FOLDER")\nprint(student.predict(INPUTS))'

    def usage_for(self, student: Student) -> str:
        return self.usage.replace(".predict(", ".search(") if isinstance(student, LoadedRetriever) else self.usage

    def check(self, student: Student) -> None:
        """Every student can be handed on so."""

    def write(self, student: Student, folder: Path, data: Data, options: Options) -> dict[str, Any]:
        there, out = Storage(student.folder), Storage(folder)
        for name in (WEIGHTS_FILE, STUDENT_FILE, TOKENIZER_FILE, DOCUMENTS_FILE):
            if there.exists(name):
                out.write(there.read(name), name)
        return {}
