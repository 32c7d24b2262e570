"""Measure the forms of a frozen teacher: how fast each is, and how far it keeps the labels.

It is the measurement by which `teacher.run_as: fast` chooses, several times over. Forms take turns on the same rows.

    python benchmarks/forms.py --data digits|FOLDER [--repeats 3] [--storage DIR] [--out FILE.json] [--set KEY=VALUE]
    python benchmarks/forms.py --show FILE.json
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
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
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment

ROLES = ("labeler", "generator")
FIGURES = ("speed", "agreement", "kl", "start_s", "work_s", "worth")


def measure(experiment: Experiment, storage: Storage, repeats: int) -> dict[str, Any]:
    """Try all forms of both parts on held-out rows.

    - returns: the number of rows, and by role the form that would be chosen and what each repeat has found
    """
    import torch

    from tgt_ray.tasks import inputs_of
    from tgt_ray.teacher.forms.choice import Compared, Rows, chosen
    from tgt_ray.teacher.store import prepare_teacher
    from tgt_ray.training.fit_check import held_out_rows

    torch.set_num_threads(1)
    data = experiment.task.load(storage)
    generator = experiment.teacher.generator
    compares = not (generator.contextual or generator.samples)
    teacher, _ = prepare_teacher(experiment.teacher, experiment.task, data, storage, with_generator=compares)
    table = data.tables["validation"]
    places = torch.from_numpy(held_out_rows(len(table), experiment.fit_check.rows))
    rows = Rows(inputs_of(experiment.task, table, data.input_shape)[places], experiment.task.pixels)
    found: dict[str, Any] = {}
    for _ in range(repeats):
        for role in ROLES[: 1 + compares]:
            compared = Compared.of(teacher, role, rows)
            assert compared is not None
            tried = compared.tried()
            each = found.setdefault(role, {"chosen": [], "tried": []})
            each["chosen"].append(chosen(tried))
            each["tried"].append([asdict(one) for one in tried])
            print(f"{role}: {each['chosen'][-1]}", flush=True)
    return {"rows": len(places), "found": found}


def summary(repeats: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Give the median of each figure over repeats, form by form; a form that can't be had has its reason."""
    out = []
    for each in zip(*repeats, strict=True):
        figures = {name: median(one[name] for one in each) if each[0]["lacking"] is None else None for name in FIGURES}
        out.append({"form": each[0]["form"], "lacking": each[0]["lacking"], **figures})
    return out


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", metavar="digits|FOLDER")
    parser.add_argument("--show", metavar="FILE.json", help="print the table of a record and run nothing")
    parser.add_argument("--repeats", type=at_least_one, default=3)
    parser.add_argument("--storage", default="results")
    parser.add_argument("--out")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    if args.show:
        print(render(json.loads(Path(args.show).read_text(encoding="utf-8"))))
        return
    made_on = environment()
    experiment = validate(Experiment, apply_sets(base_experiment(args.data), args.sets))
    record = {
        "kind": "benchmark forms",
        "command": command("forms.py"),
        "data": data_name(args.data),
        "experiment": experiment.model_dump(mode="json"),
        "repeats": args.repeats,
        **measure(experiment, Storage(args.storage), args.repeats),
        "load_average": os.getloadavg(),
        "environment": made_on,
    }
    print(render(record))
    write_record(record, record_path(args.out, args.storage, f"forms-{record['data']}"))


def render(record: dict[str, Any]) -> str:
    """Write the record as text: what was run, then one line for each form of each part."""
    rows = [["", "speed", "agreement %", "mean KL", "start s", "speed with start"]]
    for role, each in record["found"].items():
        for form in summary(each["tried"]):
            figures = [form["lacking"], "", "", "", ""]
            if form["lacking"] is None:
                figures = [
                    number(form["speed"]),
                    f"{form['agreement']:.2f}",
                    f"{form['kl']:.1e}",
                    number(form["start_s"]),
                    number(form["worth"]),
                ]
            rows.append([f"{role}: {form['form']}", *figures])
    head = [
        f"{record['data']}, {record['rows']} held-out rows, one thread; {record['command']}",
        *(f"{role}: chosen {', '.join(each['chosen'])}" for role, each in record["found"].items()),
        hardware(record["environment"]),
    ]
    return "\n".join(head) + "\n\n" + aligned(rows)


if __name__ == "__main__":
    main(run)
