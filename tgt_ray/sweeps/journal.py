"""Keeps the record of a sweep that it goes on from: settings, values of trials, their reports and ends.

It is `journal.jsonl` in the sweep's folder (see `tgt_ray.core.lines`). Each line has its `kind`:

- command: a command has begun to work on the sweep, with the sweep's settings
- record: what the sweep was made with, as `record.json` has it
- begin: a trial has its values; `draw` counts the trials of the search, from 0
- report: a report of a trial; its checkpoint lies in the sweep's folder
- end: how a trial has ended, with its values and its last report, so that its row follows from this line alone

Lines have the number of their `command`. What an earlier command has still written once a later one had begun doesn't
count. Whatever else lies in the folder follows from the journal, but for checkpoints. Imports neither torch nor ray.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tgt_ray.core import formats, lines
from tgt_ray.core.owner import Held
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import Damaged

log = logging.getLogger(__name__)

#: The name of its file, without the ending.
JOURNAL = "journal"


@dataclass
class Known:
    """What is known of a trial.

    - name: its id, which is its number
    - number: from 1, in the order in which values were chosen
    - values: of the space, or {"control": name}
    - draw: which draw of the search it is; None: a control
    - reports: in the order of steps
    - status: how it has ended, as in the table; None: it hasn't
    - reason: why it failed
    - seconds: that it took, in all commands together
    """

    name: str
    number: int
    values: dict[str, Any]
    draw: int | None = None
    reports: list[dict[str, Any]] = field(default_factory=list)
    status: str | None = None
    reason: str | None = None
    seconds: float | None = None

    @property
    def control(self) -> str | None:
        return self.values.get("control")

    @property
    def result(self) -> dict[str, Any]:
        """Its last report."""
        return self.reports[-1] if self.reports else {}

    @property
    def step(self) -> int:
        """The step of its last report; 0 before the first."""
        return int(self.result.get("step", 0))


class Journal:
    """What is known of a sweep, which is written while it becomes known.

    - trials: by number
    - settings: of the sweep, as the last command had them; None: no command has begun
    - record: what it was made with; None: its first command had not come so far
    - in_order: names of trials, one for each report, in the order in which reports came
    """

    def __init__(self, folder: Storage, whole: list[lines.Entry], damaged: int):
        self.folder, self.damaged = folder, damaged
        self.trials: dict[int, Known] = {}
        self.settings: dict[str, Any] | None = None
        self.record: dict[str, Any] | None = None
        self.in_order: list[tuple[int, dict[str, Any]]] = []
        self.command, self._whole = 0, whole
        self._writer: lines.Writer | None = None
        self._held: Held | None = None
        for entry in _counting(whole):
            self._take(entry)

    @classmethod
    def read(cls, folder: Storage) -> Journal:
        """Read the journal of a sweep; an empty one where there is none.

        - raises ConfigError: where a later version has written it
        - raises Damaged: where there is one, and not even the settings are whole
        """
        whole, damaged = lines.read(folder, JOURNAL)
        for entry in whole:
            if entry.get("kind") == "command":
                formats.check_not_newer("journal", entry, folder.where(f"{JOURNAL}.jsonl"))
        out = cls(folder, whole, damaged)
        if damaged and out.settings is None:
            raise Damaged.of(folder.where(f"{JOURNAL}.jsonl"), "no line with the sweep's settings is whole")
        if damaged:
            log.warning(
                "%s: %d line(s) are cut off, or have other bytes than were written; the %d whole ones count",
                *(folder.where(f"{JOURNAL}.jsonl"), damaged, len(whole)),
            )
        return out

    # ---- what is known

    @property
    def unfinished(self) -> list[Known]:
        """The trials that have begun and not ended, in the order of their numbers."""
        return [self.trials[number] for number in sorted(self.trials) if self.trials[number].status is None]

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return sum(each.status is not None for each in self.trials.values())

    def of(self, name: str) -> Known:
        """Return a trial by its id."""
        return self.trials[int(name)]

    def next_number(self) -> int:
        """Return the lowest number that no trial has."""
        return next(number for number in range(1, len(self.trials) + 2) if number not in self.trials)

    def draws(self) -> set[int]:
        """Return which draws of the search have a trial."""
        return {each.draw for each in self.trials.values() if each.draw is not None}

    def controls(self) -> list[str]:
        """Return the controls that have a trial."""
        return [each.control for each in self.trials.values() if each.control is not None]

    # ---- what becomes known

    def begin_command(self, held: Held, settings: dict[str, Any]) -> None:
        """Note that this command works on the sweep.

        - held: the sweep's folder, which it owns
        - settings: those of the sweep
        """
        self.command += 1
        self._held = held
        self._writer = lines.Writer(self.folder, JOURNAL, (self._whole, self.damaged), self.command, held.check)
        self._write("command", **formats.stamped("journal", {"settings": settings}))

    def keep_record(self, record: dict[str, Any]) -> None:
        self._write("record", record=record)

    def begin(self, values: dict[str, Any], draw: int | None) -> Known:
        """Note that a trial has its values; return it."""
        number = self.next_number()
        self._write("begin", trial=number, values=values, **({"draw": draw} if draw is not None else {}))
        return self.trials[number]

    def report(self, known: Known, metrics: dict[str, Any], seconds: float | None = None) -> bool:
        """Note a report of a trial.

        - seconds: that the trial has taken
        - returns: whether it is a new one; after a resume a trial says again what it had said
        """
        if int(metrics["step"]) <= known.step or known.status is not None:
            return False
        place = f"train/{known.name}/state.pt"
        self._write("report", trial=known.number, seconds=seconds, checkpoint=place, metrics=metrics)
        return True

    def end(self, known: Known, status: str, reason: str | None = None) -> None:
        """Note how a trial has ended.

        - status: as in the table
        """
        if known.status is None:
            about = {"values": known.values, "draw": known.draw, "seconds": known.seconds, "metrics": known.result}
            self._write("end", trial=known.number, status=status, reason=reason, **about)

    def _write(self, kind: str, **about: Any) -> None:
        assert self._writer is not None and self._held is not None, "a command begins first"
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"command": self.command, "at": now, "kind": kind, **about}
        self._take(self._held.patiently(partial(self._writer.append, line)))

    def _take(self, entry: lines.Entry) -> None:
        """Let what is known follow from a line."""
        self.command = max(self.command, int(entry["command"]))
        kind = entry["kind"]
        if kind == "command":
            self.settings = entry["settings"]
        elif kind == "record":
            self.record = entry["record"]
        elif kind == "begin":
            number = entry["trial"]
            self.trials.setdefault(number, Known(str(number), number, entry["values"], entry.get("draw")))
        elif kind == "report" and entry["trial"] in self.trials:
            self._take_report(self.trials[entry["trial"]], entry["metrics"], entry["seconds"])
        elif kind == "end":
            self._take_end(entry)

    def _take_report(self, known: Known, metrics: dict[str, Any], seconds: float | None) -> None:
        if known.status is None and int(metrics["step"]) > known.step:
            known.reports.append(metrics)
            known.seconds = seconds
            self.in_order.append((known.number, metrics))

    def _take_end(self, entry: lines.Entry) -> None:
        number = entry["trial"]
        known = self.trials.setdefault(number, Known(str(number), number, entry["values"], entry["draw"]))
        if known.status is None:
            if entry["metrics"]:
                self._take_report(known, entry["metrics"], entry["seconds"])
            known.status, known.reason, known.seconds = entry["status"], entry["reason"], entry["seconds"]


def _counting(whole: list[lines.Entry]) -> Iterator[lines.Entry]:
    """Yield the lines of commands that were not overtaken when they wrote them."""
    first: dict[int, int] = {}  # the number of a command's first line
    for entry in whole:
        first[entry["command"]] = min(first.get(entry["command"], entry["n"]), entry["n"])
    for entry in whole:
        if not any(command > entry["command"] and number <= entry["n"] for command, number in first.items()):
            yield entry
