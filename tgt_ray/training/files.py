"""Name a run's files. Imports no torch."""

from __future__ import annotations

from tgt_ray.results.gallery import PAGE_FILE, PICTURE_FILE, ROWS_FILE
from tgt_ray.tasks import Task

#: Files of a checkpoint: the state that a run resumes from, and the student's weights alone.
STATE_FILE, WEIGHTS_FILE = "state.pt", "student.safetensors"
#: The state of the checkpoint before, for the case that the last one is damaged.
PREVIOUS_FILE = "state.previous.pt"
#: What must be known beside the weights to use the student.
STUDENT_FILE = "student.json"
#: A text student's tokenizer, so that its weights can be used without the data that its vocabulary was learnt from.
TOKENIZER_FILE = "tokenizer.json"
#: The documents that a student of retrieval ranks, with the embeddings that it ranks them by.
DOCUMENTS_FILE = "documents.parquet"


def kept_files(task: Task) -> tuple[str, ...]:
    """Name the files of a checkpoint that are copied to the results of a run or of a best trial."""
    student = (WEIGHTS_FILE, STUDENT_FILE, TOKENIZER_FILE, DOCUMENTS_FILE)
    return *student, task.details_file, ROWS_FILE, PICTURE_FILE, PAGE_FILE
