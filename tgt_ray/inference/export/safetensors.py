"""The package's own format: weights as safetensors, and JSON beside them, which `load_student` opens anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from tgt_ray.core import records
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.inference.export.base import Format, Options, Student
from tgt_ray.inference.export.places import without_places
from tgt_ray.inference.export.rows import Data
from tgt_ray.inference.students import LoadedRetriever
from tgt_ray.inference.tower import check_same, tower_of, write_tower
from tgt_ray.training.files import DOCUMENTS_FILE, STUDENT_FILE, TOKENIZER_FILE, WEIGHTS_FILE

#: Documents that the model that embeds new ones is compared on.
COMPARED = 64


class Safetensors(Format):
    """Weights, tokenizer and documents, as they are, and the description without what lies where on this machine."""

    name: ClassVar[str] = "safetensors"
    takes: ClassVar[tuple[str, ...]] = ("with_document_tower",)
    usage: ClassVar[str] = 'import tgt_ray\nstudent = tgt_ray.load_student("FOLDER")\nprint(student.predict(INPUTS))'

    def usage_for(self, student: Student) -> str:
        return self.usage.replace(".predict(", ".search(") if isinstance(student, LoadedRetriever) else self.usage

    def check(self, student: Student) -> None:
        """Every student can be handed on so."""

    def write(self, student: Student, folder: Path, data: Data, options: Options) -> dict[str, Any]:
        there, out = student.storage, Storage(folder)
        for name in (WEIGHTS_FILE, TOKENIZER_FILE, DOCUMENTS_FILE):
            if there.exists(name):
                out.write(there.read(name), name)
        shared = {key: value if key == "classes" else without_places(value) for key, value in student.about.items()}
        records.write_json(out, shared, STUDENT_FILE)
        if options.with_document_tower:
            return {"document_tower": self._write_tower(student, out, data)}
        if isinstance(student, LoadedRetriever) and student.tower is not None:  # the student is an export itself
            write_tower(student.tower, out)
        return {}

    @staticmethod
    def _write_tower(student: Student, out: Storage, data: Data) -> dict[str, float]:
        """Write what embeds new documents, after a comparison with those that the student has."""
        if not isinstance(student, LoadedRetriever) or student.embeds_documents:
            raise ConfigError("--with-document-tower: is for students of retrieval that embed queries alone")
        tower = tower_of(student.experiment, InputSpec(student.input_shape))
        rows = data.inputs("documents", COMPARED)
        difference = check_same(tower, rows, student.document_embeddings[data.places("documents", COMPARED)])
        write_tower(tower, out)
        return {"largest_difference": difference}
