"""Compare methods over several seeds, at equal student steps or at equal compute.

python benchmarks/methods.py --data digits|FOLDER [--seeds 5] [--storage DIR] [--out FILE.json] [--jobs N]
    [--set KEY=VALUE ...]
python benchmarks/methods.py --show FILE.json [--plot FILE.png]

Methods are one-hot training, long-tail baselines, distillation, and four ways to make synthetic rows. Each run does
what `python -m tgt_ray.train --local` does. benchmarks/README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from common import (
    METRIC,
    aligned,
    apply_sets,
    base_experiment,
    command,
    data_name,
    hardware,
    main,
    mean_std,
    number,
    other_commits,
    plus_minus,
    portable,
    row_counts,
    run_options,
    short_commit,
    show_or_measure,
    what_was_seen,
)

from tgt_ray.core import records
from tgt_ray.core.config import validate
from tgt_ray.core.environment import environment
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.memory import keep_freed_memory
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.controls import CONTROLS, control
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives import LELP, Consistency, Objective
from tgt_ray.tasks import with_calibration
from tgt_ray.teacher.explorers import (
    Augment,
    Compose,
    Explorer,
    Gradient,
    InputChanges,
    Interpolation,
    Random,
    RandomMatched,
)
from tgt_ray.teacher.transfer_set import Prepared

EXPLORERS: dict[str, type[Explorer]] = {
    "random": Random,
    "random-matched": RandomMatched,
    "gradient": Gradient,
    "interpolation": Interpolation,
    # Without a generator: anchors are changed and mixed (function matching); `compose` does so with rows of `random`.
    "augment": Augment,
    "compose": Compose,
    # For generators of texts: masked tokens are filled in, without noise on the latents.
    "masking": Random,
}
#: What each long-tail baseline changes in an experiment.
BASELINES: dict[str, dict[str, Any]] = {
    "balanced-sampling": {"train.sampling": "balanced"},
    "logit-adjustment": {"objective.label_loss": {"type": "logit_adjusted"}},
    "posthoc-adjustment": {"objective.posthoc_adjustment": 1.0},
    "ldam-drw": {"objective.label_loss": {"type": "ldam"}},
    "crt": {"train.second_phase": {"type": "crt"}},
    "lws": {"train.second_phase": {"type": "lws"}},
    "mixup": {"train.augment": {"mixup": 0.2}},
    "randaugment": {"train.augment": {"randaugment": "rand-m9-mstd0.5", "flip": True, "shift": 4}},
}
#: The same, and shifted real rows with what the teacher says of them before they are shifted, or of what the student
#: sees.
CHANGES: dict[str, dict[str, Any]] = {
    **BASELINES,
    "shift": {"train.augment": {"shift": 1}},
    "consistent": {"train.augment": {"shift": 1, "consistent": True}},
}
#: Objectives other than distillation; they follow a `+` as well: `distillation + lelp` is LELP without synthetic rows.
OBJECTIVES: dict[str, type[Objective]] = {"lelp": LELP, "consistency": Consistency}
SUITES: dict[str, tuple[str, ...]] = {
    "explorers": ("one_hot", "distillation", "random", "random-matched", "gradient", "interpolation"),
    # Baselines stand on one-hot training; `a + b` is method a with baseline b.
    "long-tail": (
        "one_hot",
        *(f"one_hot + {name}" for name in BASELINES),
        "distillation",
        "random",
        "gradient",
        *(f"gradient + {name}" for name in ("balanced-sampling", "logit-adjustment")),
    ),
    # Ways to use the teacher on changed inputs.
    "matching": (
        "one_hot",
        "distillation",
        "distillation + shift",
        "distillation + consistent",
        "random",
        "gradient",
        "augment",
        "compose",
    ),
    "text": (
        "one_hot",
        "masking + consistency",
        "distillation",
        "distillation + lelp",
        "anchors",
        "masking",
        "random",
        "random + lelp",
    ),
    # `a x N` is method a with N times the steps: what cheaper methods reach in the time of gradient exploration.
    "compute": (
        "one_hot",
        *(
            f"{name} x {times}"
            for name in ("one_hot", "one_hot + balanced-sampling", "distillation")
            for times in (4, 12)
        ),
        "distillation",
        "random",
        "random x 3",
        "gradient",
    ),
}

#: The folder of the storage that keeps finished runs.
RUNS = "benchmark_runs"
#: What every run shares. Each worker process gets it once, since the tables are large.
_shared: dict[str, Any] = {}


def method_experiment(base: Experiment, method: str) -> Experiment:
    """Make the experiment of a method from the base experiment.

    Another explorer keeps the settings that it shares with the base's (sigma, step size, anchors). The step size of
    changed inputs is a strength, and not a length in latent space, so that one is not kept.
    """
    method, _, times = method.partition(" x ")
    if times:
        plain = method_experiment(base, method)
        if not times.isdecimal() or int(times) < 1:
            raise ConfigError(f"--methods: '{method} x {times}'; ' x ' is followed by a whole number, at least 1")
        # As many evaluations as before: they cost time as well.
        longer = {key: getattr(plain.train, key) * int(times) for key in ("steps", "eval_every")}
        return plain.model_copy(update={"train": plain.train.model_copy(update=longer)})
    method, plus, baseline = method.partition(" + ")
    if method not in (*CONTROLS, *EXPLORERS) or (plus and baseline not in (*CHANGES, *OBJECTIVES)):
        raise ConfigError(
            f"--methods: '{method}{plus}{baseline}'; legal are {', '.join((*CONTROLS, *EXPLORERS))}, each optionally"
            f" followed by ' + ' and one of {', '.join((*CHANGES, *OBJECTIVES))}, and by ' x ' and how many times"
            " the steps"
        )
    if baseline in OBJECTIVES:
        data = method_experiment(base, method).model_dump(mode="json")
        shared = {key: value for key, value in data["objective"].items() if key in OBJECTIVES[baseline].model_fields}
        return Experiment.model_validate({**data, "objective": {**shared, "type": baseline}})
    if baseline:
        plain = method_experiment(base, method)
        changes = dict(CHANGES[baseline])
        if "objective.label_loss" in changes and plain.objective.model_dump().get("alpha") == 1:
            changes["objective.alpha"] = 0.5  # at 1 the label loss has no effect
        return Experiment.model_validate(with_overrides(plain.model_dump(mode="json"), list(changes.items())))
    if method in CONTROLS:
        return control(base, method)
    cls = EXPLORERS[method]
    kept = {k: v for k, v in base.explorer.model_dump(mode="json").items() if k in cls.model_fields and k != "type"}
    data = base.model_dump(mode="json")
    if issubclass(cls, InputChanges) and not isinstance(base.explorer, InputChanges):
        kept.pop("step_size", None)
    if method == "masking":
        kept["sigma"] = 0.0
    return Experiment.model_validate({**data, "explorer": {"type": cls.model_fields["type"].default, **kept}})


def with_seed(experiment: Experiment, seed: int) -> Experiment:
    train = experiment.train.model_copy(update={"seed": seed})
    return experiment.model_copy(update={"train": train})


def start_worker(base: Experiment, prepared: Prepared, storage: Storage) -> None:
    """Set up a worker process."""
    import torch

    from tgt_ray.training.local import train_local

    # Every worker has one thread whatever --jobs is: core-seconds are comparable, and rows are summed in one order.
    torch.set_num_threads(1)
    keep_freed_memory()  # as the package's own processes do
    _shared.update(prepared=prepared, storage=storage)
    # One step that no method is charged for: the first use of torch's optimizers costs seconds.
    train = base.train.model_copy(update={"steps": 1})
    train_local(base.model_copy(update={"train": train}), prepared, storage)


def run_one(method: str, experiment: Experiment, made: dict[str, Any]) -> dict[str, Any]:
    """Train one student in this process.

    - made: the commit and the machine, for the record
    - returns: the metrics on both splits, and what the run cost in seconds
    """
    from tgt_ray.training.local import train_local

    cpu, wall = time.process_time(), time.perf_counter()
    prepared, storage = _shared["prepared"], _shared["storage"]
    run = train_local(experiment, prepared, storage)
    spent = {"core_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    return {
        "method": method,
        "seed": experiment.train.seed,
        **made,
        **spent,
        "student_parameters": sum(p.numel() for p in run.student.parameters()),
        "metrics": run.history[-1],
    }


def run_all(
    base: Experiment,
    experiments: dict[str, Experiment],
    seeds: list[int],
    prepared: Prepared,
    storage: Storage,
    args: argparse.Namespace,
    environment: dict[str, Any],
    metric: str = METRIC,
    kind: str = "",
    start: Callable[..., None] | None = None,
    run: Callable[..., dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Run every method with every seed in --jobs processes.

    Each finished run is kept in the storage; with --resume those of the same experiment and teacher are taken from
    there, and from the record that it names, with the commit that made them.

    - metric: shown as runs finish
    - kind: what the names of kept runs begin with, where `run` does something else with an experiment
    - start, run: in place of `start_worker` and `run_one`
    - returns: results in the order of methods and seeds
    """
    # Runs go seed by seed, so that an interrupted benchmark has all methods on the same seeds.
    wanted = [(method, with_seed(each, seed)) for seed in seeds for method, each in experiments.items()]
    if isinstance(args.resume, str):
        keep_runs_of(args.resume, storage, kind)
    results, missing = [], []
    for method, experiment in wanted:
        file = f"{kind}{run_name(experiment, prepared.fingerprints)}.json"
        if args.resume and storage.exists(RUNS, file):
            results.append({**records.read_json(storage, RUNS, file), "method": method})
        else:
            missing.append((method, experiment, file))
    if results:
        commits = sorted({short_commit(result["commit"]) for result in results})
        print(f"{len(results)}/{len(wanted)} runs taken from {storage.path(RUNS)}, of {', '.join(commits)}", flush=True)
    if missing:
        made = {"commit": environment["commit"], "cpu": environment["hardware"]["cpu"], "jobs": args.jobs}
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.jobs, context, start or start_worker, (base, prepared, storage)) as pool:
            futures = {pool.submit(run or run_one, method, each, made): file for method, each, file in missing}
            for future in as_completed(futures):
                results.append(future.result())
                records.write_json(storage, results[-1], RUNS, futures[future])
                print(_progress(results[-1], len(results), len(wanted), metric), flush=True)
    order = list(experiments)
    return sorted(results, key=lambda result: (order.index(result["method"]), result["seed"]))


