"""What the teacher has made and the bank has saved is summed up over workers, sessions and trials."""

import math

import pandas as pd
import pytest

from tgt_ray.results.ledger import ledger, line, summed


def report(**values):
    base = {"rows_made": 100, "rows_found": 50, "teacher_seconds": 2.0, "teacher_seconds_saved": 1.0}
    return {"step": 5, **base, "bank": "k", "bank_bytes": 1000, "bank_damaged": 0, **values}


def test_workers_and_sessions_are_summed():
    found = summed(report(step=9, bank="other"), report(rows_made=7, bank_damaged=2), report(wait_share=0.1))
    assert found == report(
        wait_share=0.1,
        rows_made=207,
        rows_found=150,
        teacher_seconds=6.0,
        teacher_seconds_saved=3.0,
        bank_damaged=2,
    )
    assert summed({}, {"rows_made": 3}) == {"rows_made": 3}
    assert summed({"rows_made": 3}, {}) == {}


def test_trials_are_summed_and_each_bank_counts_once():
    trials = [
        report(),
        report(bank_bytes=3_000_000, rows_made=12_000),
        report(bank="l", rows_found=math.nan, teacher_seconds=39.2, teacher_seconds_saved=607.8),
        {"step": 3},  # a control without synthetic rows
    ]
    # As the table of trials has them.
    sums = ledger(pd.DataFrame(trials).to_dict("records"))
    assert sums == {
        "rows_made": 12_200,
        "rows_found": 100,
        "rows_not_kept": 0,
        "teacher_seconds": 43.2,
        "teacher_seconds_saved": 609.8,
        "bank_bytes": 3_001_000,
        "bank_damaged": 0,
        "banks": ["k", "l"],
    }
    assert line(sums) == (
        "synthetic rows: 12,200 made, 100 found; the teacher took 43 s and the bank saved about 10 min 10 s; 3 MB"
    )
    odd = line(ledger([report(bank_damaged=2, rows_not_kept=1500)]))
    assert odd.endswith("; 1 kB; 2 damaged file(s) were made again; 1,500 of those made could not be kept")


@pytest.mark.parametrize("trials", [[], [{"step": 3}], [{"rows_made": math.nan}]])
def test_without_synthetic_rows_there_is_nothing_to_say(trials):
    assert ledger(trials) == {}


def test_without_a_bank_its_size_is_left_out():
    sums = ledger([{"rows_made": 64, "rows_found": 0, "teacher_seconds": 0.5}])
    assert line(sums) == "synthetic rows: 64 made, 0 found; the teacher took 0 s and the bank saved about 0 s"
