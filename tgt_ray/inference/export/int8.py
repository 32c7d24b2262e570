"""Makes a graph of ONNX smaller by 8-bit weights, and measures what that costs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tgt_ray.core.progress import progress
from tgt_ray.inference.export.base import Student
from tgt_ray.inference.export.rows import Data
from tgt_ray.inference.export.running import Model
from tgt_ray.inference.export.traced import as_given, input_name
from tgt_ray.inference.students import LoadedRetriever

#: Training rows that tell the range of each activation, and how many of them at a time.
CALIBRATED_ON, AT_ONCE = 512, 32
#: Batches whose latency is measured; the seconds that this may take, and the least number of calls.
BATCHES, SECONDS, LEAST = (1, 64), 2.0, 15


def quantise(student: Student, file: Path, out: Path, data: Data) -> None:
    """Write a graph with 8-bit weights.

    Of images the activations have 8 bits as well, in ranges that training rows tell. Of texts these ranges are found
    at each call. Weights use 7 of their 8 bits: processors without VNNI would clip some sums otherwise, and give other
    answers than were measured here.
    """
    from onnxruntime import quantization

    weights = {"per_channel": True, "reduce_range": True, "weight_type": quantization.QuantType.QInt8}
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "model.onnx"
        # The symbolic inference of shapes isn't needed by what is done here.
        quantization.quant_pre_process(str(file), str(ready), skip_symbolic_shape=True)
        if student.modality != "image":
            quantization.quantize_dynamic(ready, out, **weights)
            return
        images = as_given(student, data.inputs("train", CALIBRATED_ON))
        reader = Batches([{input_name(student): images[at : at + AT_ONCE]} for at in range(0, len(images), AT_ONCE)])
        activations = quantization.QuantType.QUInt8
        quantization.quantize_static(ready, out, reader, activation_type=activations, **weights)


class Batches:
    """Gives batches one by one, as onnxruntime's calibration takes them."""

    def __init__(self, batches: list[dict[str, np.ndarray]]):
        self.left = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


def measure(student: Student, file: Path, small: Path, data: Data) -> dict[str, Any]:
    """Compare two graphs of one student: size, latency, and the task's metrics on the validation split.

    - file, small: with float32 and with 8 bits
    - returns: of each precision, its file, bytes, metrics and milliseconds of a call by its batch, with one thread;
      and in how many of the rows both name the same class or document first
    """
    models = {"float32": Model(student, file), "int8": Model(student, small)}
    reduced: dict[str, list[np.ndarray]] = {name: [] for name in models}
    same, rows = 0, len(data.labels("validation"))
    with progress("measuring 8 bits", rows, "rows") as phase:
        for inputs in data.batches("validation", size=max(BATCHES)):
            given = as_given(student, inputs)
            scores = {name: _scores(student, model(given)) for name, model in models.items()}
            for name, values in scores.items():
                reduced[name].append(data.reduced(values))
            same += int((scores["float32"].argmax(axis=1) == scores["int8"].argmax(axis=1)).sum())
            phase.advance(len(inputs))
    latency = _latency(student, models, data)
    found = {
        name: {
            "file": path.name,
            "bytes": path.stat().st_size,
            "metrics": data.metrics("validation", np.concatenate(reduced[name])),
            "latency_ms": latency[name],
        }
        for (name, path) in zip(models, (file, small), strict=True)
    }
    return {**found, "rows": rows, "same_top": same / rows, "threads": 1}


def _scores(student: Student, outputs: dict[str, np.ndarray]) -> np.ndarray:
    if isinstance(student, LoadedRetriever):
        scores: np.ndarray = outputs["embedding"] @ student.document_embeddings.T
        return scores
    return outputs["scores"]


def _latency(student: Student, models: dict[str, Model], data: Data) -> dict[str, dict[str, float]]:
    """Measure milliseconds of a call for each batch, as medians: models take turns, and the first calls don't count."""
    out: dict[str, dict[str, float]] = {name: {} for name in models}
    encode = next(iter(models.values())).encode
    given = as_given(student, data.inputs("validation", max(BATCHES)))
    for size in BATCHES:
        # Where there are fewer rows than a batch has, they come again.
        batches = [
            encode([given[(first + at) % len(given)] for at in range(size)]) for first in range(0, len(given), size)
        ]
        times: dict[str, list[float]] = {name: [] for name in models}
        for call, inputs in _turns(batches):
            for name, model in models.items():
                began = time.perf_counter()
                model.run(inputs)
                if call >= 0:
                    times[name].append(time.perf_counter() - began)
        for name, each in times.items():
            out[name][str(size)] = round(1000 * float(np.median(each)), 4)
    return out


def _turns(batches: list[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield batches again and again, with the number of the call; those below 0 warm up."""
    began, call = time.perf_counter(), -3
    while call < LEAST or time.perf_counter() - began < SECONDS:
        yield call, batches[call % len(batches)]
        call += 1


def show(found: dict[str, Any]) -> None:
    """Print what `measure` has found."""
    columns = {
        name: {
            "KB": each["bytes"] / 1e3,
            **{f"ms at batch {batch}": value for batch, value in each["latency_ms"].items()},
            **each["metrics"],
        }
        for name, each in found.items()
        if isinstance(each, dict)
    }
    table = Table("", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right")
    for what in columns["float32"]:
        table.add_row(what, *(f"{each[what]:.3f}" for each in columns.values()))
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    console.print(
        f"{found['rows']:,} validation rows, {100 * found['same_top']:.2f} % of them with the same first answer; times"
        f" are medians with {found['threads']} thread"
    )
