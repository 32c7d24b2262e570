"""Names of a run's files. No torch."""

from __future__ import annotations

#: Of a run's checkpoint: all that resumes it, and the student alone.
STATE_FILE, WEIGHTS_FILE = "state.pt", "student.safetensors"
#: Beside them after the last step, where the task has one: its test metrics class by class, or query by query; by what it answers.
DETAILS_FILES = {"classes": "per_class.csv", "documents": "per_query.csv"}
#: Of a student of texts, so that its weights can be used without the data that its vocabulary was learnt from.
TOKENIZER_FILE = "tokenizer.json"
#: What a run or a best trial shows of all that lies in its checkpoint.
KEPT_FILES = (WEIGHTS_FILE, TOKENIZER_FILE, *DETAILS_FILES.values(), "gallery.parquet", "gallery.png", "gallery.html")
