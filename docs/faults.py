"""Writes docs/faults.md from faults.md.j2 and what `make test-chaos` has found.

python docs/faults.py
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from results_text import markdown, wrapped

HERE = Path(__file__).resolve().parent
RECORD = HERE.parent / "benchmarks" / "records" / "chaos.jsonl"
PAGE = HERE / "faults.md"
#: The order in which moments come, and ways to damage a file.
MOMENTS = ("teacher", "start", "first steps", "middle", "last report", "end")
HOW = ("cut", "emptied", "removed", "flipped in the middle", "flipped near the end")
#: What the page says of tests that the record has nothing of.
MISSING = "Not recorded yet."
#: Seconds within which the next report comes only where the run hasn't noticed anything, and does no step again.
UNNOTICED_S = 3.0
Line = dict[str, Any]


class Page:
    """What the template may call. The last line of each test counts."""

    def __init__(self, record: Path = RECORD):
        found = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
        self.lines: dict[str, Line] = {each["test"]: each for each in found}

    def of(self, *tests: str) -> list[Line]:
        """What tests have found, case by case."""
        return [line for name, line in self.lines.items() if name.partition("[")[0] in tests]

    def counted(self) -> str:
        passed = [each for each in self.lines.values() if each["passed"]]
        if len(passed) == len(self.lines):
            return f"All of the {len(passed)} cases on this page did."
        return f"{len(passed)} of the {len(self.lines)} cases on this page did; the others are marked."

    def where(self) -> str:
        cpus = max(each["cpus"] for each in self.lines.values())
        found = [each["next_s"] for each in self.lines.values() if each.get("next_s") is not None]
        return f"{cpus} CPUs, with other sweeps beside it; the median is {median(found):.0f} s"

    def processes(self, test: str) -> str:
        """A row for each part, a column for each moment: seconds until the next report, and steps done again."""
        found = self.of(test)
        if not found:
            return MISSING
        there = [moment for moment in MOMENTS if any(each.get("moment") == moment for each in found)]
        rows = [["process", *there]]
        for part in dict.fromkeys(each["of"] for each in found):
            cells = {each["moment"]: _cost(each) for each in found if each["of"] == part}
            rows.append([part, *(cells.get(moment, "-") for moment in there)])
        return markdown(rows)

    def single(self, *tests: str, last: str = "") -> str:
        """A row for each case."""
        found = self.of(*tests)
        if not found:
            return MISSING
        rows = [["case", "until the next report, steps done again", *([last] if last else [])]]
        return markdown([*rows, *([each["of"], _cost(each), *([each["then"]] if last else [])] for each in found)])

    def files(self) -> str:
        found = self.of("test_a_file_is_damaged_between_two_commands")
        if not found:
            return MISSING
        rows = [["file", *HOW]]
        for kind in dict.fromkeys(each["of"] for each in found):
            cells = {
                each["fault"]: each["then"] if each["passed"] else "**failed**" for each in found if each["of"] == kind
            }
            rows.append([kind, *(cells.get(how, "-") for how in HOW)])
        return markdown(rows)


def _cost(line: Line) -> str:
    if not line["passed"]:
        return "**failed**"
    if "to_end_s" in line:
        return f"{line['to_end_s']:.0f} s"
    if line["next_s"] is None:
        return "none came after it"
    again = line.get("again", 0) if line["next_s"] > UNNOTICED_S else 0
    return f"{line['next_s']:.0f} s" + (f", {again} steps" if again else "")


def render(record: Path = RECORD) -> str:
    """Give the page."""
    page = Page(record)
    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    public = {name: getattr(page, name) for name in dir(page) if not name.startswith("_")}
    return wrapped(environment.get_template("faults.md.j2").render(public))


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"written: {PAGE.relative_to(HERE.parent)}")
