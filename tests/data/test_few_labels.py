"""Rows without labels: few that keep theirs, and others that never had one."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.text_files import CLASSES, KINDS, task, write
from tgt_ray.core.errors import ConfigError
from tgt_ray.data import Labelled, LongTail


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.data())
@settings(deadline=None)
def test_labelled_rows_are_spread_over_the_classes(there, draw):
    rows = draw.draw(st.integers(len(there), sum(there)))
    counts = Labelled(rows=rows).counts(np.array(there))
    assert counts.sum() == rows and (counts >= 1).all() and (counts <= there).all()
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(there)), there))
    chosen = Labelled(rows=rows).choose(labels, len(there))
    np.testing.assert_array_equal(np.bincount(labels[chosen]), counts)
    assert len(set(chosen.tolist())) == rows and sorted(chosen) == chosen.tolist()


def test_labelled_rows_follow_their_seed_and_are_as_many_as_there_can_be():
    labels = np.repeat([0, 1], [90, 10])
    chosen = [Labelled(rows=20, seed=seed).choose(labels, 2).tolist() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(Labelled(rows=30, stratified=False).choose(labels, 2)) == 30
    with pytest.raises(ConfigError, match=r"task\.labelled\.rows: 101 is more than the 100 rows"):
        Labelled(rows=101).choose(labels, 2)
    with pytest.raises(ConfigError, match=r"task\.labelled\.rows: 1 is less than the 2 classes"):
        Labelled(rows=1).choose(labels, 2)
    with pytest.raises(ConfigError, match=r"leave class 1 without any; .*stratified: true"):
        Labelled(rows=2, stratified=False).choose(labels, 2)


@pytest.fixture
def few(tmp_path, splits):
    return task(write(tmp_path / "data", "parquet", splits), labelled={"rows": 9})


def test_what_has_no_label_is_a_table_of_its_own(few, tmp_path):
    data = few.load()
    assert data.tables["train"].num_rows == 9 and data.class_counts.tolist() == [3, 3, 3]
    ids = {split: data.tables[split]["id"].to_pylist() for split in ("train", "unlabelled", "full")}
    assert sorted(ids["train"] + ids["unlabelled"]) == ids["full"] == list(range(24))
    assert set(data.labels("unlabelled")) == {-1}
    assert sorted(np.flatnonzero(data.labels("full") >= 0)) == ids["train"]
    ignored = few.model_copy(update={"unlabelled": "ignore"}).load()
    assert ignored.tables.keys() == {"train", "full", "validation", "test"}
    assert ignored.tables["full"].equals(data.tables["full"]), "so that both have one teacher"
    every = few.model_copy(update={"labelled": Labelled(rows=24)}).load()
    assert "unlabelled" not in every.tables and every.class_counts.tolist() == [8, 8, 8]


def test_labels_that_are_not_to_be_used_change_nothing(tmp_path, splits):
    """Other labels in rows that have none: the same data, so the same teacher."""
    few = task(write(tmp_path / "data", "parquet", splits), labelled={"rows": 9, "stratified": False})
    before = few.load()
    for row in before.tables["unlabelled"]["id"].to_pylist():
        splits["train"]["label"][row] = (splits["train"]["label"][row] + 1) % 3
    write(tmp_path / "data", "parquet", splits)
    after = few.load()
    assert after.fingerprints == before.fingerprints
    assert all(table.equals(before.tables[split]) for split, table in after.tables.items())


def with_missing_as(splits, value):
    return {
        split: {**rows, "label": [value if label is None else label for label in rows["label"]]}
        for split, rows in splits.items()
    }


def as_names(splits):
    return {
        split: {**rows, "label": [None if label is None else CLASSES[label] for label in rows["label"]]}
        for split, rows in splits.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", ["null", "-1", "names and empty", "names and null"])
def test_rows_without_labels_are_unlabelled_where_that_is_permitted(tmp_path, kind, incomplete, missing, caplog):
    splits, known = incomplete
    more = {}
    if "names" in missing:
        splits, more = as_names(splits), {"label_names": CLASSES}
    if missing != "null":
        splits = with_missing_as(splits, {"-1": -1, "names and empty": " ", "names and null": None}[missing])
    source = {**write(tmp_path / "data", kind, splits), **more}
    with pytest.raises(ConfigError, match=r"6 (null values|such rows).*task\.unlabelled .*anchors or ignore"):
        task(source).load()
    with caplog.at_level(logging.INFO, "tgt_ray"):
        data = task(source, unlabelled="anchors").load()
    said = [record.getMessage() for record in caplog.records if "no label" in record.getMessage()]
    assert len(said) == 2
    assert said[0].endswith("6 of 24 rows have no label; unlabelled rows") and "train" in said[0]
    assert said[1].endswith("2 of 9 rows have no label; left out") and "test" in said[1]
    ids = {split: data.tables[split]["id"].to_pylist() for split in data.tables}
    assert ids["train"] == known and ids["unlabelled"] == list(range(0, 24, 4)) and ids["full"] == list(range(24))
    assert set(data.labels("unlabelled")) == {-1} and data.class_counts.tolist() == [6, 6, 6]
    assert np.flatnonzero(data.labels("full") >= 0).tolist() == known
    assert ids["test"] == [0, 1, 2, 3, 5, 6, 7] and data.labels("test").tolist() == [0, 1, 2, 0, 2, 0, 1]
    assert data.tables["unlabelled"]["text"].to_pylist() == splits["train"]["text"][::4]
    caplog.clear()
    with caplog.at_level(logging.INFO, "tgt_ray"):
        ignored = task(source, unlabelled="ignore").load()
    assert "6 of 24 rows have no label; left out" in caplog.text
    assert "unlabelled" not in ignored.tables and ignored.tables["full"].equals(ignored.tables["train"])
    assert all(ignored.tables[split].equals(data.tables[split]) for split in ("train", "validation", "test"))


@pytest.mark.parametrize("stratified", [True, False])
def test_rows_without_labels_change_nothing_for_those_with_labels(tmp_path, splits, stratified):
    """Validation and labelled rows are the same ones, with texts without labels between and after the others."""
    del splits["validation"]
    few = {"rows": 9, "stratified": stratified}
    plain = task(write(tmp_path / "plain", "parquet", splits), labelled=few).load()
    train = {name: list(values) for name, values in splits["train"].items()}
    for row in (0, 7, 26):
        for name, value in (("text", f"no label {row}"), ("more", "x"), ("label", None), ("id", 0)):
            train[name].insert(row, value)
    mine = task(
        write(tmp_path / "more", "parquet", {**splits, "train": train}), labelled=few, unlabelled="anchors"
    ).load()
    for split in ("train", "validation"):
        assert mine.tables[split].drop_columns("id").equals(plain.tables[split].drop_columns("id"))
    assert mine.tables["unlabelled"].num_rows == plain.tables["unlabelled"].num_rows + 3
    texts = mine.tables["unlabelled"]["text"].to_pylist()
    assert sorted(text for text in texts if text.startswith("no label")) == ["no label 0", "no label 26", "no label 7"]
    assert set(mine.labels("unlabelled")) == {-1} and mine.tables["full"].num_rows == plain.tables["full"].num_rows + 3
    with pytest.raises(ConfigError, match=r"task\.labelled\.rows: 22 is more than the 21 rows with labels"):
        few["rows"] = 22
        task({"type": "parquet", "path": str(tmp_path / "more")}, labelled=few, unlabelled="anchors").load()


def test_a_long_tail_leaves_rows_with_labels_over(tmp_path, incomplete):
    splits, _ = incomplete
    source, tail = write(tmp_path / "data", "csv", splits), LongTail(head=4, imbalance=2)
    data = task(source, long_tail=tail, unlabelled="anchors").load()
    assert data.class_counts.tolist() == [4, 3, 2] and data.tables["full"].num_rows == 24
    assert data.tables["unlabelled"]["id"].to_pylist() == list(range(0, 24, 4))


def test_minus_one_may_be_a_class(tmp_path, splits):
    for rows in splits.values():
        rows["label"] = [-1 if n % 2 else 1 for n in range(len(rows["label"]))]
    splits["train"]["label"][4] = None
    source = write(tmp_path / "data", "parquet", splits)
    with pytest.raises(ConfigError, match=r"label -1 in row 1 .* where it is a class, give task\.data\.label_names"):
        task(source).load()
    data = task({**source, "label_names": [-1, 1]}, unlabelled="anchors").load()
    assert data.class_counts.tolist() == [12, 11] and data.tables["unlabelled"]["id"].to_pylist() == [4]


def test_empty_texts_without_labels_are_counted_where_they_stay(tmp_path, incomplete):
    splits, _ = incomplete
    splits["train"]["text"][8] = splits["test"]["text"][4] = ""
    source = write(tmp_path / "data", "parquet", splits)
    with pytest.raises(ConfigError, match=r"train\.parquet: has 1 empty texts, the first in row 8"):
        task(source, unlabelled="anchors").load()
    assert task(source, unlabelled="ignore").load().tables["train"].num_rows == 18
    splits["train"]["text"][7] = ""
    write(tmp_path / "data", "parquet", splits)
    with pytest.raises(ConfigError, match=r"train\.parquet: has 1 empty texts, the first in row 7"):
        task(source, unlabelled="ignore").load()


def test_anchors_without_any_are_refused(tmp_path, splits):
    source = write(tmp_path / "data", "csv", splits)
    for more in ({}, {"labelled": {"rows": 24}}):
        with pytest.raises(
            ConfigError, match=r"task\.unlabelled: 'anchors', but every row of the train split has a label"
        ):
            task(source, unlabelled="anchors", **more).load()
    assert task(source, unlabelled="ignore").load().fingerprints == task(source).load().fingerprints
