"""Runs an exported graph of ONNX as its users do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tgt_ray.inference.export.base import Student
from tgt_ray.inference.export.traced import Encoder


class Model:
    """Maps images (N, C, H, W) uint8, or texts, to outputs by name, each (N, ...).

    It has one thread, as where a small model is run beside other programs.
    """

    def __init__(self, student: Student, file: Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.encode = Encoder(student, file.parent)
        self.input = self.session.get_inputs()[0].name
        self.outputs = [each.name for each in self.session.get_outputs()]

    def __call__(self, given: Sequence[Any]) -> dict[str, np.ndarray]:
        return self.run(self.encode(given))

    def run(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Map what the graph takes."""
        return dict(zip(self.outputs, self.session.run(None, {self.input: inputs}), strict=True))
