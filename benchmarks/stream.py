"""Measure what the stream costs: rows per second streamed against in memory, and the start-up of a trial.

(a) The student fed by the stream against the same loop on blocks in memory. The pool hands out blocks made beforehand.
(b) One generator actor that makes blocks for a consumer that does nothing, against the same generator in a plain loop.
(c) The share of its time that the student waits when the pool keeps up, from the runs of (a).
(d) Seconds until a trial trains: the first one of a lane, whose processes must start, and those after it.

Ratios are measured side by side in one process: segments of a few seconds alternate, and the result is the median of
the pairs' ratios.

    python benchmarks/stream.py --data digits|FOLDER [--segments 15] [--repeats 5] [--storage DIR] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median
from typing import Any

import ray
import torch
from common import apply_sets, at_least_one, base_experiment, command, data_name, record_path, write_record

from tgt_ray.core.batch import Block
from tgt_ray.core.config import validate
from tgt_ray.core.environment import environment
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.memory import keep_freed_memory
from tgt_ray.core.storage import Storage
from tgt_ray.distributed import cluster, lanes
from tgt_ray.distributed.messages import Job, Run
from tgt_ray.distributed.pool_actor import PoolSetup, TeacherGenerator
from tgt_ray.distributed.stream import SyntheticStream
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.text.encoder import TextBackbone
from tgt_ray.tasks import inputs_of
from tgt_ray.teacher.store import load_teacher
from tgt_ray.teacher.synthesizer import Synthesizer
from tgt_ray.teacher.transfer_set import Prepared
from tgt_ray.training import checkpoint
from tgt_ray.training.generation import synthesizer_of
from tgt_ray.training.local import prepare_local
from tgt_ray.training.reader import SyntheticReader
from tgt_ray.training.run import StudentRun
from tgt_ray.training.student import build_student


class ReadyGenerator(TeacherGenerator):
    """A pool actor that hands out copies of one block made beforehand, so that only the stream's own cost is left."""

    def __init__(self, setup: PoolSetup):
        TeacherGenerator.__init__(self, setup)
        self.ready: Block | None = None

    def _adopt(self, job: Job) -> None:
        TeacherGenerator._adopt(self, job)
        self.ready = self.synthesizer(0, self.seed, self.explorer, self.student, 0, 0)
        self.synthesizer = self.copy

    def copy(self, request: int, seed: int, explorer: Any, student: Any, version: int, shown: int) -> Block:
        assert self.ready is not None
        return replace(self.ready, request=request, version=version)


