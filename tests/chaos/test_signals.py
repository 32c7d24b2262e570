"""A sweep is asked to end, once and twice: it does so in order, soon, with its exit code, and can go on."""

from __future__ import annotations

import os
import signal
import time

import pandas as pd
import pytest

from tests.chaos.sweep import MOMENTS

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.timeout(900)]

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
#: Seconds in which it ends.
TO_END_S = 20
CASES = [(signal.SIGINT, moment, 1) for moment in ("teacher", *MOMENTS, "end")]
CASES += [(signal.SIGINT, moment, 2) for moment in ("teacher", "middle")]
CASES += [(number, moment, 1) for number in (signal.SIGTERM, signal.SIGHUP) for moment in ("teacher", "middle")]


@pytest.mark.parametrize(("number", "moment", "times"), CASES, ids=lambda each: getattr(each, "name", each))
def test_it_is_asked_to_end(calm, sweep, case, number, moment, times):
    running = sweep(teacher=moment != "teacher").begin()
    running.wait_for(moment, *(["raylet"] if moment == "start" else []))
    case.comes()
    case.note(fault=number.name, of=f"{number.name}{', twice' if times == 2 else ''}", moment=moment)
    began = time.monotonic()
    for _ in range(times):
        os.killpg(running.driver.pid, number)  # as a terminal does
        time.sleep(1)
    running.end(CODES[number], *([0] if moment == "end" else []))
    case.note(to_end_s=round(time.monotonic() - began, 1))
    assert time.monotonic() - began < TO_END_S + 5, "with the time in which no process may be left"
    begun = (running.folder / "journal.jsonl").exists()
    if begun:
        table = pd.read_parquet(running.folder / "trials.parquet")
        assert "running" not in set(table.status)
        assert running.driver.returncode == 0 or "--resume" in running.said(), "it says how to go on"
    running.start(*(["--resume"] if (running.folder / "sweep.yaml").exists() else [str(running.file)]))
    running.end().compare(calm.table)
    case.note(then="`--resume` goes on" if begun else "the same command begins anew")
