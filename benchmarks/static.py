"""Compare students without layers, which begin with the teacher's words, with the package model2vec.

python benchmarks/static.py --data FOLDER [--dims 256,64] [--methods NAMES] [--seeds 3] [--storage DIR]
    [--out FILE.json] [--resume] [--set KEY=VALUE ...]
python benchmarks/static.py --show FILE.json

FOLDER is banking77 (classes), medquad or squad_sentences (documents). Each run does what
`python -m tgt_ray.train --local` does; model2vec is distilled from the same encoder that is the teacher. Measured are
the test split, what lies on the disk, and texts a second on one core, of all in turns.
benchmarks/README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    plus_minus,
    row_counts,
    run_options,
    show_or_measure,
)

from tgt_ray.core.config import validate
from tgt_ray.core.environment import environment, version
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.storage import Storage
from tgt_ray.entrypoints import api
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.inference.loading import load_student
from tgt_ray.inference.students import LoadedStudent
from tgt_ray.models.hub import place
from tgt_ray.models.optimise import threads
from tgt_ray.tasks import TaskData

#: What each method changes; the others of a task's block are those of its YAML file.
NO_ROWS = {"explorer": {"type": "none"}}
FEW_STEPS = {"train.steps": 1, "train.eval_every": 1, "train.learning_rate": 1e-30, "train.weight_decay": 0.0}
METHODS: dict[str, dict[str, Any]] = {
    "static, not trained": {**NO_ROWS, **FEW_STEPS},
    "static, labels alone": {**NO_ROWS, "objective.alpha": 0.0},
    "static, distillation": NO_ROWS,
    # Unlabelled texts as they are, with what the teacher says of them.
    "static, anchors": {"explorer": {"type": "identity"}},
    "static, own documents": {**NO_ROWS, "objective.document_encoder": "student"},
    "from scratch": NO_ROWS,
}
#: An untrained head says nothing of classes, and classes have no documents.
OF_DOCUMENTS = ("static, not trained", "static, own documents")
SHOWN = {True: ("ndcg_at_10", "recall_at_100"), False: ("accuracy", "balanced_accuracy")}
#: Texts at once, how many in all, and how often each model is timed.
AT_ONCE, TEXTS, LAPS = 64, 512, 7
#: Strengths of the linear head beside model2vec, of which the validation split chooses one; larger: less regularised.
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
#: A student's own files; the documents that it ranks are others.
STUDENT_FILES = ("student.safetensors", "student.json", "tokenizer.json")


def method_experiment(base: Experiment, method: str, dims: int, seed: int) -> Experiment:
    changes = {"train.seed": seed, **METHODS[method]}
    if method.startswith("static"):
        labeler = base.teacher.labeler.model_dump(mode="json")
        changes["student"] = {"type": "static", "path": labeler["path"], "dims": dims}
    return validate(Experiment, with_overrides(base.model_dump(mode="json"), list(changes.items())))


def train(config: Experiment, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train a student, or take it from the storage with --resume; return its test metrics and its folder."""
    storage = Storage(args.storage)
    if args.resume and storage.exists(name, "record.json"):
        record = json.loads(storage.read(name, "record.json"))
        if record["experiment"] != config.model_dump(mode="json"):
            raise ConfigError(f"--resume: {storage.where(name)} is of another experiment; leave --resume out")
    else:
        started = time.process_time()
        result = api.run(config, storage=args.storage, name=name, local=True)
        record = {**result.record, "core_s": time.process_time() - started}
    metrics = {key: value for key, value in record["result"].items() if key.startswith("test_")}
    return {"metrics": metrics, "folder": storage.within(name).root, "teacher": record["teacher"]["labeler"]}


def distilled(base: Experiment, dims: int, folder: Path) -> tuple[Any, float]:
    """Distil the teacher's encoder by model2vec, and keep it; returns it as opened again, and seconds."""
    try:
        from model2vec import StaticModel
        from model2vec.distill import distill
    except ImportError as err:
        raise ConfigError('model2vec isn\'t installed: pip install "model2vec[distill]"') from err
    started = time.perf_counter()
    path = place(base.teacher.labeler.model_dump()["path"])
    distill(path, pca_dims=dims, device="cpu").save_pretrained(folder)
    return StaticModel.from_pretrained(folder), time.perf_counter() - started


