"""Names of a run's files. No torch."""

from __future__ import annotations

from tgt_ray.results.gallery import PAGE_FILE, PICTURE_FILE, ROWS_FILE
from tgt_ray.tasks import Task

#: Of a run's checkpoint: all that resumes it, and the student alone.
STATE_FILE, WEIGHTS_FILE = "state.pt", "student.safetensors"
#: What must be known beside the weights to use the student.
STUDENT_FILE = "student.json"
#: Of a student of texts, so that its weights can be used without the data that its vocabulary was learnt from.
TOKENIZER_FILE = "tokenizer.json"


def kept_files(task: Task) -> tuple[str, ...]:
    """What a run or a best trial shows of all that lies in its checkpoint."""
    return WEIGHTS_FILE, STUDENT_FILE, TOKENIZER_FILE, task.details_file, ROWS_FILE, PICTURE_FILE, PAGE_FILE
