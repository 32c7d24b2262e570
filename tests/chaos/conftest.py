"""An undisturbed sweep to compare with, and a place for what is found of each fault."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.chaos.sweep import Sweep, copied_without_sweep, facts, prepared
from tgt_ray.core.environment import environment


@dataclass(frozen=True)
class Calm:
    """An undisturbed sweep.

    - file: its settings
    - storage: with its teacher
    - table: what of its table is compared
    """

    file: Path
    storage: Path
    table: pd.DataFrame


@pytest.fixture(scope="session")
def calm(tmp_path_factory) -> Calm:
    place = tmp_path_factory.mktemp("calm")
    file = prepared(place)
    calm = Sweep(place / "storage", file).begin().end()
    return Calm(file, place / "storage", facts(calm.folder))


@pytest.fixture
def sweep(calm, tmp_path, signals_as_usual) -> Iterator[Callable[..., Sweep]]:
    """(teacher) -> the sweep in a storage of its own, with or without a teacher that is ready."""
    made: list[Sweep] = []

    def make(teacher: bool = True) -> Sweep:
        place = tmp_path / f"storage{len(made)}"
        made.append(Sweep(copied_without_sweep(calm.storage, place) if teacher else place, calm.file))
        return made[-1]

    yield make
    for each in made:
        each.end_by_force()


class Case:
    """What is found of one fault: a line of the record.

    - began: the time of day of the fault
    """

    def __init__(self, about: dict[str, Any]):
        self.about, self.began = about, 0.0

    def comes(self) -> float:
        self.began = time.time()
        return self.began

    def note(self, **about: Any) -> None:
        self.about |= about


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    result = yield
    report = result.get_result()
    if report.when == "call":
        item.stash[OUTCOME] = report.outcome


OUTCOME = pytest.StashKey[str]()


@pytest.fixture
def case(request) -> Iterator[Case]:
    """Gets a line of the record, also where the test fails."""
    case = Case({"test": request.node.nodeid.partition("::")[2]})
    yield case
    file = request.config.getoption("--record")
    outcome = request.node.stash.get(OUTCOME, "failed")
    if file and outcome != "skipped":
        where = environment()
        line = case.about | {
            "passed": outcome == "passed",
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": where.get("commit"),
            "cpus": os.cpu_count(),
        }
        with Path(file).open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