def theirs(base: Experiment, data: TaskData, dims: int, folder: Path) -> dict[str, Any]:
    """Measure model2vec: its plain embeddings of queries and documents, or a linear head on those of labelled texts."""
    import numpy as np
    import torch

    model, seconds = distilled(base, dims, folder)
    texts = data.tables["test"]["text"].to_pylist()
    if base.task.has_documents:
        documents = torch.from_numpy(model.encode(base.task.texts("documents", data.tables["documents"])[1]))  # type: ignore[index]
        said = (
            torch.nn.functional.normalize(torch.from_numpy(model.encode(texts)))
            @ torch.nn.functional.normalize(documents).T
        )
        call: Callable[[list[str]], Any] = model.encode
    else:
        from sklearn.linear_model import LogisticRegression

        rows = {
            split: (model.encode(data.tables[split]["text"].to_pylist()), data.labels(split))
            for split in ("train", "validation")
        }
        heads = [LogisticRegression(C=strength, max_iter=2000).fit(*rows["train"]) for strength in STRENGTHS]
        head = max(heads, key=lambda each: each.score(*rows["validation"]))
        said = torch.from_numpy(head.predict_log_proba(model.encode(texts)))
        np.save(folder / "head.npy", np.column_stack([head.coef_, head.intercept_]).astype(np.float32))

        def call(texts: list[str]) -> Any:
            return head.predict_log_proba(model.encode(texts))

    reduced = base.task.reducer(data.tables)(said.float()).numpy()
    metrics = base.task.evaluate(reduced, data.tables["test"], data.class_counts)
    return {
        "metrics": {f"test_{name}": value for name, value in metrics.items()},
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "seconds": seconds,
        "call": call,
    }


def caller(folder: str) -> Callable[[list[str]], Any]:
    student = load_student(folder)
    return student.scores if isinstance(student, LoadedStudent) else student.encode_queries


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process on one core: the tokenizers' threads as well."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    logging.disable(logging.WARNING)  # each call would say how many texts it cuts
    try:
        with threads(1):
            yield
    finally:
        logging.disable(logging.NOTSET)
        os.sched_setaffinity(0, cores)


