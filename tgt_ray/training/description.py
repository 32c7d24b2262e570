"""Describe a trained student beside its weights, so that its folder needs neither experiment, data nor teacher."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tgt_ray.core import formats
from tgt_ray.core.stored import checksum
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.transfer_set import StudentData
from tgt_ray.training.student import Student, has_split_norms

#: The report's key with the temperature of `probabilities`.
TEMPERATURE = "calibrated_temperature"


def describe(
    experiment: Experiment,
    data: StudentData,
    student: Student,
    tokenizer: bytes = b"",
    report: dict[str, Any] | None = None,
) -> bytes:
    """Give what must be known beside the weights to build the student again, as JSON.

    - tokenizer: content of the file beside it, of a text student
    - report: the last one of a run that is over; None: it still trains
    """
    known: dict[str, Any] = {
        formats.KEY: formats.FORMATS["student"],
        "experiment": experiment.model_dump(mode="json"),
        "input_shape": list(data.input_shape),
        "parameters": sum(each.numel() for each in student.parameters()),
        "finished": report is not None,
    }
    if not experiment.task.has_documents:  # thousands of them, which have a file of their own
        known["classes"] = list(data.class_names) or [str(number) for number in range(data.num_classes)]
        # A correction for rare classes takes the prior from here.
        known["class_counts"] = data.class_counts.tolist()
    architecture = experiment.student.architecture(student.backbone)
    if architecture:
        known["architecture"] = architecture
    if has_split_norms(experiment):
        known["norms_split"] = True
    if student.started_from is not None:
        known["started_from"] = student.started_from
    if report is not None and TEMPERATURE in report:
        rows = len(data.tables["validation"])
        known["calibration"] = {"temperature": report[TEMPERATURE], "split": "validation", "rows": rows}
    if tokenizer:  # whose file has no room for its own
        known["tokenizer_checksum"] = checksum(tokenizer)
    return (json.dumps(known, indent=2) + "\n").encode()


def documents_file(data: StudentData, embeddings_KE: np.ndarray) -> bytes:
    """Give the documents that a student ranks, as Parquet with the columns `id`, `text` and `embedding`.

    - embeddings_KE: as the student's head sees them
    """
    flat = pa.array(np.ascontiguousarray(embeddings_KE, np.float32).ravel())
    table = pa.table(
        {
            "id": data.tables["documents"]["key"],
            "text": pa.array(data.class_names),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, embeddings_KE.shape[1]),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
