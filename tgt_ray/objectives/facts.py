"""What a criterion may know of the task and its teacher."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tgt_ray.objectives.embeddings import TeacherEmbeddings


@dataclass(frozen=True)
class Facts:
    """What a criterion may know of the task and its teacher.

    class_counts_K: rows of each class in the student's train split. calibration_M: 1 - p(true class) by the labeler on M held-out
    rows; empty where the labeler was not asked about them. embedding_statistics: of the labeler's embeddings of the train rows; None
    where no objective of a run or sweep needs them, and where the labeler was not asked yet and only scores are.
    class_names: for messages.
    """

    num_classes: int
    class_counts_K: np.ndarray
    calibration_M: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    embedding_statistics: TeacherEmbeddings | None = None
    class_names: tuple[str, ...] = ()