def keep_runs_of(file: str, storage: Storage, kind: str) -> None:
    """Keep a record's runs in the storage, as if they had been made there.

    They serve this benchmark as far as experiment, data and teacher are the same, to the last byte.

    - raises ConfigError: if it's no record of such runs
    """
    try:
        record = json.loads(Path(file).read_text(encoding="utf-8"))
        experiments = {name: validate(Experiment, each) for name, each in record["methods"].items()}
        for result in record["results"]:
            times = f" x {result['times']}" if "times" in result else ""
            experiment = with_seed(experiments[result["method"] + times], result["seed"])
            records.write_json(storage, result, RUNS, f"{kind}{run_name(experiment, record['fingerprints'])}.json")
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ConfigError(f"--resume: {file} is no record of methods.py or schedules.py: {err}") from err


def run_name(experiment: Experiment, fingerprints: dict[str, Any]) -> str:
    """Name a run in the storage by its experiment with its seed, its data and its teacher.

    Where files lay doesn't count: fingerprints say what was in them.
    """
    # What anchors are to the last bit follows from the others, as far as results are compared.
    made_from = {name: value for name, value in fingerprints.items() if name != "anchors"}
    return digest(portable(experiment.model_dump(mode="json")), made_from)


def _progress(result: dict[str, Any], done: int, total: int, metric: str) -> str:
    score = result["metrics"][f"test_{metric}"]
    cost = f"{result['core_s']:.1f} core-seconds"
    return f"{done}/{total}  {result['method']}, seed {result['seed']}: test {score:.2f} in {cost}"


