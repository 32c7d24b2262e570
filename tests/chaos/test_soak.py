"""A long sweep, of which one process after another is killed at random."""

from __future__ import annotations

import json
import random
import signal
import statistics
import time
from collections import Counter, defaultdict

import pandas as pd
import psutil
import pytest
import yaml

from tests.chaos.sweep import SWEEP, Sweep, sent
from tests.chaos.test_processes import PARTS
from tests.helpers.places import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(3 * 3600)]

TRIALS = 200
#: The most that the memory of a part may grow from the second quarter of the sweep to the last one.
GROWTH = 1.15


def seconds_between_kills() -> float:
    """Three times what a sweep mostly needs after a kill until its next report, as the record has it."""
    found = [json.loads(line) for line in (ROOT / "benchmarks/records/chaos.jsonl").read_text().splitlines()]
    return 3 * statistics.median(each["next_s"] for each in found if each["test"].startswith("test_a_part_is_killed["))


def test_200_trials_with_random_kills(calm, sweep, case, tmp_path):
    file = tmp_path / "soak.yaml"
    search = {**SWEEP["search"], "trials": TRIALS - 1, "scheduler": "asha"}
    file.write_text(yaml.safe_dump({**SWEEP, "search": search}))
    running: Sweep = sweep()
    running.file = file
    draw, killed = random.Random(0), Counter[str]()
    memory: dict[str, list[tuple[float, float]]] = defaultdict(list)
    mean, began = seconds_between_kills(), time.monotonic()
    running.begin()
    running.wait_for("first steps")
    next_kill = time.monotonic() + draw.expovariate(1 / mean)
    while running.driver.poll() is None:
        for part, title in {**PARTS, "driver": "driver", "raylet": "raylet", "GCS": "gcs_server"}.items():
            for process in running.named(title):
                try:
                    memory[part].append((time.monotonic(), process.memory_full_info().uss / 2**20))
                except psutil.Error:
                    continue
        if time.monotonic() > next_kill:
            part = draw.choice(sorted(PARTS))
            if sent(running.named(PARTS[part])[:1], signal.SIGKILL):
                killed[part] += 1
                next_kill = time.monotonic() + draw.expovariate(1 / mean)
        time.sleep(2)
    minutes = (time.monotonic() - began) / 60
    growth = {part: grown(found) for part, found in memory.items() if len(found) >= 40}
    table = pd.read_parquet(running.folder / "trials.parquet")
    case.note(
        fault="kill -9 at random",
        of="200 trials",
        killed=dict(killed),
        between_s=mean,
        minutes=round(minutes, 1),
        growth={part: round(value, 2) for part, value in growth.items()},
        statuses=table.status.value_counts().to_dict(),
        then="goes on",
    )
    running.end()
    assert len(table) == TRIALS and set(table.status) <= {"finished", "stopped early"}
    ends = [each["trial"] for each in running.lines() if each["kind"] == "end"]
    assert len(ends) == len(set(ends)) == TRIALS
    assert not list(running.folder.parent.rglob("*.tmp"))
    assert sum(killed.values()) >= 5
    assert {part: value for part, value in growth.items() if value > GROWTH} == {}


def grown(found: list[tuple[float, float]]) -> float:
    """Memory in the last quarter of the sweep over that in the second one, medians."""
    first, last = found[0][0], found[-1][0]
    quarter = (last - first) / 4
    early = [mb for at, mb in found if first + quarter <= at < first + 2 * quarter]
    late = [mb for at, mb in found if at >= last - quarter]
    return statistics.median(late) / statistics.median(early or late)
