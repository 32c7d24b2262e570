"""Hold what the benchmarks share: the experiment of `--data`, records without paths of the machine, aligned tables."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import load_yaml, override, parse_override
from tgt_ray.experiment.experiment import Experiment

HERE = Path(__file__).resolve().parent
METRIC = "balanced_accuracy"


def base_experiment(data: str) -> dict[str, Any]:
    """Give the experiment for `--data` as plain data.

    It is the package's default on digits, or that of the YAML file named after the folder.
    """
    if data == "digits":
        # In full, so that --set finds every block with its type.
        return Experiment().model_dump(mode="json")
    folder = Path(data).expanduser().resolve()
    files = {each.stem.removesuffix("_lt"): each for each in HERE.glob("*.yaml")}
    if folder.name not in files:
        raise ConfigError(f"--data {data}: the folder must be called one of: {', '.join(sorted(files))}")
    file = files[folder.name]
    return override(load_yaml(file), "task.data.path", str(folder))


def apply_sets(data: dict[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    """Apply each KEY=VALUE of --set to `data`."""
    for text in sets:
        data = override(data, *parse_override(text))
    return data


def data_name(data: str) -> str:
    return data if data == "digits" else Path(data).expanduser().resolve().name


def record_path(out: str | None, storage: str, stem: str) -> Path:
    """Choose the record's path: --out, or the storage, so that a trial run never overwrites a committed record."""
    return Path(out) if out else Path(storage) / f"{stem}.json"


def command(script: str) -> str:
    """Give the command line as it was typed, with only the last part of each path."""
    given = [re.sub(r"[^\s=,]*/", "", text) for text in sys.argv[1:]]
    return f"python benchmarks/{script} {shlex.join(given)}".rstrip()


def write_record(record: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(portable(record), indent=1) + "\n", encoding="utf-8")
    print(f"record: {path}")


def portable(value: Any) -> Any:
    """Reduce each absolute path in plain data to its last part, since a record is read on other machines."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, str):
        # Paths within a sentence are reduced as well.
        return re.sub(r"(?<!\S)/(\S*/)?(?=\S)", "", value)
    return value


def row_counts(data: Any) -> dict[str, int]:
    """Count the rows of each split of a TaskData."""
    return {name: len(table) for name, table in data.tables.items()}


def what_was_seen(experiment: dict[str, Any], rows: dict[str, int]) -> str:
    """Say which rows the teacher has seen and which the student has, as a reader of the numbers must know."""
    student = "the student has"
    if experiment["task"]["long_tail"]:
        student += f" only the long-tailed one of {rows['train']} rows"
    else:
        student += f" the same {rows['train']} rows"
    parts = {role: experiment["teacher"][role] for role in ("labeler", "generator")}
    given = [role for role, config in parts.items() if config["weights"]]
    if experiment["task"].get("labelled") or experiment["task"].get("unlabelled") == "anchors":
        texts = "labelled rows, which a fitted head has seen as well" + (
            "" if experiment["task"]["unlabelled"] == "ignore" else "; the other train rows are anchors without labels"
        )
        own = [f"the {role} is {config['path']}" for role, config in parts.items() if config.get("path")]
        own += [f"the weights of the {role} were given by the user" for role in given]
        return (
            f"Of {rows['full']} train rows the student has {rows['train']} {texts};"
            f" {', '.join(own) or 'no model was given'}."
        )
    if given:
        return f"The weights of {' and '.join(given)} were given by the user; {student}."
    if {config["pretrain"]["split"] for config in parts.values()} == {"full"}:
        return (
            f"Labeler and generator have seen the full balanced train split of {rows['full']} rows with its labels"
            f" (the setting of pretrained teachers); {student}."
        )
    seen = ", ".join(f"{role} '{config['pretrain']['split']}'" for role, config in parts.items())
    return f"Pretrained on the splits: {seen} ('full' is the train split before the long tail); {student}."


def mean_std(values: Sequence[float]) -> dict[str, Any]:
    """Compute mean and sample standard deviation; the latter is None for a single value."""
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None}


def run_options(parser: argparse.ArgumentParser, picture: str | None) -> None:
    """Add the options of the scripts that train students over seeds.

    - picture: what --plot draws; None: there is no picture, and finished runs are not kept
    """
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--data",
        metavar="digits|FOLDER",
        help="digits, or a folder named like one of the YAML files here (without _lt)",
    )
    what.add_argument("--show", metavar="FILE.json", help="print the table of a record and run nothing")
    parser.add_argument("--seeds", type=at_least_one, default=5, help="number of seeds, from 0 on")
    parser.add_argument("--storage", default="results", help="folder for teachers and the teacher cache")
    parser.add_argument("--out", metavar="FILE.json", help="the record (default: in the storage)")
    parser.add_argument(
        "--jobs", type=at_least_one, default=1, help="runs at the same time, each a process with one thread"
    )
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    if picture is None:
        return
    parser.add_argument("--plot", metavar="FILE.png", help=f"{picture}, as a picture")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="RECORD.json",
        help="take finished runs of the same experiment and teacher from the storage, and from a record, whichever"
        " commit made them",
    )


def show_or_measure(
    args: argparse.Namespace,
    stem: str,
    measure: Callable[[argparse.Namespace], dict[str, Any]],
    render: Callable[[dict[str, Any]], str],
    plot: Callable[[dict[str, Any], Path], None] | None = None,
) -> None:
    """Print the record of --show, or measure one and write it; draw its picture with --plot."""
    record = json.loads(Path(args.show).read_text(encoding="utf-8")) if args.show else measure(args)
    print(render(record))
    if not args.show:
        write_record(record, record_path(args.out, args.storage, f"{stem}-{data_name(args.data)}"))
    if plot is not None and args.plot:
        plot(record, Path(args.plot))


def at_least_one(text: str) -> int:
    """Parse a whole number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def plus_minus(summary: dict[str, Any], digits: int = 2) -> str:
    spread = "" if summary["std"] is None else f" ± {number(summary['std'], digits)}"
    return number(summary["mean"], digits) + spread


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows as columns of text: the first aligned left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def hardware(environment: dict[str, Any]) -> str:
    """Describe the machine in one line: processor, versions, commit."""
    machine, packages = environment["hardware"], environment["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "ray", "optuna") if name in packages)
    code = f"commit {short_commit(environment['commit'])}"
    where = f"{machine['cpus']} CPUs ({machine['cpu']})"
    return f"{where}, Python {environment['python']}, {versions}, {code}, {environment['created']}"


def other_commits(results: Sequence[dict[str, Any]], environment: dict[str, Any]) -> list[str]:
    """Give a line where commits other than the record's own made some of the runs, which --resume allows.

    - returns: one line, or none
    """
    own = environment["commit"]
    # Records older than --resume name no commit for each run.
    made = Counter(short_commit(result["commit"]) for result in results if result.get("commit", own) != own)
    said = ", ".join(f"{count} by {commit}" for commit, count in sorted(made.items()))
    return [f"of {len(results)} runs some were made by other commits: {said}"] if made else []


def short_commit(commit: str | None) -> str:
    name, plus, changes = (commit or "unknown").partition("+")
    return name[:12] + plus + changes


def main(run: Callable[[], None]) -> None:
    """Call `run`; bad input ends with one line on stderr and exit code 2, as in the package's own commands."""
    try:
        run()
    except ConfigError as err:
        print(f"error: {err}", file=sys.stderr)
        sys.exit(2)
