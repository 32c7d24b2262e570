"""Name a run's files. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from tgt_ray.core.kept import STUDENT_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import Damaged
from tgt_ray.results.gallery import PAGE_FILE, PICTURE_FILE, ROWS_FILE
from tgt_ray.tasks import Task

__all__ = [
    "DOCUMENTS_FILE",
    "PREVIOUS_FILE",
    "STATE_FILE",
    "STUDENT_FILE",
    "TOKENIZER_FILE",
    "WEIGHTS_FILE",
    "keep_files",
    "kept_files",
]

#: The state of a checkpoint, which a run resumes from.
STATE_FILE = "state.pt"
#: The state of the checkpoint before, for the case that the last one is damaged.
PREVIOUS_FILE = "state.previous.pt"
#: The documents that a student of retrieval ranks, with the embeddings that it ranks them by.
DOCUMENTS_FILE = "documents.parquet"


def keep_files(task: Task, folder: Storage, of: Sequence[str], to: Sequence[str] = ()) -> None:
    """Copy the files of a checkpoint that are results.

    - of, to: parts of the paths of the checkpoint, and of where its files are kept
    - raises Damaged: where the student is damaged or missing
    """
    for name in kept_files(task):
        if folder.exists(*of, name):
            folder.write(folder.read(*of, name), *to, name)
        elif name in (WEIGHTS_FILE, STUDENT_FILE):
            raise Damaged.of(folder.where(*of, name), "it is missing")


def kept_files(task: Task) -> tuple[str, ...]:
    """Name the files of a checkpoint that are copied to the results of a run or of a best trial."""
    student = (WEIGHTS_FILE, STUDENT_FILE, TOKENIZER_FILE, DOCUMENTS_FILE)
    return *student, task.details_file, ROWS_FILE, PICTURE_FILE, PAGE_FILE