def teacher_scores(teacher: dict[str, Any]) -> dict[str, float | None]:
    """Give the labeler's own score on each split; None where its weights were given and never measured."""
    quality = teacher["labeler"].get("quality", {})
    return {split: quality.get(split, {}).get(METRIC) for split in ("validation", "test")}


def summarise(results: list[dict[str, Any]], teacher: dict[str, Any]) -> dict[str, Any]:
    """Summarise each method: mean and standard deviation over seeds, and the share of the gap that it closes.

    The gap goes from one-hot to the teacher; the share is None unless one-hot is among the methods.
    """
    ceiling = teacher_scores(teacher)
    names = {"validation": METRIC, "test": f"test_{METRIC}"}
    out: dict[str, Any] = {}
    # One-hot comes first, since the gap of the others starts there.
    for method in sorted(dict.fromkeys(result["method"] for result in results), key=lambda name: name != "one_hot"):
        runs = [result for result in results if result["method"] == method]
        scores = {split: mean_std([run["metrics"][name] for run in runs]) for split, name in names.items()}
        floor = scores if method == "one_hot" else out.get("one_hot")
        out[method] = {
            **scores,
            "gap_closed": {
                split: gap_closed(scores[split]["mean"], floor[split]["mean"], ceiling[split]) if floor else None
                for split in names
            },
            "core_s": mean_std([run["core_s"] for run in runs]),
            "student_parameters": runs[0]["student_parameters"],
        }
    return out


