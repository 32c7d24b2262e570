"""Measure the accuracy with synthetic rows against the labeler's agreement with itself on reconstructions.

python benchmarks/agreement.py --data digits|FOLDER [--steps 10,30,100] [--method random] [--seeds 5]
    [--storage DIR] [--out FILE.json] [--plot FILE.png] [--jobs N] [--set KEY=VALUE ...]
python benchmarks/agreement.py --show FILE.json [--plot FILE.png]

This shows how good a generator must be. Generators differ in their number of pretraining steps and in nothing else.
benchmarks/README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
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
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment

#: What synthetic rows are compared with; neither looks at the generator.
BARS = ("one_hot", "distillation")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Train a generator of each length and students with each, and give the record."""
    from tgt_ray.training.local import prepare_local

    plain = apply_sets(base_experiment(args.data), args.sets)
    base = validate(Experiment, plain)
    if not base.train.synthetic_ratio or base.fit_check.on_low == "skip":
        raise ConfigError("--set: give a train.synthetic_ratio above 0 and a fit_check.on_low other than skip")
    if base.teacher.generator.external:
        raise ConfigError("--set teacher.generator: leave out its weights; it is trained here for several lengths")
    storage, made_on = Storage(args.storage), environment()
    data = base.task.load(storage)
    seeds, points = list(range(args.seeds)), []
    for steps in args.steps:
        sets = [f"teacher.generator.pretrain.steps={steps}", "teacher.generator.pretrain.agreement=null"]
        experiment = methods.method_experiment(validate(Experiment, apply_sets(plain, sets)), args.method)
        print(f"generator of {steps} steps: pretraining it, unless the storage has it", flush=True)
        prepared = prepare_local(experiment, data, storage)
        wanted = {args.method: experiment}
        if not points:
            wanted |= {name: methods.method_experiment(base, name) for name in BARS}
        results = methods.run_all(experiment, wanted, seeds, prepared, storage, args, made_on)
        if not points:
            bars = {name: _score(results, name) for name in BARS}
        points.append(
            {
                "steps": steps,
                "fit_check": prepared.teacher["fit_check"],
                "generator": prepared.teacher["generator"]["identity"],
                "results": results,
                "test": _score(results, args.method),
            }
        )
    return {
        "kind": "benchmark agreement",
        "command": command("agreement.py"),
        "data": data_name(args.data),
        "method": args.method,
        "seeds": seeds,
        "teacher_has_seen": what_was_seen(base.model_dump(mode="json"), row_counts(data)),
        "base": base.model_dump(mode="json"),
        "labeler": prepared.teacher["labeler"],
        "environment": made_on,
        "bars": bars,
        "points": points,
    }


def _score(results: list[dict[str, Any]], method: str) -> dict[str, Any]:
    return mean_std([result["metrics"][f"test_{METRIC}"] for result in results if result["method"] == method])


def render(record: dict[str, Any]) -> str:
    """Write the record as text: what was run, then one line for each generator."""
    train, seeds = record["base"]["train"], ", ".join(map(str, record["seeds"]))
    head = [
        f"{record['data']}: {record['method']} with generators trained for different lengths; {train['steps']} steps of"
        f" {train['batch_size']} rows, synthetic ratio {train['synthetic_ratio']:g}; seeds {seeds}",
        record["teacher_has_seen"],
        f"balanced accuracy on test in percent, mean ± standard deviation over seeds; {record['command']}",
        hardware(record["environment"]),
        *other_commits([each for point in record["points"] for each in point["results"]], record["environment"]),
    ]
    rows = [
        [
            "generator",
            "agreement: reconstructions",
            "explored rows",
            "squared error",
            record["method"],
            "- distillation",
        ]
    ]
    bar = record["bars"]["distillation"]["mean"]
    for point in record["points"]:
        check = point["fit_check"]
        rows.append(
            [
                f"{point['steps']} steps",
                f"{check['agreement_reconstructed']:.1f} %",
                f"{check['agreement_explored']:.1f} %",
                f"{check['reconstruction_mse']:.4f}",
                plus_minus(point["test"]),
                f"{point['test']['mean'] - bar:+.2f}",
            ]
        )
    for name, score in record["bars"].items():
        rows.append([name, "", "", "", plus_minus(score), ""])
    ceiling = methods.teacher_scores({"labeler": record["labeler"]})["test"]
    rows.append(["teacher (labeler)", "", "", "", number(ceiling), ""])
    return "\n".join(head) + "\n\n" + aligned(rows)


def plot(record: dict[str, Any], path: Path) -> None:
    """Draw test accuracy against agreement."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    agreement = [point["fit_check"]["agreement_reconstructed"] for point in record["points"]]
    scores = [point["test"] for point in record["points"]]
    axes.errorbar(
        agreement,
        [score["mean"] for score in scores],
        [score["std"] or 0.0 for score in scores],
        marker="o",
        capsize=2,
        label=record["method"],
    )
    for (name, score), style in zip(record["bars"].items(), (":", "--"), strict=True):
        axes.axhline(score["mean"], color="black", linewidth=0.8, linestyle=style, label=name)
    axes.set(
        xlabel="labeler's agreement with itself on reconstructions, %",
        ylabel="test balanced accuracy, %",
        title=record["data"],
    )
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def whole_numbers(text: str) -> list[int]:
    return [at_least_one(part) for part in text.split(",")]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    run_options(parser, "accuracy against agreement")
    parser.add_argument(
        "--steps", type=whole_numbers, default=[10, 25, 50, 100, 200, 800], help="pretraining steps of the generators"
    )
    parser.add_argument("--method", default="random", choices=methods.EXPLORERS, help="how synthetic rows are made")
    return parser.parse_args()


if __name__ == "__main__":
    main(lambda: show_or_measure(parse(), "agreement", measure, render, plot))
