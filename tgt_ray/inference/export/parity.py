"""Compares what an export says of held-out rows with what its student says of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tgt_ray.core.errors import ConfigError
from tgt_ray.inference.export.base import Student
from tgt_ray.inference.export.rows import Data
from tgt_ray.inference.export.traced import as_given
from tgt_ray.inference.students import LoadedRetriever

#: Rows of the validation split that are compared at the most, and how many of them at a time.
ROWS, AT_ONCE = 512, 64
#: How far outputs may differ, in standard deviations of the student's own (our choice). Another order of the same
#: float32 operations changes outputs by about 1e-6 of that; a wrong normalisation, mask or head by 1e-2 and more. A
#: class of calibrated scores changes its probability by less than one in a thousand.
TOLERANCE = 1e-3
#: What rounding alone may do, where all outputs are nearly alike.
ROUNDING = 1e-6

#: What users have (N, ...) -> outputs by name, each (N, ...).
Run = Callable[[Any], dict[str, np.ndarray]]


def compare(student: Student, data: Data, run: Run, format_name: str) -> dict[str, Any]:
    """Compare an export with its student on validation rows.

    Where scores differ by no more than is allowed, the top class is another one only where the student's two best
    scores are nearly the same.

    - run: the export
    - returns: what is to be recorded
    - raises ConfigError: where any output differs by more than TOLERANCE
    """
    given = as_given(student, data.inputs("validation", ROWS))
    parts = [run(given[first : first + AT_ONCE]) for first in range(0, len(given), AT_ONCE)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if isinstance(student, LoadedRetriever):
        expected = {"embedding": student.encode_queries(given)}
        top = [each["embedding"] @ student.document_embeddings.T for each in (expected, found)]
    else:
        embedding, scores = student.found(given)
        expected = {"scores": scores, "embedding": embedding}
        top = [scores, found["scores"]]
    differs = {name: float(np.abs(found[name] - values).max()) for name, values in expected.items()}
    allowed = {name: TOLERANCE * float(values.std()) + ROUNDING for name, values in expected.items()}
    for name, most in allowed.items():
        if not differs[name] <= most:  # also for NaN
            raise ConfigError(
                f"--format {format_name}: gives other answers than the student: on {len(given)} validation rows"
                f" '{name}' differs by up to {differs[name]:.2g}, and {most:.2g} are allowed; take safetensors"
            )
    same = float((top[0].argmax(axis=1) == top[1].argmax(axis=1)).mean())
    return {"rows": len(given), "largest_difference": differs, "allowed": allowed, "same_top": same}
