"""Compare ways to use a teacher over schedules of different lengths, with synthetic rows that trials share.

python benchmarks/schedules.py --data digits|FOLDER [--times 1,3,6,12] [--rows 64000] [--seeds 5] [--jobs N] [--flip]
    [--methods A,B] [--storage DIR] [--out FILE.json] [--plot FILE.png] [--resume [RECORD.json]] [--set KEY=VALUE ...]
python benchmarks/schedules.py --show FILE.json[,FILE.json ...] [--plot FILE.png]

Of several records the picture has a part for each.

A run's cost is its student's processor time and the share that it has of the teacher's in a sweep of 16 trials.
benchmarks/README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import methods
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
    other_commits,
    plus_minus,
    row_counts,
    run_options,
    show_or_measure,
    what_was_seen,
)

from tgt_ray.core.config import validate
from tgt_ray.core.environment import environment
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import parse_override, with_overrides
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.transfer_set import Prepared
from tgt_ray.training.banked import reused_rows, uses_bank

#: Trials of the sweep that the teacher's work is shared by.
TRIALS = 16
#: Pixels of an image's width for each pixel of the largest shift of real images.
PIXELS = 14
#: Labelled rows by which the labeler's speed is measured.
TO_TIME = 512
METHODS = {
    "image": (
        "distillation",
        "distillation + balanced-sampling",
        "distillation + consistent",
        "random",
        "interpolation",
        "augment",
        "compose",
        "gradient",
        "gradient shared",
    ),
    "text": ("distillation", "distillation + balanced-sampling", "masking", "random", "augment", "compose"),
}
#: What every run of a worker process shares; `labelling` are the teacher's seconds for all real rows.
_shared: dict[str, Any] = {}


def schedule(base: Experiment, method: str, times: int, rows: int, shift: int = 1, flip: bool = False) -> Experiment:
    """Make the experiment of a method with a number of times the steps.

    - method: as for methods.py; `random of 5000` has a bank of 5000 rows, `gradient shared` takes rows that were
      explored for another student, and `random with sigma=1` has another setting of its explorer
    - rows: of the bank, which are used again and again where a run takes more
    - shift: the largest shift of real images, in pixels, whose labels the teacher gives as the student sees them
    - flip: whether images may be mirrored where a method changes them
    """
    name, _, own = method.partition(" of ")
    name, _, setting = name.partition(" with ")
    name, shared = name.removesuffix(" shared"), name.endswith(" shared")
    if own and not own.isdecimal():
        raise ConfigError(f"--methods: '{method}'; ' of ' is followed by a whole number of rows")
    plain = methods.method_experiment(base, f"{name} x {times}")
    data = plain.model_dump(mode="json")
    sets: list[tuple[str, Any]] = []
    if setting:
        if "=" not in setting:
            raise ConfigError(f"--methods: '{method}'; ' with ' is followed by KEY=VALUE of its explorer")
        sets.append(parse_override(f"explorer.{setting}"))
    if name.endswith("+ consistent"):
        data["train"]["augment"] |= {"shift": shift, "flip": flip}
    if flip and name in ("augment", "compose"):
        sets.append(("explorer.flip", True))
    if plain.explorer.on_policy:
        sets.append(("pool.bank", {"mode": "shared" if shared else "none"}))
    elif shared:
        raise ConfigError(f"--methods: '{method}'; rows of {name} are shared anyway: they don't look at a student")
    elif plain.uses_pool:
        sets.append(("pool.bank", {"mode": "reuse", "rows": int(own or rows)}))
    return validate(Experiment, with_overrides(data, sets))


def start_worker(base: Experiment, prepared: Prepared, storage: Storage) -> None:
    """Set up a worker process, and measure the labeler's speed in it."""
    import torch

    from tgt_ray.tasks import inputs_of
    from tgt_ray.teacher.store import load_teacher

    methods.start_worker(base, prepared, storage)
    data = prepared.student
    teacher = load_teacher(base.teacher, prepared.teacher, data.spec, data.num_classes, storage)
    table = data.tables["train"]
    some = torch.arange(min(TO_TIME, len(table)))
    inputs = inputs_of(base.task, table, data.input_shape)[some]
    with torch.no_grad():
        teacher.labeler(inputs[:8])
        started = time.process_time()
        teacher.labeler(inputs)
    seconds = (time.process_time() - started) / len(inputs)
    _shared.update(prepared=prepared, storage=storage, teacher=teacher, labelling=seconds * len(table))


