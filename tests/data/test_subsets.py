"""Long tails, and rows held out for validation."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.text_files import task
from tgt_ray.core.errors import ConfigError
from tgt_ray.data import LongTail
from tgt_ray.data.base import stratified_holdout
from tgt_ray.tasks import ImageClassification


@given(st.integers(1, 500), st.floats(1, 200), st.integers(1, 30))
def test_long_tail_counts_follow_the_exponential_profile(head, imbalance, classes):
    expected = [head * imbalance ** (-c / max(1, classes - 1)) for c in range(classes)]
    counts = LongTail(head=head, imbalance=imbalance).counts(classes)
    assert (np.abs(counts - expected) <= 0.5 + 1e-9).all()
    assert counts[0] == head
    assert (np.diff(counts) <= 0).all()


def test_the_profile_of_the_default_experiment():
    assert LongTail(head=80, imbalance=20).counts(10).tolist() == [80, 57, 41, 29, 21, 15, 11, 8, 6, 4]


def test_the_long_tail_keeps_its_counts_and_follows_its_seed(digit_splits):
    labels = digit_splits.train.labels
    kept = {s: LongTail(head=80, imbalance=20, seed=s).subsample(labels, 10) for s in (0, 0, 1)}
    for rows in kept.values():
        np.testing.assert_array_equal(np.bincount(labels[rows]), LongTail(head=80, imbalance=20).counts(10))
        assert len(set(rows)) == len(rows)
    np.testing.assert_array_equal(kept[0], LongTail(head=80, imbalance=20, seed=0).subsample(labels, 10))
    assert set(kept[0]) != set(kept[1])


def test_a_class_left_empty_is_refused(digit_splits):
    with pytest.raises(ConfigError, match=r"task\.long_tail: class 8 is left empty by head 3 and imbalance 10"):
        LongTail(head=3, imbalance=10).subsample(digit_splits.train.labels, 10)


def test_a_head_beyond_the_rows_is_refused(digit_splits):
    with pytest.raises(ConfigError, match="should keep 500 rows, the train split has"):
        LongTail(head=500, imbalance=1).subsample(digit_splits.train.labels, 10)


def test_the_task_subsamples_the_students_split_alone():
    plain, tailed = ImageClassification(), ImageClassification(long_tail=LongTail(head=80, imbalance=20))
    plain_data, data = plain.load(), tailed.load()
    for split in ("full", "validation", "test"):
        assert data.tables[split].equals(plain_data.tables[split])
        assert data.fingerprints[split] == plain_data.fingerprints[split]
    assert plain_data.tables["train"].equals(plain_data.tables["full"])
    assert data.tables["train"].num_rows == 272 and data.fingerprints["train"] != plain_data.fingerprints["train"]
    ids = {split: set(data.tables[split]["id"].to_pylist()) for split in data.tables}
    assert ids["train"] < ids["full"]
    assert not ids["validation"] & (ids["full"] | ids["test"]) and not ids["test"] & ids["full"]


@given(st.lists(st.integers(2, 30), min_size=1, max_size=6), st.floats(0.01, 0.99), st.integers(0, 5))
@settings(deadline=None)
def test_a_holdout_takes_its_share_of_each_class(counts, fraction, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    kept, held = stratified_holdout(labels, fraction, seed, "test")
    assert sorted([*kept, *held]) == list(range(len(labels)))
    per_class = np.bincount(labels[held], minlength=len(counts))
    assert (per_class >= 1).all() and (np.bincount(labels[kept], minlength=len(counts)) >= 1).all()
    assert (np.abs(per_class - fraction * np.array(counts)) <= 1).all()


def test_a_class_of_one_row_cannot_be_held_out():
    with pytest.raises(ConfigError, match="class 1 has 1 row"):
        stratified_holdout(np.array([0, 0, 1]), 0.5, 0, "test")


def test_a_class_with_too_few_rows_to_hold_some_out_goes_by_its_name():
    labels = np.array([0, 0, 1])
    with pytest.raises(ConfigError, match=r"^rows: class 'dog' has 1 row, too few to hold a part of it out$"):
        stratified_holdout(labels, 0.5, 0, "rows", ("cat", "dog"))
    with pytest.raises(ConfigError, match=r"^rows: class 1 has 1 row"):
        stratified_holdout(labels, 0.5, 0, "rows")


@pytest.mark.parametrize("names", [("bad", "good"), None])
def test_sources_of_texts_name_it_as_well(tmp_path, names):
    for split in ("train", "test"):
        table = pa.table({"text": ["a", "b", "c"], "label": [0, 0, 1]})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    source = {"type": "parquet", "path": str(tmp_path), **({"label_names": names} if names else {})}
    if names:
        for split in ("train", "test"):
            table = pa.table({"text": ["a", "b", "c"], "label": ["bad", "bad", "good"]})
            pq.write_table(table, tmp_path / f"{split}.parquet")
    with pytest.raises(ConfigError, match=r"class 'good' has 1 row" if names else r"class 1 has 1 row"):
        task(source).scan()
