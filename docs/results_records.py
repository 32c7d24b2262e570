"""What the records of the benchmarks say, for docs/results.py: a line for each method, rows, teachers, processors."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

from common import METRIC
from methods import teacher_scores
from results_text import ResultsError

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "records"
Record = dict[str, Any]
#: What a method scored: for each metric or split its mean and its standard deviation.
Line = dict[str, Any]

RETRIEVAL = "benchmark retrieval"
BOTH = ("ndcg_at_10", "recall_at_100")


def names(folder: Path = RECORDS) -> list[str]:
    """The records of a folder: files, and folders of sweeps."""
    return sorted([each.stem for each in folder.glob("*.json")] + [each.parent.name for each in sweeps_in(folder)])


def sweeps_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*_sweep/record.json"))


@cache
def read(folder: Path, name: str) -> Record:
    """A record as it lies in the folder; of a sweep with the rows of its trials.csv."""
    sweep, file = folder / name / "record.json", folder / f"{name}.json"
    if sweep.is_file():
        with open(folder / name / "trials.csv", encoding="utf-8", newline="") as rows:
            return {**json.loads(sweep.read_text(encoding="utf-8")), "trials": list(csv.DictReader(rows))}
    if not file.is_file():
        raise ResultsError(f"{folder.name}: no record '{name}'; there are {', '.join(names(folder))}")
    return json.loads(file.read_text(encoding="utf-8"))


def title(record: Record) -> str:
    """What a message calls a record: the command that made it, or the name of its sweep."""
    return record.get("command") or record["name"]


def single(value: float) -> dict[str, Any]:
    """A score that was measured once."""
    return {"mean": value, "std": None}


def lines_of(record: Record, labelled: str) -> dict[str, Line]:
    """What each method of a record scored, and its teacher."""
    kind = record.get("kind")
    if kind == "benchmark methods":
        teacher = {split: single(score) for split, score in teacher_scores(record["teacher"]).items()}
        return {**record["summary"], "teacher": teacher}
    if kind == "benchmark schedules":
        teacher = {split: single(score) for split, score in teacher_scores(record["teacher"]).items()}
        return {f"{line['method']} x {line['times']}": line for line in record["summary"]} | {"teacher": teacher}
    if kind == RETRIEVAL:
        part = next((part for part in record["parts"] if part["labelled"] == labelled), None)
        quality = record["teacher"]["labeler"]["quality"]["test"]
        return {**(part["summary"] if part else {}), "teacher": {name: single(quality[name]) for name in BOTH}}
    if kind == "benchmark agreement":
        points = {f"{point['steps']} steps": {"test": point["test"]} for point in record["points"]}
        bars = {name: {"test": score} for name, score in record["bars"].items()}
        ceiling = teacher_scores({"labeler": record["labeler"]})["test"]
        return {**bars, **points, "teacher": {"test": single(ceiling)}}
    if kind == "sweep":
        return lines_of_sweep(record)
    return {}


def lines_of_sweep(record: Record) -> dict[str, Line]:
    """The best trial by validation, the controls and the teacher."""
    searched = [trial for trial in record["trials"] if trial["status"] == "finished" and not trial["control"]]
    found = {trial["control"]: trial for trial in record["trials"] if trial["control"]}
    found["best"] = max(searched, key=lambda trial: float(trial[METRIC]))
    columns = {"validation": METRIC, "test": f"test_{METRIC}"}
    scores = {
        name: {split: single(float(trial[column])) for split, column in columns.items()}
        for name, trial in found.items()
    }
    ceiling = teacher_scores(record["teacher"])
    return {**scores, "teacher": {split: single(score) for split, score in ceiling.items()}}


def base_of(record: Record) -> dict[str, Any]:
    """The experiment that the methods of a record, or the trials of a sweep, start from."""
    return record["base"] if "base" in record else record["config"]["experiment"]


def rows_of(record: Record, folder: Path = RECORDS) -> list[dict[str, int]]:
    """Rows of each split, once or for each number of labelled queries.

    A record that doesn't count them has those of a record on the same data.
    """
    if "parts" in record:
        return [part["rows"] for part in record["parts"]]
    if "rows" in record:
        return [record["rows"]]
    for name in names(folder):
        other = read(folder, name)
        alike = (
            same(record, other, "fingerprints", "data")
            if "fingerprints" in record
            else same(record, other, "base", "task")
        )
        if alike and "rows" in other:
            return [other["rows"]]
    raise ResultsError(f"no record counts the rows of {title(record)}")


def same(one: Record, other: Record, block: str, key: str) -> bool:
    return one[block][key] == other.get(block, {}).get(key)


def labeler_has_seen(record: Record, rows: dict[str, int], given: str | None) -> str:
    """Which rows of the data the labeler was trained on. given: what is known of weights that were given."""
    labeler = base_of(record)["teacher"]["labeler"]
    if labeler["weights"]:
        if given is None:
            raise ResultsError(f"{title(record)}: the labeler's weights were given; say what it has seen")
        return given
    if labeler["type"] == "dual_encoder":
        return "none: it is taken as it is"
    if "path" in labeler:
        part, how = (labeler["finetune"], "fine-tuned on") if labeler["finetune"] else (labeler["probe"], "its head:")
        return f"{how} {rows[part['split']]:,} labelled rows"
    return f"{rows[labeler['pretrain']['split']]:,} labelled rows"


def generator_has_seen(record: Record, rows: dict[str, int]) -> str:
    generator = base_of(record)["teacher"]["generator"]
    if generator["weights"] or generator.get("path"):
        raise ResultsError(
            f"{title(record)}: the generator was given; the page says only of trained ones what they saw"
        )
    return f"{rows[generator['pretrain']['split']]:,} rows"


def processor(record: Record) -> str:
    """The machine; an error where some of the runs were made on another one."""
    machine = record["environment"]["hardware"]
    results = [*record.get("results", []), *(each for part in record.get("parts", []) for each in part["results"])]
    others = {result.get("cpu") or machine["cpu"] for result in results} - {machine["cpu"]}
    if others:
        raise ResultsError(f"{title(record)}: some of its runs are of {', '.join(others)}")
    return f"{machine['cpus']} cores, {machine['cpu'].replace('(R)', '').removesuffix(' Processor')}"


def seeds_of(record: Record) -> int:
    return len(record["seeds"]) if "seeds" in record else 1
