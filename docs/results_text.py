"""Figures, tables, commands and paragraphs as text, for docs/results.py."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

WIDTH = 118
#: How cells of numbers begin; a dash stands where a number has no meaning.
NUMBER = re.compile(r"[-+]?\d|-$")
#: How parts of a method's name are said; `a x 4` is method a with four times the steps.
SAID = {
    "one_hot": "one-hot",
    "anchors": "anchors as they are",
    "embed-distill": "EmbedDistill",
    "lelp": "LELP",
    "balanced-sampling": "balanced sampling",
    "logit-adjustment": "logit adjustment",
    "posthoc-adjustment": "logit adjustment post hoc",
    "ldam-drw": "LDAM-DRW",
    "crt": "cRT",
    "lws": "LWS",
    "mixup": "MixUp",
    "randaugment": "RandAugment",
    "augment": "function matching",
    "compose": "function matching on random",
    "shift": "shifts, labels from before",
    "consistent": "shifts, labelled as seen",
    "teacher": "teacher (labeler)",
}


class ResultsError(Exception):
    """A record doesn't hold what the template asks for, or the page leaves one out."""


def figure(value: float, digits: int = 0, sign: str = "") -> str:
    """A number as text; halves are rounded up, as people do. sign: `+` shows it of numbers above zero as well."""
    # Nine digits first: a mean may lie a little off the half that it is.
    exact = Decimal(repr(round(float(value), 9))).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{exact + 0:{sign},}"


def mean_and_spread(summary: dict[str, Any], digits: int = 1) -> str:
    """Mean ± standard deviation; the mean alone where a score was measured once."""
    spread = "" if summary["std"] is None else f" ± {figure(summary['std'], digits)}"
    return figure(summary["mean"], digits) + spread


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown, whose head is the first row. Numbers are flush right, and an empty cell is an error."""
    head, *body = rows
    for row in rows:
        if len(row) != len(head) or not all(row):
            raise ResultsError(f"a row of a table lacks a cell: {list(row)}")
    ruler = ["---:" if at and all(NUMBER.match(row[at]) for row in body) else "---" for at in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ruler, *body])


def say(method: str) -> str:
    """A method's name as people say it."""
    method, _, times = method.partition(" x ")
    method, _, bank = method.partition(" of ")
    method, shared = method.removesuffix(" shared"), method.endswith(" shared")
    name = " + ".join(SAID.get(part, part) for part in method.split(" + "))
    name += ", rows shared" if shared else f", bank of {int(bank):,} rows" if bank else ""
    return f"{name}, {times} times the steps" if times else name


def listed(values: Iterable[Any]) -> str:
    """Values once each, in their order, as a list in a sentence."""
    *most, last = dict.fromkeys(f"{value:,}" if isinstance(value, int) else str(value) for value in values)
    return f"{', '.join(most)} and {last}" if most else last


def shell(command: str) -> str:
    """A command in lines of at most 100 columns, without folders of the machine that it ran on."""
    words = shlex.split(command)
    for at, word in enumerate(words[:-1]):
        if word == "--data" and words[at + 1] != "digits":
            words[at + 1] = f"FOLDER/{Path(words[at + 1]).name}"
        elif word == "--storage":
            words[at + 1] = "FOLDER"
    words = [re.sub(r"(^|(?<=[=,]))/\S*/", "FOLDER/", word) for word in words]
    lines = [""]
    for option in re.split(r" (?=--)", shlex.join(words)):
        if lines[-1] and len(lines[-1]) + len(option) > 100:
            lines.append("")
        lines[-1] += f" {option}" if lines[-1] else option
    return "```\n" + " \\\n    ".join(lines) + "\n```"


def wrapped(text: str) -> str:
    """Break paragraphs and lists into lines; tables, headings, pictures and code stay as they are."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else _wrapped_prose(part) for part in parts)


def _wrapped_prose(text: str) -> str:
    blocks = re.split(r"(\n\n+)", text)
    return "".join(block if re.match(r"\s|[|#!]|$", block) else _wrapped_block(block) for block in blocks)


def _wrapped_block(block: str) -> str:
    # What may not begin a line, since Markdown would take it for a list, and what belongs together.
    block = re.sub(r" (?=[-+*±] )|(?<= ±) |(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", block)
    items = re.split(r"\n(?=- )", block)
    filled = [
        textwrap.fill(
            item,
            WIDTH,
            subsequent_indent="  " if item.startswith("- ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for item in items
    ]
    return "\n".join(filled).replace("\N{NO-BREAK SPACE}", " ")
