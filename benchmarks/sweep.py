"""Measure the wall time of a sweep, with and without synthetic rows that are there already, and of plain Optuna loops.

python benchmarks/sweep.py [--trials 12] [--scheduler none|asha] [--storage DIR] [--out FILE.json]
    [--data digits|FOLDER] [--repeats 1] [--sides empty,filled,plain,...] [--threads N] [--set KEY=VALUE ...]
python benchmarks/sweep.py --show FILE.json

All run as commands in processes of their own, one after the other. benchmarks/README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from statistics import mean, median
from typing import Any

from common import (
    HERE,
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
    record_path,
    row_counts,
    what_was_seen,
    write_record,
)
from processes import timed

from tgt_ray.core import records
from tgt_ray.core.config import validate
from tgt_ray.core.environment import environment
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import dump_yaml
from tgt_ray.core.storage import Storage
from tgt_ray.sweeps.config import SweepConfig, default_sweep
from tgt_ray.tasks import TaskData
from tgt_ray.teacher.transfer_set import Prepared

#: Settings of the sides that are sweeps of tgt-ray. What the bank of synthetic rows has at their start:
#: empty: nothing; filled: what the same sweep has left there; warm, cold: they have none.
OURS: dict[str, tuple[str, ...]] = {
    "empty": (),
    "filled": (),
    "warm": ("experiment.pool.bank.mode=none",),
    "cold": ("experiment.pool.bank.mode=none", "search.warm_lanes=false"),
}
#: Of the sides that are plain loops: whether their trials share rows, which are there at the start, and processes.
PLAIN = {"plain": (False, 1), "plain-bank": (True, 1), "plain-bank-2": (True, 2)}


def build_sweep(args: argparse.Namespace) -> SweepConfig:
    """Build the default sweep, or its space over the experiment of the folder.

    It has as many trials as asked for, and no controls.
    """
    data = default_sweep()
    if args.data != "digits":
        data["experiment"] = base_experiment(args.data)
    # In full, so that --set finds every block with its type.
    data = validate(SweepConfig, data).model_dump(mode="json", exclude_none=True)
    sets = [f"search.trials={args.trials}", "search.controls=[]", f"search.scheduler={args.scheduler}", *args.sets]
    sweep = validate(SweepConfig, apply_sets(data, sets), "--set")
    check_comparable(sweep)
    return sweep


def check_comparable(sweep: SweepConfig) -> None:
    """Check that the plain alternative can do the same work.

    - raises ConfigError: where it can't
    """
    experiment, search = sweep.experiment, sweep.search
    if experiment.explorer.type not in ("random", "gradient"):
        raise ConfigError("experiment.explorer.type: the plain alternative knows only random and gradient")
    if experiment.train.optimizer != "adamw" or search.algorithm != "tpe" or search.metric != METRIC:
        raise ConfigError(f"the plain alternative trains with adamw and searches {METRIC} with tpe")
    if search.controls or search.mode != "max":
        raise ConfigError("the plain alternative runs no controls and maximises")


def prepare(sweep: SweepConfig, storage: Storage) -> tuple[TaskData, Prepared]:
    """Prepare teacher and teacher cache before timing starts."""
    from tgt_ray.training.local import prepare_local

    data = sweep.experiment.task.load(storage)
    return data, prepare_local(sweep.experiment, data, storage)


def run_ours(sweep: SweepConfig, file: Path, storage: Storage, side: str) -> dict[str, Any]:
    """Run the sweep of tgt-ray, and give its wall time and its table."""
    bank = Path(storage.root) / "bank"
    if side == "filled" and not bank.exists():
        run_ours(sweep, file, storage, "empty")  # is not counted
    elif side == "empty":
        shutil.rmtree(bank, ignore_errors=True)
    name = f"benchmark-{uuid.uuid4().hex[:8]}"
    arguments = ["-m", "tgt_ray.sweep", str(file), "--storage", storage.root, "--name", name]
    wall, processes = timed([*arguments, *(option for each in OURS[side] for option in ("--set", each))])
    folder = storage.within(name)
    table = records.read_table(folder, "trials")
    trials = json.loads(table.to_json(orient="records"))  # plain numbers, and null where there is none
    concurrent = records.read_json(folder, "record.json")["concurrent"]
    made, found = (sum(trial.get(key) or 0 for trial in trials) for key in ("rows_made", "rows_found"))
    return {
        "wall_s": wall,
        "processor": processes,
        "concurrent": concurrent,
        "rows": {"made": made, "found": found},
        "where": where_ours(trials, wall, concurrent),
        "gaps_s": [trial["gap_s"] for trial in trials if trial.get("gap_s") is not None],
        **outcome(sweep, trials, METRIC, f"test_{METRIC}"),
        "trials": trials,
    }


def where_ours(trials: list[dict[str, Any]], wall: float, concurrent: int) -> dict[str, float]:
    """Average the seconds of a lane that a trial takes, by what it spends them on."""
    told = [trial for trial in trials if trial.get("train_s") is not None]
    spent = {name: mean(t.get(name) or 0.0 for t in told) for name in ("train_s", "start_wait_s", "setup_s", "idle_s")}
    spent["train_s"] -= spent["start_wait_s"]
    lane = wall * concurrent / len(trials)
    return {"lane_s": lane, **spent, "outside_s": lane - sum(spent.values())}


def run_plain(sweep: SweepConfig, file: Path, storage: Storage, side: str, threads: int) -> dict[str, Any]:
    """Run a plain loop, and give its wall time and its table."""
    bank, processes = PLAIN[side]
    folder = file.parent / "plain-bank"
    if bank and not folder.exists():
        folder.mkdir()
        run_plain(sweep, file, storage, side, threads)  # fills the bank, and is not counted
    out = file.parent / f"plain-{uuid.uuid4().hex[:8]}.json"
    script = [str(HERE / "plain_optuna.py"), str(file), "--storage", storage.root, "--out", str(out)]
    script += ["--processes", str(processes), "--threads", str(max(1, threads // processes))]
    wall, spent = timed([*script, *(["--bank", str(folder)] if bank else [])])
    told = json.loads(out.read_text(encoding="utf-8"))
    return {
        "wall_s": wall,
        "processor": spent,
        "load_s": told["load_s"],
        "where": where_plain(told["trials"], wall * processes),
        **outcome(sweep, told["trials"], "validation", "test"),
        "trials": told["trials"],
    }


def where_plain(trials: list[dict[str, Any]], wall: float) -> dict[str, float]:
    """Average the seconds of a trial, by what it spends them on."""
    lane = wall / len(trials)
    seconds, generate, evaluate = (mean(t[name] for t in trials) for name in ("seconds", "generate_s", "evaluate_s"))
    return {
        "lane_s": lane,
        "train_s": seconds - generate - evaluate,
        "generate_s": generate,
        "evaluate_s": evaluate,
        "outside_s": lane - seconds,
    }


def outcome(sweep: SweepConfig, trials: list[dict[str, Any]], validation: str, test: str) -> dict[str, Any]:
    """Give the best trial by validation, the numbers of trials, and how much synthetic work the search asked for."""
    finished = [trial for trial in trials if trial["status"] == "finished"]
    if not finished:
        raise RuntimeError("no trial has finished; see the output above")
    best = max(finished, key=lambda trial: trial[validation])
    ratio = "train.synthetic_ratio"
    return {
        "best": {
            "validation": best[validation],
            "test": best[test],
            "values": {key: best[key] for key in sweep.space},
        },
        "num_trials": len(trials),
        "num_finished": len(finished),
        "mean_synthetic_ratio": mean(trial[ratio] for trial in trials) if ratio in sweep.space else None,
    }


def run_repeats(args: argparse.Namespace, sweep: SweepConfig, storage: Storage) -> dict[str, list[dict[str, Any]]]:
    """Run all sides once in each repeat, starting with another side each time, so that a warm disk favours none."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in args.sides}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sweep.yaml"
        file.write_text(dump_yaml(sweep), encoding="utf-8")
        for repeat in range(args.repeats):
            first = repeat % len(args.sides)
            for side in args.sides[first:] + args.sides[:first]:
                load = os.getloadavg()[0]  # over the last minute; where others use the machine, wall times mean little
                if side in PLAIN:
                    result = run_plain(sweep, file, storage, side, args.threads)
                else:
                    result = run_ours(sweep, file, storage, side)
                runs[side].append({"load_before": load, **result})
                print(
                    f"{side}, repeat {repeat + 1} of {args.repeats}: {result['wall_s']:.1f} s, load before {load:.1f}",
                    flush=True,
                )
    return runs


