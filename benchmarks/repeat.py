"""Compare sweeps of one file: do they give the same trials and metrics, to the last digit?

python -m tgt_ray sweep benchmarks/repeat.yaml --name one     # twice, or with two versions of the code
python -m tgt_ray sweep benchmarks/repeat.yaml --name two
python benchmarks/repeat.py results/one results/two [--first 6] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import common

from tgt_ray.core.records import read_json, read_table
from tgt_ray.core.storage import Storage

#: Columns of a table of trials that depend on how fast things were, or on names that are drawn.
OF_TIME = {"trial", "lane", "idle_s", "setup_s", "gap_s", "seconds", "train_s", "wait_share", "start_wait_s"}
OF_TIME |= {"requests_granted", "generator_utilisation", "dropped_blocks", "reason"}


def trials(folder: str) -> list[dict[str, Any]]:
    """Read what must repeat of a sweep's trials, in the order of controls and values."""
    storage = Storage(folder)
    space = list(read_json(storage, "record.json")["config"]["space"])
    table = read_table(storage, "trials")
    kept = sorted(name for name in table.columns if name not in OF_TIME)
    # Plain numbers: JSON gives each float digits enough to be that float again.
    rows = table[kept].astype(object).where(table[kept].notna(), None).to_dict("records")
    rows = json.loads(json.dumps(rows))
    return sorted(rows, key=lambda row: json.dumps([row["control"], *(row[key] for key in space)]))


def differences(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[str]:
    """Name what differs between two sweeps, a trial and a column each."""
    if len(first) != len(second):
        return [f"{len(first)} trials and {len(second)}"]
    return [
        f"trial {place}, {key}: {a[key]!r} and {b.get(key)!r}"
        for place, (a, b) in enumerate(zip(first, second, strict=True))
        for key in a
        if a[key] != b.get(key)
    ]


def fewer_alike(first: list[dict[str, Any]], second: list[dict[str, Any]], space: list[str], least: int) -> list[str]:
    """Name what differs where only controls and the first trials must be the same.

    A search that learns from results, with several trials at once, suggests later ones in the order in which results
    came. Its first point and its random ones don't depend on them.
    """
    controls = [sorted(row["control"] for row in rows if row["control"]) for rows in (first, second)]
    values = [{tuple(row[key] for key in space) for row in rows if not row["control"]} for rows in (first, second)]
    alike = len(values[0] & values[1])
    out = [] if controls[0] == controls[1] else [f"controls {controls[0]} and {controls[1]}"]
    return out if alike >= least else [*out, f"{alike} trials have the same values"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", help="folders of sweeps; the first is what the others are compared with")
    parser.add_argument("--first", type=int, metavar="N", help="compare only controls, and the values of N trials")
    parser.add_argument("--out", help="write a record there")
    args = parser.parse_args()
    sweeps = {folder: about(folder) for folder in args.folders}
    first, *others = sweeps.values()
    found = {}
    for other in others:
        rows = first["trials"], other["trials"]
        found[other["name"]] = fewer_alike(*rows, first["space"], args.first) if args.first else differences(*rows)
    for folder, lines in found.items():
        print(f"{folder}: {'the same' if not lines else 'differs'}")
        for line in lines:
            print(f"  {line}")
    if args.out:
        record = {
            "command": common.command("repeat.py"),
            "compared": f"controls, and values of {args.first} trials" if args.first else "all values and metrics",
            "sweeps": list(sweeps.values()),
            "differences": found,
        }
        Path(args.out).write_text(json.dumps(record, indent=1) + "\n")
    return int(any(found.values()))


def about(folder: str) -> dict[str, Any]:
    """Give what a record says of one sweep."""
    record = read_json(Storage(folder), "record.json")
    return {
        "name": Path(folder).name,
        "commit": record["environment"]["commit"],
        "created": record["environment"]["created"],
        "packages": record["environment"]["packages"],
        "fingerprints": {key: record["fingerprints"][key] for key in ("data", "labeler", "generator")},
        "space": list(record["config"]["space"]),
        "trials": trials(folder),
    }


if __name__ == "__main__":
    sys.exit(main())
