"""pt2: a graph of torch.export, which torch opens without this package, and compiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from tgt_ray.inference.export.base import Format, Options, Student
from tgt_ray.inference.export.parity import compare
from tgt_ray.inference.export.rows import Data
from tgt_ray.inference.export.traced import Encoder, check_graph, describe, traced
from tgt_ray.inference.export.usage import prepared_lines, said_lines
from tgt_ray.inference.students import LoadedRetriever

PROGRAM_FILE = "model.pt2"


class Pt2(Format):
    """A graph with images in [0, 1], or ids of tokens, as inputs; any number of rows."""

    name: ClassVar[str] = "pt2"
    usage: ClassVar[str] = (
        'import torch\nmodel = torch.export.load("FOLDER/model.pt2").module()\nfound = model(torch.from_numpy(inputs))'
    )

    def usage_for(self, student: Student) -> str:
        scaled = "\ninputs = inputs.astype(np.float32) / 255" if student.modality == "image" else ""
        output = "embedding" if isinstance(student, LoadedRetriever) else "scores"
        said = said_lines(student, f'found["{output}"]')
        return f"{prepared_lines(student)}{scaled}\n{self.usage}\n{said}"

    def check(self, student: Student) -> None:
        """Every student can be handed on so, but a student of texts that reads their bytes."""
        check_graph(student, self.name)

    def write(self, student: Student, folder: Path, data: Data, options: Options) -> dict[str, Any]:
        describe(student, folder)
        torch.export.save(traced(student, self.name), folder / PROGRAM_FILE)
        model, encode = torch.export.load(folder / PROGRAM_FILE).module(), Encoder(student, folder)

        @torch.no_grad()
        def run(given: Any) -> dict[str, np.ndarray]:
            inputs = torch.from_numpy(encode(given))
            outputs = model(inputs.float() / 255 if student.modality == "image" else inputs)
            return {name: each.numpy() for name, each in outputs.items()}

        return {"parity": compare(student, data, run, self.name)}