def plot(record: dict[str, Any], path: Path) -> None:
    """Draw test accuracy against processor seconds of a run, with a line for each method over its numbers of steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    methods = list(record["summary"])
    for name in dict.fromkeys(method.partition(" x ")[0] for method in methods):
        lines = sorted(
            (line["core_s"]["mean"], line["test"]["mean"], line["test"]["std"] or 0.0)
            for method, line in record["summary"].items()
            if method.partition(" x ")[0] == name
        )
        seconds, scores, spread = zip(*lines, strict=True)
        axes.errorbar(seconds, scores, spread, marker="o", markersize=4, capsize=2, label=name)
    ceiling = teacher_scores(record["teacher"])["test"]
    if ceiling is not None:
        axes.axhline(ceiling, color="black", linewidth=0.8, linestyle=":", label="teacher")
    over_seconds(axes, "processor seconds of a run", record)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def over_seconds(axes: Any, label: str, record: dict[str, Any]) -> None:
    """Name the axes of accuracy over seconds, and space the seconds by their logarithm."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set(xscale="log", xlabel=label, ylabel="test balanced accuracy, %", title=title(record))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def title(record: dict[str, Any]) -> str:
    """Name a record's data."""
    tail = record["base"]["task"]["long_tail"]
    return f"{record['data']}, " + (f"imbalance {tail['imbalance']:g}" if tail else "all rows")


def gap_closed(score: float, floor: float, ceiling: float | None) -> float | None:
    """Compute the percent of the way from `floor` to `ceiling`; None where the ceiling is unknown or not above."""
    return None if ceiling is None or ceiling <= floor else 100 * (score - floor) / (ceiling - floor)


