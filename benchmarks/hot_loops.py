"""Measure images per second of student and generator, without Ray, under different settings of their loops.

Student: threads, memory layout of its convolutions, torch.compile. Generator: threads, rows of one request. Both: freed
memory kept or given back to the system, and as many processes of one thread as there are processors beside one process
with as many threads.

    python benchmarks/hot_loops.py --data digits|FOLDER [--repeats 5] [--seconds 4] [--compile]
        [--storage DIR] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from common import (
    aligned,
    apply_sets,
    at_least_one,
    base_experiment,
    command,
    data_name,
    hardware,
    main,
    number,
    record_path,
    write_record,
)

from tgt_ray.core.config import validate
from tgt_ray.core.environment import environment
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.memory import keep_freed_memory
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.transfer_set import Prepared

Settings = dict[str, Any]


def student_loop(experiment: Experiment, prepared: Prepared, storage: Storage) -> Iterator[int]:
    """Train on a block in memory; yield the number of rows of each step."""
    from tgt_ray.training.reader import SyntheticReader
    from tgt_ray.training.run import StudentRun

    run = StudentRun(experiment, prepared.student)
    run.student.train()
    reader = SyntheticReader(itertools.repeat(block_maker(experiment, prepared, storage)(0)))
    while True:
        run.train_step(reader)
        yield experiment.train.batch_size


def generator_loop(experiment: Experiment, prepared: Prepared, storage: Storage) -> Iterator[int]:
    """Make one request after another; yield the number of rows of each."""
    make = block_maker(experiment, prepared, storage)
    for request in itertools.count():
        make(request)
        yield experiment.pool.rows_per_request


def block_maker(experiment: Experiment, prepared: Prepared, storage: Storage) -> Callable[[int], Any]:
    """Give a function that makes the block of a request with an untrained student."""
    from tgt_ray.teacher.store import load_teacher
    from tgt_ray.training.generation import synthesizer_of
    from tgt_ray.training.student import build_student

    spec, classes = prepared.student.spec, prepared.student.num_classes
    teacher = load_teacher(experiment.teacher, prepared.teacher, spec, classes, storage)
    synthesizer = synthesizer_of(experiment, prepared, teacher)
    student = build_student(experiment, prepared.student).eval().requires_grad_(False)
    return lambda request: synthesizer(request, experiment.train.seed, experiment.explorer, student, 0)


LOOPS = {"student": student_loop, "generator": generator_loop}


def work(loop: str, settings: Settings, base: Experiment, root: str, seconds: float, ready: Any, out: Any) -> None:
    """Measure images per second in a process of its own.

    - seconds: length of the measurement; it starts once all processes of the setting are ready
    - ready: barrier of these processes
    - out: queue that takes the result
    """
    import torch

    from tgt_ray.training.local import prepare_local

    if settings["memory"] == "kept":
        keep_freed_memory()
    torch.set_num_threads(settings["threads"])
    plain = with_overrides(base.model_dump(mode="json"), sorted(settings["sets"].items()))
    experiment, storage = validate(Experiment, plain), Storage(root)
    steps = LOOPS[loop](experiment, prepare_local(experiment, experiment.task.load(storage), storage), storage)
    until, rows = time.perf_counter() + seconds / 4, 0
    next(steps)
    while time.perf_counter() < until:
        next(steps)
    ready.wait()
    started = time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        rows += next(steps)
    out.put(rows / spent)


def images_per_second(loop: str, settings: Settings, base: Experiment, root: str, seconds: float) -> float:
    """Measure images per second of all processes of the setting together."""
    context = multiprocessing.get_context("spawn")
    ready, out = context.Barrier(settings["processes"]), context.Queue()
    arguments = (loop, settings, base, root, seconds, ready, out)
    processes = [context.Process(target=work, args=arguments, daemon=True) for _ in range(settings["processes"])]
    for process in processes:
        process.start()
    total = sum(out.get(timeout=600) for _ in processes)
    for process in processes:
        process.join()
    return total


def all_settings(compiled: bool) -> dict[str, list[Settings]]:
    """List the settings to compare; the first of each loop is what lanes use."""
    cores = os.cpu_count() or 1
    own = {"processes": 1, "threads": 1, "memory": "kept", "sets": {}}
    together = [{**own, "processes": cores}, {**own, "threads": cores}]
    student = [own, {**own, "memory": "given back"}, {**own, "sets": {"train.channels_last": False}}]
    if compiled:
        student.append({**own, "sets": {"train.compile": True}})
    generator = [own, {**own, "memory": "given back"}]
    for rows in (256, 64):
        fewer = {"sets": {"pool.rows_per_request": rows}}
        generator += [{**own, **fewer}, {**own, **fewer, "memory": "given back"}]
    return {"student": student + together, "generator": generator + together}


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", metavar="digits|FOLDER")
    parser.add_argument("--show", metavar="FILE.json", help="print the table of a record and run nothing")
    parser.add_argument("--repeats", type=at_least_one, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one measurement")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes a while to start")
    parser.add_argument("--storage", default="results")
    parser.add_argument("--out")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    if args.show:
        print(render(json.loads(Path(args.show).read_text(encoding="utf-8"))))
        return
    made_on = environment()
    experiment = validate(Experiment, apply_sets(base_experiment(args.data), args.sets))
    found: dict[str, list[dict[str, Any]]] = {
        loop: [{**settings, "images_per_s": []} for settings in each]
        for loop, each in all_settings(args.compile).items()
    }
    for _ in range(args.repeats):
        for loop, each in found.items():
            for settings in each:
                speed = images_per_second(loop, settings, experiment, args.storage, args.seconds)
                settings["images_per_s"].append(speed)
                print(f"{loop}, {describe(settings)}: {speed:,.0f} images/s", flush=True)
    record = {
        "kind": "benchmark hot loops",
        "command": command("hot_loops.py"),
        "data": data_name(args.data),
        "experiment": experiment.model_dump(mode="json"),
        "found": found,
        "load_average": os.getloadavg(),
        "environment": made_on,
    }
    print(render(record))
    write_record(record, record_path(args.out, args.storage, f"hot-loops-{record['data']}"))


def describe(settings: Settings) -> str:
    threads = f"{settings['processes']} x {settings['threads']} thread(s)"
    sets = [f"{key}={value}" for key, value in settings["sets"].items()]
    return ", ".join([threads, f"freed memory {settings['memory']}", *sets])


def render(record: dict[str, Any]) -> str:
    """Write the record as text: what was run, then one line for each setting."""
    rows = [["", "images/s (median)", "lowest", "highest", "of the first"]]
    for loop, each in record["found"].items():
        base = median(each[0]["images_per_s"])
        for settings in each:
            speeds = settings["images_per_s"]
            rows.append(
                [
                    f"{loop}: {describe(settings)}",
                    *(f"{value:,.0f}" for value in (median(speeds), min(speeds), max(speeds))),
                    number(median(speeds) / base),
                ]
            )
    head = [
        f"{record['data']}, explorer {record['experiment']['explorer']['type']}; {record['command']}",
        hardware(record["environment"]),
    ]
    return "\n".join(head) + "\n\n" + aligned(rows)


if __name__ == "__main__":
    main(run)