def mean_by_role(runs: list[dict[str, float]]) -> dict[str, float]:
    """Average processor seconds by role, largest first."""
    roles = {role for run in runs for role in run}
    return dict(sorted(((role, mean(run.get(role, 0.0) for run in runs)) for role in roles), key=lambda item: -item[1]))


def summarise(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Summarise the repeats of each side, and compute the ratios of the median wall times.

    A side's summary has its wall time, what the time was spent on, and what was found.
    """
    sides = {
        side: {
            "wall_s": mean_std([run["wall_s"] for run in results]),
            "median_wall_s": median(run["wall_s"] for run in results),
            "where": {name: mean(run["where"][name] for run in results) for name in results[0]["where"]},
            "processor_s": mean_by_role([run["processor"]["by_role"] for run in results]),
            "best": {split: mean_std([run["best"][split] for run in results]) for split in ("validation", "test")},
            "mean_synthetic_ratio": results[0]["mean_synthetic_ratio"],
            "num_finished": mean(run["num_finished"] for run in results),
            "rows": {what: mean(run["rows"][what] for run in results) for what in ("made", "found")}
            if "rows" in results[0]
            else {"made": None, "found": None},
            "median_gap_s": median(gaps)
            if (gaps := [gap for run in results for gap in run.get("gaps_s", [])])
            else None,
        }
        for side, results in runs.items()
    }
    first, *others = sides
    ratios = {other: sides[first]["median_wall_s"] / sides[other]["median_wall_s"] for other in others}
    return {"sides": sides, "ratios": {f"{first} / {other}": ratio for other, ratio in ratios.items()}}


WHERE = {
    "lane_s": "a trial's share of its lane (wall x lanes / trials)",
    "train_s": "  training steps",
    "start_wait_s": "  wait for the first synthetic rows",
    "generate_s": "  generation",
    "evaluate_s": "  evaluation on validation",
    "setup_s": "  student and data of the trial made ready",
    "idle_s": "  the lane waits for a trial",
    "outside_s": "  start and end of processes, imports, search, checkpoints",
}


def render(record: dict[str, Any]) -> str:
    """Write the record as text: what was run, on what, the sides beside each other."""
    summary, sweep, runs = record["summary"], record["sweep"], record["runs"]
    sides, train = summary["sides"], sweep["experiment"]["train"]
    lanes = next((found[0]["concurrent"] for found in runs.values() if "concurrent" in found[0]), 1)
    head = [
        f"{record['data']}, {sweep['search']['trials']} trials of {train['steps']} steps of {train['batch_size']} rows,"
        f" evaluated every {train['eval_every']}; early stopping: {sweep['search']['scheduler']};"
        f" repeats: {len(next(iter(runs.values())))}",
        f"space: {', '.join(sweep['space'])}; teacher and teacher cache were made before timing started",
        record["teacher_has_seen"],
        f"empty, filled: python -m tgt_ray.sweep on {lanes} lanes, with a bank of synthetic rows that is empty at"
        " first, or has those of the same sweep; warm, cold: without a bank, on lanes that outlive trials or not",
        f"plain: plain_optuna.py, one trial at a time on {record['plain_threads']} threads, which makes its rows;"
        " plain-bank: with rows that are there already; plain-bank-2: the same in two processes",
        f"best student by validation balanced accuracy, in percent; {record['command']}",
        hardware(record["environment"]),
    ]
    rows = [["", *sides], ["wall seconds", *(plus_minus(side["wall_s"], 1) for side in sides.values())]]
    rows += [[text, *(number(side["where"].get(name)) for side in sides.values())] for name, text in WHERE.items()]
    gaps = [number(side["median_gap_s"]) for side in sides.values()]
    rows.append(["from one trial's end to the next one's first step, median", *gaps])
    for split in ("validation", "test"):
        rows.append([f"best, {split}", *(plus_minus(side["best"][split]) for side in sides.values())])
    rows.append(["mean synthetic ratio", *(number(side["mean_synthetic_ratio"]) for side in sides.values())])
    rows.append(["trials run to the end", *(number(side["num_finished"], 1) for side in sides.values())])
    rows.append(
        ["processor seconds of all processes", *(number(sum(s["processor_s"].values()), 1) for s in sides.values())]
    )
    roles = list(dict.fromkeys(role for side in sides.values() for role in side["processor_s"]))
    rows += [[f"  {role}", *(number(s["processor_s"].get(role), 1) for s in sides.values())] for role in roles]
    rows += [
        [f"synthetic rows {what}", *(number(side.get("rows", {}).get(what), 0) for side in sides.values())]
        for what in ("made", "found")
    ]
    closing = "wall time (medians): " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in summary["ratios"].items())
    return "\n".join(head) + "\n\n" + aligned(rows) + "\n\n" + closing


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run all sides and give the record."""
    for side in args.sides:
        if side not in (*OURS, *PLAIN):
            raise ConfigError(f"--sides: '{side}'; legal are {', '.join((*OURS, *PLAIN))}")
    sweep, storage = build_sweep(args), Storage(args.storage)
    made_on = environment()  # read now, since the checkout may change while this runs
    print("teacher: pretraining it, unless the storage has it", flush=True)
    data, prepared = prepare(sweep, storage)
    runs, rows = run_repeats(args, sweep, storage), row_counts(data)
    config = sweep.model_dump(mode="json")
    return {
        "kind": "benchmark sweep",
        "command": command("sweep.py"),
        "data": data_name(args.data),
        "plain_threads": args.threads,
        "teacher_has_seen": what_was_seen(config["experiment"], rows),
        "rows": rows,
        "metric": METRIC,
        "fingerprints": prepared.fingerprints,
        "teacher": prepared.teacher,
        "sweep": config,
        "environment": made_on,
        "summary": summarise(runs),
        "runs": runs,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="digits", metavar="digits|FOLDER", help="as for methods.py")
    parser.add_argument("--show", metavar="FILE.json", help="print the table of a record and run nothing")
    parser.add_argument("--trials", type=at_least_one, default=12)
    parser.add_argument(
        "--sides",
        type=lambda text: text.split(","),
        default=["empty", "filled", "plain", "plain-bank", "plain-bank-2"],
        help=f"what to run, of {', '.join((*OURS, *PLAIN))}; the first is compared with the others",
    )
    parser.add_argument("--scheduler", choices=["none", "asha"], default="asha", help="early stopping on all sides")
    parser.add_argument("--repeats", type=at_least_one, default=1)
    parser.add_argument("--threads", type=at_least_one, default=os.cpu_count(), help="torch threads of the plain loop")
    parser.add_argument("--storage", default="results", help="folder for sweeps, teachers and the teacher cache")
    parser.add_argument("--out", metavar="FILE.json", help="the record (default: in the storage)")
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], metavar="KEY=VALUE", help="setting of the sweep"
    )
    return parser.parse_args()


def run() -> None:
    args = parse()
    if args.show:
        print(render(json.loads(Path(args.show).read_text(encoding="utf-8"))))
        return
    record = measure(args)
    print(render(record))
    write_record(record, record_path(args.out, args.storage, f"sweep-{data_name(args.data)}-{args.scheduler}"))


if __name__ == "__main__":
    main(run)
