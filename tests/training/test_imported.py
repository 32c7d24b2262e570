"""A run takes imported rows, each once in an epoch, whoever of its workers has it."""

from itertools import islice

import numpy as np
import pytest

from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.bank.imported import facts, keep
from tgt_ray.training.banked import uses_bank
from tgt_ray.training.imported import check, imported_blocks

ROWS, SIZE = 24, 4


@pytest.fixture
def given(tmp_path, prepared):
    """An experiment, what its students get, and a storage with rows for it."""
    data, storage = prepared.prepared.student, Storage(tmp_path)
    inputs = np.zeros((ROWS, *data.input_shape), np.float32)
    logits = np.zeros((ROWS, data.num_classes), np.float32)
    logits[:, 0] = np.arange(ROWS)
    keep(storage, "gpt", lambda: iter([(inputs, logits)]), facts(data))
    plain = prepared.experiment.model_dump(mode="json")
    explorer, pool = {"type": "imported", "teacher": "gpt"}, {"rows_per_request": SIZE}
    return validate(Experiment, {**plain, "explorer": explorer, "pool": pool}), data, storage


def numbers(given, count, *where):
    blocks = islice(imported_blocks(*given, *where), count)
    return [each.columns["logits"][:, 0].astype(int).tolist() for each in blocks]


def test_workers_share_an_epoch(given):
    alone = numbers(given, 12, 0)
    one, other = (numbers(given, 6, 0, rank, 2) for rank in (0, 1))
    assert [each for both in zip(one, other, strict=True) for each in both] == alone
    for epoch in (alone[:6], alone[6:]):
        assert sorted(number for block in epoch for number in block) == list(range(ROWS))


def test_a_resumed_run_begins_where_it_was(given):
    assert numbers(given, 3, 5) == numbers(given, 8, 0)[5:]


def test_neither_bank_nor_pool_nor_generator_is_used(given):
    experiment = given[0]
    assert experiment.streams and not (experiment.uses_pool or experiment.uses_generator or uses_bank(experiment))


def test_each_trial_is_held_against_its_rows(given):
    experiment, data, storage = given
    assert check(*given) is not None
    other = experiment.model_copy(update={"explorer": experiment.explorer.model_copy(update={"teacher": "nobody"})})
    with pytest.raises(ConfigError, match="no rows were imported under 'nobody'"):
        next(imported_blocks(other, data, storage, 0))
    none = validate(Experiment, {**experiment.model_dump(mode="json"), "explorer": {"type": "none"}})
    assert check(none, data, storage) is None