def run_one(method: str, experiment: Experiment, made: dict[str, Any]) -> dict[str, Any]:
    """Train one student in this process.

    - method: with how many times the steps
    """
    with tempfile.TemporaryDirectory() as folder:
        bank = _shared["storage"]
        if experiment.pool.bank.mode == "shared":
            bank = Storage(folder)
            _fill(experiment, bank)
        started = time.process_time()
        run = _train(experiment, bank)
        spent = time.process_time() - started
    last = run.history[-1]
    parts = cost(experiment, last, spent, _shared["labelling"])
    return {"method": method, "seed": experiment.train.seed, **made, **parts, "metrics": last}


def _train(experiment: Experiment, bank: Storage) -> Any:
    from tgt_ray.training.local import train_local

    return train_local(experiment, _shared["prepared"], bank, teacher=_shared["teacher"])


def _fill(experiment: Experiment, bank: Storage) -> None:
    """Let another student of the sweep, whose temperature is half as high, explore its rows."""
    data = experiment.model_dump(mode="json")
    half = data["objective"]["temperature"] / 2
    _train(validate(Experiment, with_overrides(data, [("objective.temperature", half)])), bank)


def cost(experiment: Experiment, last: dict[str, Any], spent: float, labelling: float) -> dict[str, float]:
    """Take a run's cost apart, in core-seconds.

    - last: its last report
    - spent: by the process that trained it, which made its rows as well unless they were there
    - labelling: what the teacher takes for all real rows
    - returns: those of the student, those of the teacher for the rows that are made for the run, and the run's share of
      the latter: they are made once for all trials of a sweep, unless they are explored for its student alone
    """
    teacher, saved = (last.get(name, 0.0) for name in ("teacher_seconds", "teacher_seconds_saved"))
    taken = last.get("rows_made", 0) + last.get("rows_found", 0)
    rows = min(taken, reused_rows(experiment) or taken)
    synthetic = (teacher + saved) / taken * rows if taken else 0.0
    changes = experiment.train.relabelled
    real = labelling * (changes.versions if changes is not None else 1)
    share = synthetic / (TRIALS if uses_bank(experiment) else 1) + real / TRIALS
    student = spent - teacher
    return {"student_s": student, "teacher_s": synthetic + real, "share_s": share, "core_s": student + share}


