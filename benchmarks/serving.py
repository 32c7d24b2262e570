"""Measure what a service costs: a student asked over HTTP against the same student called in a loop.

A student is trained for a moment, since its accuracy doesn't matter here, and asked for the classes of rows of the test
split, as files of images or as texts. Both sides do all that lies between such an input and its class.

(a) The service: Ray Serve with one process of one thread, asked by some clients at once, each of which waits for an
    answer before it asks again. The clients are threads of this process.
(b) The loop: `student.predict` on the inputs of one request after the other, in this process, with one thread.

Segments of a few seconds alternate, and the ratio is the median of the pairs' ratios of inputs per second.

    python benchmarks/serving.py --data digits|FOLDER [--segments 5] [--seconds 4] [--storage DIR] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import count
from statistics import median
from typing import Any

import numpy as np
import torch
from common import (
    aligned,
    apply_sets,
    at_least_one,
    base_experiment,
    command,
    data_name,
    hardware,
    main,
    record_path,
    write_record,
)
from PIL import Image

import tgt_ray
from tgt_ray.core.config import validate
from tgt_ray.core.environment import environment
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.core.texts import sentences, to_texts
from tgt_ray.distributed import cluster, serving
from tgt_ray.distributed.service_settings import Settings
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.inference.students import LoadedStudent
from tgt_ray.tasks import inputs_of

#: Steps that the student is trained for.
STEPS = 20
#: Inputs of a request, and clients that ask at once.
CASES = ((1, 1), (1, 4), (1, 16), (16, 4), (64, 4))
#: Inputs that requests are made of.
INPUTS = 512

#: Does one request after the other, of which it is told the number, and returns nothing.
Ask = Callable[[int], None]


def trained(experiment: Experiment, storage: str) -> tuple[LoadedStudent, list[Any]]:
    """Train a student for a moment, and return it with inputs as users have them: files' bytes, or texts."""
    result = tgt_ray.run(experiment, storage=storage, name=f"serving-{time.time_ns()}", local=True)
    student = tgt_ray.load_student(result.folder)
    data = experiment.task.load(Storage(storage))
    table = data.tables["test"].take(np.arange(INPUTS) % len(data.tables["test"]))
    rows = inputs_of(experiment.task, table, data.input_shape)[:].numpy()
    if experiment.task.modality == "text":
        texts = to_texts(rows)
        return student, texts if experiment.task.pair_column is None else [list(sentences(each)) for each in texts]
    return student, [png((255 * row).round().astype(np.uint8)) for row in rows]


def png(pixels_CHW: np.ndarray) -> bytes:
    """Encode an image as PNG."""
    sink = io.BytesIO()
    Image.fromarray(pixels_CHW[0] if len(pixels_CHW) == 1 else pixels_CHW.transpose(1, 2, 0)).save(sink, "PNG")
    return sink.getvalue()


def requests_of(inputs: list[Any], size: int) -> list[list[Any]]:
    """Cut inputs into requests of some inputs."""
    return [inputs[first : first + size] for first in range(0, len(inputs) - size + 1, size)]


