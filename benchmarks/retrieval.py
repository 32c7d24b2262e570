"""Compare ways to train a compact query encoder, over several seeds and numbers of labelled queries.

python benchmarks/retrieval.py --data FOLDER [--labelled 50,200,all] [--seeds 5] [--storage DIR] [--out FILE.json]
    [--jobs N] [--set KEY=VALUE ...]
python benchmarks/retrieval.py --show FILE.json [--plot FILE.png]

All take equally many student steps: labels alone, distillation of scores, EmbedDistill, and both of these with
synthetic queries, which are perturbed queries or spans of documents. Each run does what
`python -m tgt_ray.train --local` does.
benchmarks/README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

from common import (
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
    row_counts,
    run_options,
    show_or_measure,
)
from methods import run_all

from tgt_ray.core.config import validate
from tgt_ray.core.environment import environment
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.controls import CONTROLS, control
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.transfer_set import Prepared

#: What each method changes in the experiment, which is EmbedDistill with perturbed queries. Controls are made by name.
SCORES_ALONE = {"objective.embedding_weight": 0.0}
SPANS = {"teacher.generator": {"type": "spans"}}
METHODS: dict[str, dict[str, Any]] = {
    "one_hot": {},
    "distillation": {},
    "embed-distill": {"explorer": {"type": "none"}},
    "random": SCORES_ALONE,
    "random + embed-distill": {},
    # Trains on the unchanged queries with the teacher's outputs, including those without answers.
    "anchors + embed-distill": {"explorer": {"type": "identity"}},
    "spans": {**SPANS, **SCORES_ALONE},
    "spans + embed-distill": SPANS,
    # The student embeds documents as well, which are longer than queries.
    "spans + embed-distill + own documents": {
        **SPANS,
        "objective.document_encoder": "student",
        "student.max_tokens": 128,
    },
}
SHOWN = ("ndcg_at_10", "recall_at_20", "recall_at_100")
#: For queries per second: how many are encoded at once, and how often each model is timed.
AT_ONCE, LAPS = 64, 7


def method_experiment(base: Experiment, method: str) -> Experiment:
    if method in CONTROLS:
        return control(base, method)
    return Experiment.model_validate(with_overrides(base.model_dump(mode="json"), list(METHODS[method].items())))


def speeds(base: Experiment, prepared: Prepared, storage: Storage) -> dict[str, Any]:
    """Measure how many test queries a second teacher and student encode, and count their parameters.

    They take turns in this process, with one thread.
    """
    import torch

    from tgt_ray.tasks import inputs_of
    from tgt_ray.teacher.store import load_teacher
    from tgt_ray.training.student import build_student

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = prepared.student
    teacher = load_teacher(base.teacher, prepared.teacher, data.spec, data.num_classes, storage).labeler
    student = build_student(base, data).eval()
    encoders = {
        "teacher": teacher.backbone,
        "student": lambda rows: student.criterion.embed(student.backbone(rows)),
    }
    inputs = inputs_of(base.task, data.tables["test"].slice(0, 8 * AT_ONCE), data.input_shape)
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    with torch.no_grad():
        for _ in range(LAPS):
            for name, encode in encoders.items():
                started = time.perf_counter()
                for part in inputs.split(AT_ONCE):
                    encode(part)
                seconds[name].append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    sizes = {
        "teacher": sum(p.numel() for p in teacher.backbone.parameters()),
        "student": sum(p.numel() for p in student.parameters()),
    }
    return {
        name: {"queries_per_second": len(inputs) / median(taken), "parameters": sizes[name]}
        for name, taken in seconds.items()
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run every method with every number of labelled queries, and give the record."""
    from tgt_ray.training.local import prepare_local

    plain = apply_sets(base_experiment(args.data), args.sets)
    methods = args.methods.split(",") if args.methods else list(METHODS)
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise ConfigError(f"--methods: '{unknown[0]}'; legal are {', '.join(METHODS)}")
    storage, made_on = Storage(args.storage), environment()
    seeds, parts, found = list(range(args.seeds)), [], None
    for labelled in args.labelled.split(","):
        if labelled != "all" and not labelled.isdecimal():
            raise ConfigError(f"--labelled: '{labelled}'; give numbers of queries, or all")
        few = None if labelled == "all" else {"rows": int(labelled), "seed": 0}
        base = validate(Experiment, with_overrides(plain, [("task.labelled", few)]))
        data = base.task.load(storage)
        results = []
        # Methods with the same generator share the prepared teacher.
        for spans in (False, True):
            mine = {each: method_experiment(base, each) for each in methods if each.startswith("spans") == spans}
            if mine:
                print(f"{labelled} labelled queries: {', '.join(mine)}", flush=True)
                first = next(iter(mine.values()))
                teacher_of = base if not spans else first
                # A generator is made where the experiment needs one.
                making = next((each for each in (teacher_of, *mine.values()) if each.uses_generator), teacher_of)
                prepared = prepare_local(making, data, storage, [each.objective for each in mine.values()])
                results += run_all(teacher_of, mine, seeds, prepared, storage, args, made_on, SHOWN[0])
                found = found or (teacher_of, prepared)
        results.sort(key=lambda result: methods.index(result["method"]))
        parts.append(
            {"labelled": labelled, "rows": row_counts(data), "results": results, "summary": summarise(results)}
        )
    assert found is not None
    base, prepared = found  # those of the first number of labelled queries
    return {
        "kind": "benchmark retrieval",
        "command": command("retrieval.py"),
        "data": data_name(args.data),
        "seeds": seeds,
        "jobs": args.jobs,
        "torch_threads": 1,
        "fingerprints": prepared.fingerprints,
        "teacher": prepared.teacher,
        "base": base.model_dump(mode="json"),
        "methods": {each: method_experiment(base, each).model_dump(mode="json") for each in methods},
        "environment": made_on,
        "speeds": speeds(base, prepared, storage),
        "parts": parts,
    }


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise each method by mean and standard deviation over seeds."""
    out = {}
    for method in dict.fromkeys(result["method"] for result in results):
        runs = [result for result in results if result["method"] == method]
        scores = {name: mean_std([run["metrics"][f"test_{name}"] for run in runs]) for name in SHOWN}
        out[method] = {**scores, "core_s": mean_std([run["core_s"] for run in runs])}
    return out


def render(record: dict[str, Any]) -> str:
    """Write the record as text: what was run, then one line for each method and number of labelled queries."""
    base, train, speed = record["base"], record["base"]["train"], record["speeds"]
    ceiling = record["teacher"]["labeler"]["quality"]["test"]
    share = speed["student"]["parameters"] / speed["teacher"]["parameters"]
    faster = speed["student"]["queries_per_second"] / speed["teacher"]["queries_per_second"]
    rows = record["parts"][-1]["rows"]
    spans = any(each["teacher"]["generator"]["type"] == "spans" for each in record["methods"].values())
    head = [
        f"{record['data']}: {rows['documents']} documents, {rows['full']} training and {rows['test']} test queries;"
        " the whole corpus is ranked",
        f"{train['steps']} steps of {train['batch_size']} rows each, synthetic ratio {train['synthetic_ratio']:g}"
        f" where rows are made; seeds {', '.join(map(str, record['seeds']))}; test measured once, after the last step",
        f"teacher {base['teacher']['labeler']['path']}, not trained here; queries without labels are anchors,"
        " and their documents what it finds"
        f"{'; `spans` are words of documents, since no trained query generator is at hand' if spans else ''}",
        f"student {speed['student']['parameters']:,} parameters, {100 * share:.1f} % of the teacher's; it encodes"
        f" {speed['student']['queries_per_second']:.0f} queries a second on one thread, {faster:.0f} times as many"
        " as the teacher",
        f"percent, mean ± standard deviation over seeds; {record['command']}",
        hardware(record["environment"]),
        *other_commits([each for part in record["parts"] for each in part["results"]], record["environment"]),
    ]
    columns = ["labelled", "method", *SHOWN, "of teacher's recall_at_100", "core-s a run"]
    lines = [columns]
    for part in record["parts"]:
        for method, line in part["summary"].items():
            kept = 100 * line["recall_at_100"]["mean"] / ceiling["recall_at_100"]
            lines.append(
                [
                    part["labelled"],
                    method,
                    *(plus_minus(line[name]) for name in SHOWN),
                    f"{kept:.1f} %",
                    plus_minus(line["core_s"], 1),
                ]
            )
    lines.append(["", "teacher", *(number(ceiling[name]) for name in SHOWN), "100 %", ""])
    return "\n".join(head) + "\n\n" + aligned(lines)


def plot(record: dict[str, Any], path: Path) -> None:
    """Draw test nDCG@10 against the number of labelled queries, with a line for each method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    counts = [str(part["rows"]["train"]) for part in record["parts"]]
    for method in record["parts"][0]["summary"]:
        lines = [part["summary"][method][SHOWN[0]] for part in record["parts"]]
        spread = [line["std"] or 0.0 for line in lines]
        axes.errorbar(
            counts, [line["mean"] for line in lines], spread, marker="o", markersize=4, capsize=2, label=method
        )
    ceiling = record["teacher"]["labeler"]["quality"]["test"][SHOWN[0]]
    axes.axhline(ceiling, color="black", linewidth=0.8, linestyle=":", label="teacher")
    axes.set(xlabel="labelled queries", ylabel="test nDCG@10, %", title=record["data"])
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run_options(parser, "nDCG against the number of labelled queries")
    parser.add_argument("--methods", help=f"comma-separated methods, of {', '.join(METHODS)} (default: all)")
    parser.add_argument("--labelled", default="50,200,all", help="numbers of labelled queries (default: 50,200,all)")
    return parser.parse_args()


if __name__ == "__main__":
    main(lambda: show_or_measure(parse(), "retrieval", measure, render, plot))
