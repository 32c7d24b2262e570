"""A run on too few synthetic rows says so: it has learnt them by heart."""

import logging

from tests.helpers.experiments import short
from tgt_ray.core.storage import Storage
from tgt_ray.training.local import train_local


def end(prepared, storage, tmp_path, caplog, rows):
    """The last report of a run, and what it said of its bank."""
    (tmp_path / "teachers").symlink_to(storage.path("teachers"))
    config = short(
        prepared.experiment,
        explorer={"type": "random", "sigma": 1.5},
        train__steps=150,
        train__eval_every=150,
        train__synthetic_ratio=1.0,
        pool__bank={"mode": "reuse", "rows": rows},
    )
    caplog.set_level(logging.WARNING)
    caplog.clear()
    last = train_local(config, prepared.prepared, Storage(tmp_path)).history[-1]
    return last, [each for each in caplog.messages if each.startswith("pool.bank.rows")]


def test_a_small_bank_is_learnt_by_heart(prepared, storage, tmp_path, caplog):
    last, (said,) = end(prepared, storage, tmp_path, caplog, 24)
    assert last["loss_fresh_rows"] > 1.1 * last["loss_seen_rows"]
    assert "the loss on synthetic rows that the student has never seen is" in said


def test_a_bank_of_all_rows_is_compared_with_none(prepared, storage, tmp_path, caplog):
    last, said = end(prepared, storage, tmp_path, caplog, 10_000)
    assert not said and "loss_fresh_rows" not in last