def render(record: dict[str, Any]) -> str:
    """Write the record as text: what was run, on what, then one line for each method."""
    base, teacher, ceiling = record["base"], record["teacher"], teacher_scores(record["teacher"])
    train, tail = base["train"], base["task"]["long_tail"]
    fidelity = (teacher["generator"] or {}).get("quality", {}).get("validation", {})
    head = [
        f"{record['data']}, long tail {tail['head']} down to {tail['head'] / tail['imbalance']:g} a class"
        if tail
        else f"{record['data']}, {record['rows']['train']} labelled rows",
        f"{train['steps']} steps of {train['batch_size']} rows each, synthetic ratio {train['synthetic_ratio']:g}"
        f" where rows are made; seeds {', '.join(map(str, record['seeds']))}; test measured once, after the last step",
        record["teacher_has_seen"],
        f"labeler {record['fingerprints']['labeler']}, generator {record['fingerprints']['generator']}"
        f" (labeler agrees with itself on {number(fidelity.get('labeler_agreement'), 1)} % of reconstructions)",
        f"balanced accuracy in percent, mean ± standard deviation over seeds; {record['command']}",
        hardware(record["environment"]),
        *other_commits(record["results"], record["environment"]),
    ]
    columns = ["method", "validation", "test", "gap closed", "core-s a run", "parameters"]
    rows = [columns, *(_row(method, line) for method, line in record["summary"].items())]
    rows.append(["teacher (labeler)", number(ceiling["validation"]), number(ceiling["test"]), "100 %", "", ""])
    return "\n".join(head) + "\n\n" + aligned(rows)


def _row(method: str, line: dict[str, Any]) -> list[str]:
    gap = line["gap_closed"]["test"]
    return [
        method,
        plus_minus(line["validation"]),
        plus_minus(line["test"]),
        "-" if gap is None else f"{gap:.0f} %",
        plus_minus(line["core_s"], 1),
        f"{line['student_parameters']:,}",
    ]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Prepare the teacher, run every method, and give the record."""
    from tgt_ray.training.local import prepare_local

    base = validate(Experiment, apply_sets(base_experiment(args.data), args.sets))
    methods = args.methods.split(",") if args.methods else SUITES[args.suite]
    experiments = {method: method_experiment(base, method) for method in methods}
    storage = Storage(args.storage)
    objectives = [each.objective for each in experiments.values()]
    data = with_calibration(base.task, base.task.load(storage), max(each.calibration_rows for each in objectives))
    made_on = environment()  # read now, since the checkout may change while this runs
    print("teacher: pretraining it, unless the storage has it", flush=True)
    unchanged = any(each.explorer.unchanged for each in experiments.values())
    changes = [how for each in experiments.values() if (how := each.train.relabelled) is not None]
    # A generator is made where the experiment needs one.
    first = next((each for each in (base, *experiments.values()) if each.uses_generator), base)
    prepared = prepare_local(first, data, storage, objectives, unchanged, changes=changes)
    seeds = list(range(args.seeds))
    results = run_all(base, experiments, seeds, prepared, storage, args, made_on)
    config, rows = base.model_dump(mode="json"), row_counts(data)
    return {
        "kind": "benchmark methods",
        "command": command("methods.py"),
        "data": data_name(args.data),
        "seeds": seeds,
        "jobs": args.jobs,
        "torch_threads": 1,
        "teacher_has_seen": what_was_seen(config, rows),
        "rows": rows,
        "metric": METRIC,
        "fingerprints": prepared.fingerprints,
        "teacher": prepared.teacher,
        "base": config,
        "methods": {name: experiment.model_dump(mode="json") for name, experiment in experiments.items()},
        "environment": made_on,
        "results": results,
        "summary": summarise(results, prepared.teacher),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    run_options(parser, "test accuracy against processor seconds")
    parser.add_argument("--suite", choices=SUITES, default="explorers", help="which methods to compare")
    parser.add_argument(
        "--methods",
        metavar="A,B",
        help="these methods instead; `a + b` is method a with baseline or objective b, `a x 4` with 4 times the steps",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main(lambda: show_or_measure(parse(), "methods", measure, render, plot))