def speeds(calls: dict[str, Callable[[list[str]], Any]], texts: list[str]) -> dict[str, float]:
    """Measure texts a processor second, `AT_ONCE` in a call; all take turns, and the median of the laps counts."""
    parts = [texts[first : first + AT_ONCE] for first in range(0, len(texts), AT_ONCE)]
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with one_core():
        for lap in range(LAPS + 1):
            for name, call in calls.items():
                started = time.process_time()  # other work on the machine doesn't count
                for part in parts:
                    call(part)
                if lap:  # the first one warms up
                    seconds[name].append(time.process_time() - started)
    return {name: len(texts) / median(taken) for name, taken in seconds.items()}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Train and measure all, and give the record."""
    made_on, name = environment(), data_name(args.data)
    base = validate(Experiment, apply_sets(base_experiment(args.data), args.sets))
    data, storage = base.task.load(Storage(args.storage)), Storage(args.storage)
    methods = _methods(args, base.task.has_documents)
    results, calls, teacher = [], dict[str, Callable[[list[str]], Any]](), None
    for dims in args.dims:
        for method in methods if dims == args.dims[0] else [each for each in methods if each.startswith("static")]:
            what = f"{method}, {dims}" if method.startswith("static") else method
            runs = []
            for seed in range(args.seeds):
                stem = f"static-{name}-{what.replace(', ', '-').replace(' ', '_')}-{seed}"
                runs.append(train(method_experiment(base, method, dims, seed), stem, args))
                print(f"{what}, seed {seed}: {runs[-1]['metrics']}", flush=True)
            folder, teacher = Storage(runs[0]["folder"]), runs[0]["teacher"]
            size = sum(len(folder.read(each)) for each in STUDENT_FILES if folder.exists(each))
            results.append({"method": what, "metrics": [each["metrics"] for each in runs], "bytes": size})
            if "not trained" not in method:
                calls[what] = caller(folder.root)
        found = theirs(base, data, dims, Path(storage.path(f"static-{name}-model2vec-{dims}")))
        calls[f"model2vec, {dims}"] = found.pop("call")
        results.append({**found, "method": f"model2vec, {dims}", "metrics": [found["metrics"]]})
    texts = data.tables["test"]["text"].to_pylist()[:TEXTS]
    return {
        "kind": "benchmark static",
        "command": command("static.py"),
        "data": name,
        "seeds": list(range(args.seeds)),
        "dims": args.dims,
        "rows": row_counts(data),
        "base": base.model_dump(mode="json"),
        "methods": {each: method_experiment(base, each, args.dims[0], 0).model_dump(mode="json") for each in methods},
        "teacher": teacher,
        "model2vec": version("model2vec"),
        "environment": made_on,
        "texts_timed": len(texts),
        "load": os.getloadavg(),
        "speeds": speeds({**calls, "teacher": _teacher(base, teacher)}, texts),
        "results": results,
    }


def _methods(args: argparse.Namespace, documents: bool) -> list[str]:
    chosen = args.methods or [each for each in METHODS if documents or each not in OF_DOCUMENTS]
    for each in chosen:
        if each not in METHODS or (each in OF_DOCUMENTS and not documents):
            raise ConfigError(f"--methods: '{each}'; legal here: {'; '.join(METHODS)}")
    return list(chosen)


def _teacher(base: Experiment, record: Any) -> Callable[[list[str]], Any]:
    """Return what embeds texts as the teacher does, with its tokenizer."""
    import torch

    from tgt_ray.core.batch import InputSpec
    from tgt_ray.core.texts import to_bytes

    spec = InputSpec((base.task.max_bytes,))  # type: ignore[attr-defined]
    labeler: Any = base.teacher.labeler
    backbone = labeler.backbone(spec, "teacher.labeler").eval()
    labeler.load_body(backbone, "teacher.labeler")

    @torch.no_grad()
    def call(texts: list[str]) -> Any:
        return backbone(torch.from_numpy(to_bytes(texts, spec.shape[0])))

    return call


def render(record: dict[str, Any]) -> str:
    """Write the record as text."""
    base, rows = record["base"], record["rows"]
    shown = SHOWN[base["task"]["type"] == "retrieval"]
    labelled = f"{rows['train']} training texts with labels" + (
        f", {rows['unlabelled']} without" if "unlabelled" in rows else ""
    )
    ceiling = record["teacher"]["quality"]["test"]
    head = [
        f"{record['data']}: {labelled}, {rows['test']} test texts"
        + (f", {rows['documents']} documents" if "documents" in rows else ""),
        f"teacher {base['teacher']['labeler']['path']}; model2vec {record['model2vec']} is distilled from the same",
        f"{base['train']['steps']} steps of {base['train']['batch_size']} rows; seeds"
        f" {', '.join(map(str, record['seeds']))}; percent, mean ± standard deviation; {record['command']}",
        f"texts a processor second on one core, {AT_ONCE} at once, with their tokenizers; load {record['load'][0]:.1f}",
        hardware(record["environment"]),
    ]
    lines = [["method", *shown, "MB on disk", "texts a second"]]
    for each in record["results"]:
        speed = record["speeds"].get(each["method"])
        lines.append(
            [
                each["method"],
                *(plus_minus(mean_std([run[f"test_{name}"] for run in each["metrics"]])) for name in shown),
                f"{each['bytes'] / 1e6:.1f}",
                "" if speed is None else f"{speed:,.0f}",
            ]
        )
    lines.append(["teacher", *(f"{ceiling[name]:.2f}" for name in shown), "", f"{record['speeds']['teacher']:,.0f}"])
    return "\n".join(head) + "\n\n" + aligned(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run_options(parser, None)
    parser.add_argument("--dims", type=lambda text: [int(each) for each in text.split(",")], default=[256, 64])
    parser.add_argument("--methods", type=lambda text: text.split(";"), help=f"of {'; '.join(METHODS)}, by semicolons")
    parser.add_argument("--resume", action="store_true", help="take finished runs of the same experiments")
    return parser.parse_args()


if __name__ == "__main__":
    main(lambda: show_or_measure(parse(), "static", measure, render))
