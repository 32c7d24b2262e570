"""What a sweep says of the banks that its trials share."""

import pytest

from tgt_ray.core.config import validate
from tgt_ray.sweeps.banks import about_banks, row_bytes
from tgt_ray.sweeps.config import SweepConfig

RATIO = {"train.synthetic_ratio": {"uniform": [0.1, 0.5]}, "objective.temperature": {"loguniform": [1, 8]}}


def said(space=None, bank=None, explorer="random", seconds=None, **train):
    train = {"steps": 100, "batch_size": 64, **train}
    experiment = {"explorer": {"type": explorer}, "train": train, "pool": {"bank": bank or {}}}
    sweep = validate(SweepConfig, {"experiment": experiment, "space": {**RATIO, **(space or {})}})
    return about_banks(sweep, row_bytes((1, 8, 8), 10), seconds)


def test_what_has_nothing_to_do_with_rows_needs_one_bank():
    # 64 bytes of pixels, 40 of logits and 24 others; half of 6,400 rows.
    assert said() == "bank: all trials share one bank of synthetic rows, up to 3,200 rows (410 kB)"
    assert said(seconds=0.01).endswith("(410 kB), for which a generator takes about 32 s")


def test_values_are_counted_of_keys_that_rows_follow_from():
    levels = {"loguniform": [0.1, 1.0], "levels": 4}
    choice = {"choice": ["natural", "balanced"]}
    assert said({"explorer.sigma": levels}).startswith(
        "bank: trials share 4 banks of synthetic rows (explorer.sigma: 4 values), each of up to 3,200 rows"
    )
    assert "share 8 banks" in said({"explorer.sigma": levels, "explorer.anchors": choice})
    assert "share 2 banks" in said({"pool.rows_per_request": {"choice": [128, 256]}})
    assert "share one bank" in said({"train.learning_rate": {"loguniform": [0.001, 0.1]}})


def test_a_range_without_levels_shares_nothing():
    line = said({"explorer.sigma": {"loguniform": [0.1, 1.0]}})
    assert line.startswith("bank: trials share no synthetic rows, since explorer.sigma takes any value of a range")


def test_rows_for_one_student_are_shared_where_that_is_asked_for():
    assert "are made for it alone (pool.bank.mode: exact); with shared" in said(explorer="gradient")
    assert "share one bank" in said(explorer="gradient", bank={"mode": "shared"})


@pytest.mark.parametrize("rows, expected", [(1000, "1,000 rows"), (0.25, "800 rows")])
def test_rows_that_are_reused_are_fewer(rows, expected):
    assert f"up to {expected}" in said(bank={"mode": "reuse", "rows": rows})


def test_sweeps_without_rows_or_a_bank_say_so_or_nothing():
    assert said(bank={"mode": "none"}).startswith("bank: synthetic rows are not kept (pool.bank.mode: none)")
    assert said({"train.synthetic_ratio": {"choice": [0.0]}}, synthetic_ratio=0.0) is None