def asking(port: int, bodies: list[bytes]) -> Ask:
    """Return what asks the service, over one connection that stays open."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(number: int) -> None:
        connection.request("POST", "/predict", bodies[number % len(bodies)], {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content

    return ask


def measured(asks: list[Ask], seconds: float, size: int) -> dict[str, float]:
    """Let clients ask for a while; return inputs per second, and percentiles of the time until an answer.

    - asks: one for each client
    - size: inputs of a request
    """
    numbers, times, begun = count(), [[] for _ in asks], time.perf_counter()  # type: ignore[var-annotated]

    def client(ask: Ask, own: list[float]) -> None:
        while (started := time.perf_counter()) < begun + seconds:
            ask(next(numbers))
            own.append(time.perf_counter() - started)

    threads = [threading.Thread(target=client, args=pair) for pair in zip(asks, times, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took, every = time.perf_counter() - begun, [each for own in times for each in own]
    middle, late = np.percentile(every, [50, 95])
    return {"inputs_per_s": len(every) * size / took, "ms": 1000 * middle, "ms_95": 1000 * late}


def cases(
    student: LoadedStudent, inputs: list[Any], port: int, segments: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """Measure service and loop in turns for each case."""
    for size, clients in CASES:
        parts = requests_of(inputs, size)
        bodies = [json.dumps({"inputs": [as_json(each) for each in part]}).encode() for part in parts]

        def loop(number: int, parts: list[list[Any]] = parts) -> None:
            student.predict(parts[number % len(parts)])

        over_http = [asking(port, bodies) for _ in range(clients)]
        sides: dict[str, list[Ask]] = {"service": over_http, "loop": [loop]}
        for asks in sides.values():
            measured(asks, seconds / 4, size)  # not counted: connections are made, and code is warm
        pairs = []
        for segment in range(segments):
            order = ("service", "loop") if segment % 2 else ("loop", "service")
            pair: dict[str, Any] = {side: measured(sides[side], seconds, size) for side in order}
            pairs.append({**pair, "ratio": pair["service"]["inputs_per_s"] / pair["loop"]["inputs_per_s"]})
        yield {"inputs": size, "clients": clients, "pairs": pairs}


def as_json(item: Any) -> Any:
    return base64.b64encode(item).decode() if isinstance(item, bytes) else item


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Train, serve and measure; return the record."""
    torch.set_num_threads(1)
    short = apply_sets(base_experiment(args.data), args.sets)
    short = apply_sets(short, [f"train.steps={STEPS}", f"train.eval_every={STEPS}", "explorer={type: none}"])
    experiment = validate(Experiment, short)
    if experiment.task.has_documents:
        raise ConfigError(f"--data {args.data}: measures students that sort into classes")
    student, inputs = trained(experiment, args.storage)
    settings = Settings(port=free_port(), max_batch=args.max_batch, batch_wait_ms=args.batch_wait_ms)
    before = os.getloadavg()
    with cluster.connect(), serving.served(student.folder, settings):
        results = list(cases(student, inputs, settings.port, args.segments, args.seconds))
    return {
        "benchmark": "serving",
        "command": command("serving.py"),
        "data": data_name(args.data),
        "experiment": experiment.model_dump(mode="json"),
        "parameters": student.parameters,
        "settings": {key: value for key, value in asdict(settings).items() if key != "port"},
        "results": results,
        "load_average": {"before": before, "after": os.getloadavg()},
        "environment": environment(),
    }


def render(record: dict[str, Any]) -> str:
    """Lay out a record as a table."""
    head = (
        "inputs a request",
        "clients",
        "service inputs/s",
        "loop inputs/s",
        "ratio",
        "service ms",
        "95 %",
        "loop ms",
    )
    rows: list[tuple[str, ...]] = [head]
    for case in record["results"]:

        def middle(side: str, key: str, pairs: list[dict[str, Any]] = case["pairs"]) -> float:
            return median(pair[side][key] for pair in pairs)

        rows.append(
            (
                str(case["inputs"]),
                str(case["clients"]),
                f"{middle('service', 'inputs_per_s'):,.0f}",
                f"{middle('loop', 'inputs_per_s'):,.0f}",
                f"{median(pair['ratio'] for pair in case['pairs']):.2f}",
                f"{middle('service', 'ms'):.1f}",
                f"{middle('service', 'ms_95'):.1f}",
                f"{middle('loop', 'ms'):.1f}",
            )
        )
    return f"{record['data']}; {record['command']}\n{hardware(record['environment'])}\n\n{aligned(rows)}"


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default="digits", help="digits, or a folder named like one of the YAML files here (without _lt)"
    )
    parser.add_argument("--segments", type=at_least_one, default=5, help="pairs of measurements of each case")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds of a segment")
    parser.add_argument("--max-batch", type=at_least_one, default=64, help="as of the command serve")
    parser.add_argument("--batch-wait-ms", type=float, default=2.0, help="as of the command serve")
    parser.add_argument("--storage", default="results")
    parser.add_argument("--out")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--show", metavar="FILE.json", help="print the table of a record and run nothing")
    args = parser.parse_args()
    if args.show:
        with open(args.show, encoding="utf-8") as file:
            print(render(json.load(file)))
        return
    record = measure(args)
    print(render(record))
    write_record(record, record_path(args.out, args.storage, f"serving-{record['data']}"))


if __name__ == "__main__":
    main(run)
