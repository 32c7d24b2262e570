"""Compare trials that explore rows for themselves with trials of a sweep that share such rows.

python benchmarks/shared_rows.py --data digits|FOLDER [--trials 4] [--seeds 5] [--storage DIR] [--out FILE.json]
    [--jobs N] [--set KEY=VALUE ...]
python benchmarks/shared_rows.py --show FILE.json

A seed's trials differ in their synthetic ratio and temperature, as in a sweep. Each is trained twice: with rows that it
explores for its own student, and after the others from a bank that they all share. benchmarks/README.md says more.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from statistics import mean
from typing import Any

import methods
import numpy as np
from common import (
    METRIC,
    aligned,
    apply_sets,
    at_least_one,
    base_experiment,
    command,
    data_name,
    hardware,
    main,
    mean_std,
    number,
    plus_minus,
    row_counts,
    run_options,
    show_or_measure,
    what_was_seen,
)

from tgt_ray.core.config import validate
from tgt_ray.core.environment import environment
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.memory import keep_freed_memory
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.transfer_set import Prepared

#: The ways in which trials get their rows, by the mode of the bank.
SIDES = {"own": "none", "shared": "shared"}


def trials_of(base: Experiment, seed: int, count: int) -> list[Experiment]:
    """Draw a seed's trials: ratios from 0.1 to 0.9, and temperatures from 1 to 8 on a logarithmic scale."""
    rng = np.random.default_rng(seed)
    drawn = [(rng.uniform(0.1, 0.9), 8 ** rng.uniform()) for _ in range(count)]
    plain = methods.with_seed(base, seed).model_dump(mode="json")
    names = ("train.synthetic_ratio", "objective.temperature")
    return [validate(Experiment, with_overrides(plain, list(zip(names, values, strict=True)))) for values in drawn]


def run_seed(base: Experiment, prepared: Prepared, storage: Storage, seed: int, count: int) -> list[dict[str, Any]]:
    """Train a seed's trials in this process, one after another, in both ways."""
    import torch

    from tgt_ray.teacher.store import load_teacher
    from tgt_ray.training.local import train_local

    torch.set_num_threads(1)
    keep_freed_memory()
    data = prepared.student
    teacher = load_teacher(base.teacher, prepared.teacher, data.spec, data.num_classes, storage)
    results = []
    for side, mode in SIDES.items():
        with tempfile.TemporaryDirectory() as bank:
            for number_, trial in enumerate(trials_of(base, seed, count)):
                own = validate(Experiment, with_overrides(trial.model_dump(mode="json"), [("pool.bank.mode", mode)]))
                started = time.process_time()
                run = train_local(own, prepared, Storage(bank), teacher=teacher, name=f"trial {number_}")
                spent = time.process_time() - started
                values = {"ratio": own.train.synthetic_ratio, "temperature": own.objective.model_dump()["temperature"]}
                told = {"seed": seed, "trial": number_, "side": side, **values, "core_s": spent}
                results.append({**told, "metrics": run.history[-1]})
                score = run.history[-1][f"test_{METRIC}"]
                print(f"seed {seed}, trial {number_}, {side}: test {score:.2f} in {spent:.1f} core-seconds", flush=True)
    return results


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise over seeds: all trials but the first, which finds an empty bank, and the best by validation.

    The difference is that of a seed's means, so that the spread is over seeds.
    """
    seeds = sorted({each["seed"] for each in results})

    def of(seed: int, side: str) -> list[dict[str, Any]]:
        return [each for each in results if (each["seed"], each["side"]) == (seed, side) and each["trial"]]

    out: dict[str, Any] = {}
    for side in SIDES:
        runs = [of(seed, side) for seed in seeds]
        best = [max(found, key=lambda each: each["metrics"][METRIC]) for found in runs]
        out[side] = {
            "test": mean_std([mean(each["metrics"][f"test_{METRIC}"] for each in found) for found in runs]),
            "best_test": mean_std([each["metrics"][f"test_{METRIC}"] for each in best]),
            "core_s": mean_std([mean(each["core_s"] for each in found) for found in runs]),
            "found": mean(_found(each) for found in runs for each in found),
            "lag_p50": mean(each["metrics"]["lag_p50"] for found in runs for each in found),
        }
    test = f"test_{METRIC}"
    pairs = [[mean(each["metrics"][test] for each in of(seed, side)) for seed in seeds] for side in ("shared", "own")]
    return {**out, "difference": mean_std([a - b for a, b in zip(*pairs, strict=True)])}


def _found(result: dict[str, Any]) -> float:
    made, found = (result["metrics"].get(name, 0) for name in ("rows_made", "rows_found"))
    return found / (made + found) if made + found else 0.0


def render(record: dict[str, Any]) -> str:
    """Write the record as text."""
    summary, train, explorer = record["summary"], record["base"]["train"], record["base"]["explorer"]
    head = [
        f"{record['data']}, explorer {explorer['type']}, {train['steps']} steps of {train['batch_size']} rows;"
        f" {record['trials']} trials a seed, seeds {', '.join(map(str, record['seeds']))}",
        record["teacher_has_seen"],
        f"balanced accuracy on test in percent, mean ± standard deviation over seeds, of all trials but each seed's"
        f" first; {record['command']}",
        hardware(record["environment"]),
    ]
    rows = [["rows", "test", "best by validation", "core-s a run", "rows found", "lag, median"]]
    rows += [
        [
            side,
            plus_minus(line["test"]),
            plus_minus(line["best_test"]),
            plus_minus(line["core_s"], 1),
            f"{100 * line['found']:.0f} %",
            number(line["lag_p50"], 0),
        ]
        for side, line in ((side, summary[side]) for side in SIDES)
    ]
    closing = f"shared - own: {plus_minus(summary['difference'])} points"
    return "\n".join(head) + "\n\n" + aligned(rows) + "\n\n" + closing


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Prepare the teacher, run all seeds, and give the record."""
    from tgt_ray.training.local import prepare_local

    base = validate(Experiment, apply_sets(base_experiment(args.data), args.sets))
    if not base.explorer.on_policy:
        raise ConfigError(f"--set explorer.type: '{base.explorer.type}' doesn't look at the student; use gradient")
    if args.trials < 2:
        raise ConfigError("--trials: 1, and the first one finds an empty bank; give at least 2")
    storage, made_on = Storage(args.storage), environment()
    data = base.task.load(storage)
    prepared = prepare_local(base, data, storage)
    seeds = list(range(args.seeds))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, context) as pool:
        parts = pool.map(run_seed, repeat(base), repeat(prepared), repeat(storage), seeds, repeat(args.trials))
        results = [each for part in parts for each in part]
    config, rows = base.model_dump(mode="json"), row_counts(data)
    return {
        "kind": "benchmark shared rows",
        "command": command("shared_rows.py"),
        "data": data_name(args.data),
        "seeds": seeds,
        "trials": args.trials,
        "jobs": args.jobs,
        "teacher_has_seen": what_was_seen(config, rows),
        "rows": rows,
        "metric": METRIC,
        "fingerprints": prepared.fingerprints,
        "teacher": prepared.teacher,
        "base": config,
        "environment": made_on,
        "results": results,
        "summary": summarise(results),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    run_options(parser, None)
    parser.add_argument("--trials", type=at_least_one, default=4, help="trials of each seed")
    return parser.parse_args()


if __name__ == "__main__":
    main(lambda: show_or_measure(parse(), "shared_rows", measure, render))
