"""ONNX: a graph that ONNX Runtime and many other programs run, checked against the student."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, ClassVar

import torch

from tgt_ray.core.errors import ConfigError
from tgt_ray.inference.export import int8
from tgt_ray.inference.export.base import Format, Options, Student
from tgt_ray.inference.export.parity import compare
from tgt_ray.inference.export.rows import Data
from tgt_ray.inference.export.running import Model
from tgt_ray.inference.export.traced import check_graph, describe, input_name, traced
from tgt_ray.inference.export.usage import prepared_lines, said_lines

#: The graph, and the same with 8 bits.
MODEL_FILE, INT8_FILE = "model.onnx", "model.int8.onnx"


class Onnx(Format):
    """A graph with uint8 images, or ids of tokens, as inputs; any number of rows."""

    name: ClassVar[str] = "onnx"
    takes: ClassVar[tuple[str, ...]] = ("int8",)
    usage: ClassVar[str] = (
        'import onnxruntime\nsession = onnxruntime.InferenceSession("FOLDER/model.onnx")\n'
        "found = session.run(None, {session.get_inputs()[0].name: inputs})[0]"
    )

    def usage_for(self, student: Student) -> str:
        return f"{prepared_lines(student)}\n{self.usage}\n{said_lines(student, 'found')}"

    def check(self, student: Student) -> None:
        """Every student can be handed on so, but a student of texts that reads their bytes."""
        lacking = [each for each in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(each) is None]
        if lacking:
            raise ConfigError(f'--format onnx: needs the packages {", ".join(lacking)}: pip install "tgt-ray[onnx]"')
        check_graph(student, self.name)

    def write(self, student: Student, folder: Path, data: Data, options: Options) -> dict[str, Any]:
        known = describe(student, folder)
        write_graph(student, folder / MODEL_FILE, known)
        about: dict[str, Any] = {
            "parity": compare(student, data, Model(student, folder / MODEL_FILE), self.name),
        }
        if options.int8:
            int8.quantise(student, folder / MODEL_FILE, folder / INT8_FILE, data)
            about |= {"precisions": int8.measure(student, folder / MODEL_FILE, folder / INT8_FILE, data)}
        return about


def write_graph(student: Student, file: Path, known: dict[str, Any]) -> None:
    """Write a student's network as a graph of ONNX.

    - known: what its metadata says, each value as JSON
    - raises ConfigError: where the network has an operation that ONNX lacks
    """
    program = traced(student, Onnx.name, bytes_in=True)
    names = ["embedding"] if "classes" not in known else ["scores", "embedding"]
    try:
        graph = torch.onnx.export(program, input_names=[input_name(student)], output_names=names, verbose=False)
    except torch.onnx.errors.OnnxExporterError as err:
        raise ConfigError(
            f"--format onnx: an operation of the student's network has no counterpart"
            f" ({' '.join(str(err).split())[:200]}); take safetensors or pt2"
        ) from err
    assert graph is not None
    for node in graph.model.graph:
        node.metadata_props.clear()  # how torch has come to it
        for value in node.outputs:
            if value.name in names and not value.is_graph_output():
                value.name = f"inner_{value.name}"  # torch calls it as its operation, such as `embedding`
    graph.model.metadata_props.update({key: json.dumps(value) for key, value in known.items()})
    graph.save(str(file))