def summarise(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Summarise each method and length over seeds."""
    lines, parts = [], ("student_s", "teacher_s", "share_s", "core_s")
    for method, times in dict.fromkeys((each["method"], each["times"]) for each in results):
        runs = [each for each in results if (each["method"], each["times"]) == (method, times)]
        scores = {"validation": METRIC, "test": f"test_{METRIC}"}
        line = {split: mean_std([run["metrics"][name] for run in runs]) for split, name in scores.items()}
        spent = {name: mean_std([run[name] for run in runs]) for name in parts}
        lines.append({"method": method, "times": times, "seeds": len(runs), **line, **spent})
    return lines


def plot(record: dict[str, Any], path: Path) -> None:
    """Draw test accuracy against a run's core-seconds, with a line for each method over its lengths."""
    plot_all([record], path)


def plot_all(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the same of several records, in a part for each."""
    from matplotlib.figure import Figure

    across = 1 if len(records) == 1 else 2
    down = -(-len(records) // across)
    figure = Figure(figsize=(9 if across == 1 else 11, 1 + 3.5 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    methods_of = dict.fromkeys(line["method"] for record in records for line in record["summary"])
    colours = {method: f"C{number % 10}" for number, method in enumerate(methods_of)}
    handles: dict[str, Any] = {}
    for axes, record in zip(panels, records, strict=False):
        for method in dict.fromkeys(line["method"] for line in record["summary"]):
            lines = [line for line in record["summary"] if line["method"] == method]
            points = sorted(
                (line["core_s"]["mean"], line["test"]["mean"], line["test"]["std"] or 0.0) for line in lines
            )
            seconds, scores, spread = zip(*points, strict=True)
            style = {"linestyle": "--" if method.startswith("distillation") else "-", "color": colours[method]}
            handles[method] = axes.errorbar(seconds, scores, spread, marker="o", markersize=4, capsize=2, **style)
        methods.over_seconds(axes, "", record)
    for unused in panels[len(records) :]:
        unused.set_visible(False)
    figure.supxlabel(
        f"core-seconds of a run, with its share of the teacher's in a sweep of {TRIALS} trials", fontsize="medium"
    )
    figure.legend(handles.values(), handles, loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=120)


def show_all(args: argparse.Namespace) -> None:
    """Print several records, and draw them as one picture with --plot."""
    records = [json.loads(Path(file).read_text(encoding="utf-8")) for file in args.show.split(",")]
    print("\n\n".join(map(render, records)))
    if args.plot:
        plot_all(records, Path(args.plot))


def render(record: dict[str, Any]) -> str:
    """Write the record as text."""
    base, ceiling = record["base"], methods.teacher_scores(record["teacher"])
    train = base["train"]
    head = [
        f"{methods.title(record)}: {train['steps']} steps of {train['batch_size']} rows, and multiples of it; synthetic"
        f" ratio {train['synthetic_ratio']:g}; banks of {record['bank_rows']:,} rows",
        record["teacher_has_seen"],
        f"balanced accuracy on test in percent, mean ± standard deviation over up to {len(record['seeds'])} seeds;"
        f" {record['command']}",
        f"core-s: of the student, and its share of the teacher's in a sweep of {TRIALS} trials",
        hardware(record["environment"]),
        *other_commits(record["results"], record["environment"]),
    ]
    rows = [["method", "steps", "validation", "test", "core-s", "student", "teacher's share", "seeds"]]
    rows += [
        [
            line["method"],
            f"x {line['times']}",
            plus_minus(line["validation"]),
            plus_minus(line["test"]),
            *(number(line[name]["mean"], 1) for name in ("core_s", "student_s", "share_s")),
            str(line["seeds"]),
        ]
        for line in record["summary"]
    ]
    rows.append(["teacher (labeler)", "", number(ceiling["validation"]), number(ceiling["test"]), *[""] * 4])
    return "\n".join(head) + "\n\n" + aligned(rows)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Prepare the teacher, train all students, and give the record."""
    from tgt_ray.training.local import prepare_local

    base = validate(Experiment, apply_sets(base_experiment(args.data), args.sets))
    storage, made_on = Storage(args.storage), environment()
    data = base.task.load(storage)
    shift = max(1, data.input_shape[-1] // PIXELS)
    experiments = {
        f"{method} x {times}": schedule(base, method, times, args.rows, shift, args.flip)
        for times in args.times
        for method in args.methods or METHODS["text" if base.task.modality == "text" else "image"]
        if times <= args.most_explored or not method.startswith("gradient")
    }
    changes = [how for each in experiments.values() if (how := each.train.relabelled) is not None]
    first = next((each for each in (base, *experiments.values()) if each.uses_generator), base)
    objectives = [each.objective for each in experiments.values()]
    prepared = prepare_local(first, data, storage, objectives, changes=changes)
    seeds = list(range(args.seeds))
    results = methods.run_all(
        *(base, experiments, seeds, prepared, storage, args, made_on), kind="schedule-", start=start_worker, run=run_one
    )
    for each in results:
        each["method"], _, times = each["method"].rpartition(" x ")
        each["times"] = int(times)
    config, rows = base.model_dump(mode="json"), row_counts(data)
    return {
        "kind": "benchmark schedules",
        "command": command("schedules.py"),
        "data": data_name(args.data),
        "seeds": seeds,
        "bank_rows": args.rows,
        "trials": TRIALS,
        "jobs": args.jobs,
        "torch_threads": 1,
        "teacher_has_seen": what_was_seen(config, rows),
        "rows": rows,
        "metric": METRIC,
        "fingerprints": prepared.fingerprints,
        "teacher": prepared.teacher,
        "base": config,
        "methods": {name: each.model_dump(mode="json") for name, each in experiments.items()},
        "environment": made_on,
        "results": results,
        "summary": summarise(results),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    run_options(parser, "test accuracy against processor seconds")
    parser.add_argument(
        "--times",
        type=lambda text: [at_least_one(each) for each in text.split(",")],
        default=[1, 3, 6, 12],
        metavar="N,N",
        help="how many times the steps of the experiment",
    )
    parser.add_argument("--rows", type=at_least_one, default=64000, help="of a bank, which longer runs use again")
    parser.add_argument(
        "--most-explored",
        type=at_least_one,
        default=12,
        metavar="N",
        help="longest schedule of gradient, which takes fresh rows throughout",
    )
    parser.add_argument("--flip", action="store_true", help="images may be mirrored, where a method changes them")
    parser.add_argument(
        "--methods", type=lambda text: text.split(","), default=[], metavar="A,B", help="these methods alone"
    )
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    if args.show and "," in args.show:
        show_all(args)
    else:
        show_or_measure(args, "schedules", measure, render, plot)


if __name__ == "__main__":
    main(lambda: run(parse()))