@ray.remote
class Measure:
    """Measure both sides of a comparison in an actor, with one torch thread as a train worker has."""

    def __init__(self, experiment: Experiment, prepared: list[Any], root: str):
        keep_freed_memory()  # as lanes do, so that ratios show the stream's cost alone
        torch.set_num_threads(1)
        self.experiment, self.root, self.ref = experiment, root, tuple(prepared)
        self.prepared: Prepared = ray.get(prepared[0])

    def student(self, segments: int, steps: int) -> list[dict[str, float]]:
        """Measure images per second over all rows of the student, fed by the stream and from memory in turns."""
        run = StudentRun(self.experiment, self.prepared.student)
        run.student.train()
        stream, blocks = self._stream(run, ReadyGenerator)
        sides = {"streamed": SyntheticReader(blocks), "in_memory": SyntheticReader(self._in_memory())}

        def measure(side: str) -> dict[str, float]:
            reader, published = sides[side], stream if side == "streamed" else None
            # These steps are not timed: they use up what the pool made ahead while the other side was measured.
            for _ in range(steps // 4):
                self._step(run, reader, published)
            reader.wait_s, started = 0.0, time.perf_counter()
            for _ in range(steps):
                self._step(run, reader, published)
            seconds = time.perf_counter() - started
            return {
                side: steps * self.experiment.train.batch_size / seconds,
                f"wait_share_{side}": reader.wait_s / seconds,
            }

        out = in_turns(measure, segments)
        stream.close()
        return out

    def _step(self, run: StudentRun, reader: SyntheticReader, stream: SyntheticStream | None) -> None:
        run.train_step(reader)
        if (
            stream is not None
            and run.experiment.explorer.on_policy
            and run.step % run.experiment.pool.snapshot_every == 0
        ):
            stream.publish(run.step, checkpoint.snapshot(run.student))

    def generator(self, segments: int, blocks: int) -> list[dict[str, float]]:
        """Measure images per second of one generator, in turns in the pool and in a plain loop."""
        stream, streamed = self._stream(StudentRun(self.experiment, self.prepared.student), TeacherGenerator)
        sides = {"streamed": streamed, "in_memory": self._plain()}

        def measure(side: str) -> dict[str, float]:
            # Not timed: these blocks were made ahead.
            for _ in range(max(blocks // 4, self.experiment.pool.window + 1)):
                next(sides[side])
            started = time.perf_counter()
            for _ in range(blocks):
                next(sides[side])
            seconds = time.perf_counter() - started
            return {side: blocks * self.experiment.pool.rows_per_request / seconds}

        out = in_turns(measure, segments)
        stream.close()
        return out

    def _stream(self, run: StudentRun, generator: type) -> tuple[SyntheticStream, Iterator[Block]]:
        stream = SyntheticStream(self.experiment.pool, self.root, generator=generator)
        snapshot = checkpoint.snapshot(run.student) if self.experiment.explorer.on_policy else None
        return stream, stream.begin(self.experiment, self.ref, 0, snapshot, 0)

    def _plain(self) -> Iterator[Block]:
        experiment, data = self.experiment, self.prepared.student
        student = build_student(experiment, data).eval().requires_grad_(False)
        make = self._synthesizer()
        request = 0
        while True:
            yield make(request, experiment.train.seed, experiment.explorer, student, 0)
            request += 1

    def _in_memory(self) -> Iterator[Block]:
        block = next(self._plain())
        while True:
            yield block

    def _synthesizer(self) -> Synthesizer:
        data = self.prepared.student
        teacher = load_teacher(
            self.experiment.teacher, self.prepared.teacher, data.spec, data.num_classes, Storage(self.root)
        )
        return synthesizer_of(self.experiment, self.prepared, teacher)


def in_turns(measure: Callable[[str], dict[str, float]], segments: int) -> list[dict[str, float]]:
    """Measure both sides one right after the other, `segments` times, and the ratio of each pair."""
    out = []
    for segment in range(segments):
        order = ("streamed", "in_memory") if segment % 2 else ("in_memory", "streamed")
        pair = {key: value for side in order for key, value in measure(side).items()}
        out.append({**pair, "ratio": pair["streamed"] / pair["in_memory"]})
    return out


def start_up(experiment: Experiment, ref: tuple[Any, ...], storage: Storage, repeats: int) -> list[dict[str, float]]:
    """Run short trials one after another on one lane, and measure the parts of their time in seconds.

    - repeats: trials after the first
    """
    values = [("train.steps", 100), ("train.eval_every", 100)]
    short = Experiment.model_validate(with_overrides(experiment.model_dump(mode="json"), values))
    out, since = [], time.time()
    with lanes.open_lanes("stream benchmark", short, 1, storage) as link:
        for index in range(repeats + 1):
            folder = storage.within("benchmark_runs", f"start-up-{time.time_ns()}")
            link.call("submit", Run(str(index), short, ref, folder.root))
            last = link.call("next_report", str(index), -1).metrics
            link.call("next_report", str(index), last["step"])  # how it ended
            waited = {name: last[name] for name in ("setup_s", "start_wait_s")}
            steps = last["train_s"] - last["start_wait_s"]
            out.append(
                {"trial_s": time.time() - since, **waited, "training_steps_s": steps, "gap_s": last.get("gap_s")}
            )
            since = time.time()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default="digits", help="digits, or a folder named like one of the YAML files here (without _lt)"
    )
    parser.add_argument(
        "--segments", type=at_least_one, default=15, help="pairs of measurements of student and generator"
    )
    parser.add_argument("--steps", type=at_least_one, default=600, help="student steps of one segment")
    parser.add_argument("--blocks", type=at_least_one, default=30, help="generator calls of one segment")
    parser.add_argument(
        "--repeats", type=at_least_one, default=5, help="trials on a warm lane whose start-up is measured"
    )
    parser.add_argument("--storage", default="results")
    parser.add_argument("--out")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    experiment = validate(Experiment, apply_sets(base_experiment(args.data), args.sets))
    # The run is so long that a measurement never reaches the end of its stream.
    rows = args.segments * max(args.steps * experiment.train.batch_size, args.blocks * experiment.pool.rows_per_request)
    plenty = [("train.steps", 4 * rows)]
    endless = Experiment.model_validate(with_overrides(experiment.model_dump(mode="json"), plenty))
    storage = Storage(args.storage)
    prepared = prepare_local(experiment, experiment.task.load(storage), storage)
    with cluster.connect():
        ref = (ray.put(prepared),)
        measure = Measure.options(num_cpus=experiment.train.cpus_per_worker).remote(endless, list(ref), storage.root)
        record = {
            "benchmark": "stream",
            "command": command("stream.py"),
            "data": data_name(args.data),
            "experiment": experiment.model_dump(mode="json"),
            "fingerprints": prepared.fingerprints,
            "tokens_per_row": tokens_per_row(experiment, prepared),
            "student": ray.get(measure.student.remote(args.segments, args.steps)),
            "generator": ray.get(measure.generator.remote(args.segments, args.blocks)),
        }
        ray.kill(measure)
        record["start_up"] = start_up(experiment, ref, storage, args.repeats)
    record["load_average"] = os.getloadavg()
    record["environment"] = environment()
    show(record)
    write_record(record, record_path(args.out, args.storage, f"stream-{record['data']}"))


def tokens_per_row(experiment: Experiment, prepared: Prepared) -> float | None:
    """Average the student's tokens of a train text; None where rows are no texts."""
    backbone = build_student(experiment, prepared.student).backbone
    if not isinstance(backbone, TextBackbone):
        return None
    table = prepared.student.tables["train"]
    ids = backbone.prepare(inputs_of(experiment.task, table, prepared.student.input_shape)[:])
    return float((ids != backbone.tokens.pad).sum(dim=1).float().mean())


def show(record: dict[str, Any]) -> None:
    """Print the results of a record."""
    for name in ("student", "generator"):
        pairs = record[name]
        ratios = sorted(pair["ratio"] for pair in pairs)
        middle = {side: median(pair[side] for pair in pairs) for side in ("streamed", "in_memory")}
        each = record.get("tokens_per_row")
        tokens = f" ({each * middle['streamed']:,.0f} tokens/s)" if each else ""
        print(
            f"{name}: {middle['streamed']:,.0f} rows/s streamed{tokens}, {middle['in_memory']:,.0f} in memory;"
            f" ratio of a pair: median {median(ratios):.3f}, from {ratios[0]:.2f} to {ratios[-1]:.2f} over {len(pairs)}"
        )
    waits = [pair["wait_share_streamed"] for pair in record["student"]]
    print(f"student's wait share while the pool keeps up: median {median(waits):.3f}, largest {max(waits):.3f}")
    first, *others = record["start_up"]
    print(f"first trial of a lane: {first['trial_s']:.2f} s from the lane's start to the trial's end")
    for key in others[0]:
        print(f"  a trial after it, {key}: median {median(trial[key] for trial in others):.2f}")


if __name__ == "__main__":
    main()
