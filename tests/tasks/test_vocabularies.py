"""Which rows a vocabulary is learnt from."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.retrieval import corpus, queries, write
from tests.helpers.text_files import task
from tgt_ray.core.config import validate
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.storage import Storage
from tgt_ray.tasks import Retrieval


@pytest.fixture
def texts(tmp_path):
    """The config of texts whose first word tells their split."""
    for split, count in (("train", 40), ("validation", 8), ("test", 8)):
        table = pa.table({"text": [f"{split} {n}" for n in range(count)], "label": [n % 2 for n in range(count)]})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    return {"type": "parquet", "path": str(tmp_path)}


FEW = {"labelled": {"rows": 6}}


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 40),
        ({"long_tail": {"head": 10, "imbalance": 5}}, 12),
        ({"long_tail": {"head": 10, "imbalance": 5}, "vocabulary_split": "full"}, 40),
        (FEW, 40),
        ({**FEW, "unlabelled": "ignore"}, 6),
        ({**FEW, "unlabelled": "ignore", "vocabulary_split": "full"}, 40),
    ],
)
def test_it_is_learnt_from_the_rows_of_its_split(texts, learnt, settings, count):
    data = task(texts, **settings).load()
    assert len(learnt) == count and all(text.startswith("train ") for text in learnt)
    names = ["full"] if "vocabulary_split" in settings else ["train", "unlabelled"]
    assert learnt == [text for name in names if name in data.tables for text in data.tables[name]["text"].to_pylist()]


def test_no_held_out_row_shapes_it(texts, learnt, tmp_path):
    (tmp_path / "validation.parquet").unlink()
    data = task(texts).load()
    assert not set(learnt) & set(data.tables["validation"]["text"].to_pylist())


def test_queries_that_the_student_may_not_use_shape_none(tmp_path, learnt):
    source = {"type": "beir", "path": str(write(tmp_path / "beir"))}
    every = {}
    for split in ("train", "full"):
        learnt.clear()
        settings = {"labelled": {"rows": 3}, "unlabelled": "ignore", "vocabulary_split": split}
        data = validate(Retrieval, {"type": "retrieval", "data": source, **settings}).load()
        assert learnt[: len(corpus())] == data.tables["documents"]["document"].to_pylist()
        every[split] = learnt[len(corpus()) :]
        assert every[split] == data.tables[split]["text"].to_pylist()
        held_out = [text for name in ("validation", "test") for text in data.tables[name]["text"].to_pylist()]
        assert not set(every[split]) & set(held_out)
    assert len(every["train"]) == 3 < len(every["full"]) <= len(queries())


def test_one_of_an_older_version_is_not_found(texts, tmp_path, monkeypatch):
    """It was learnt from all of train, under a name that texts and size alone decided."""
    storage, names = Storage(tmp_path / "storage"), []
    monkeypatch.setattr(Storage, "find", lambda self, *name: names.extend(name))
    data = task(texts).load(storage)
    assert names == [each.name for each in (tmp_path / "storage" / "vocabularies").iterdir()]
    scan = task(texts).scan()
    assert scan.fingerprints["train"] == scan.fingerprints["full"] and data.tokenizer
    assert names != [f"{digest('bpe of cut texts', scan.fingerprints['full'], 8000)}.json"]
