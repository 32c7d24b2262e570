"""A text of megabytes costs no more than what models see of it."""

import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers.retrieval import corpus, write
from tests.helpers.text_files import task
from tgt_ray.core.config import validate
from tgt_ray.core.texts import SEPARATOR, as_read, to_bytes, to_texts
from tgt_ray.tasks import Retrieval


def test_texts_are_as_rows_of_bytes_have_them():
    texts = ["short", "ä" * 20, f"{'a' * 30}{SEPARATOR}{'b' * 4}", "", f"{'a' * 30}{SEPARATOR}{'ö' * 30}"]
    assert as_read(texts, 15) == to_texts(to_bytes(texts, 15))


def test_no_whole_long_text_is_learnt_from_or_tokenized(tmp_path, learnt):
    texts = ["a good film", "a bad film", "good " * 200_000, "bad"]
    for split in ("train", "test", "validation"):
        pq.write_table(pa.table({"text": texts, "label": [1, 0, 1, 0]}), tmp_path / f"{split}.parquet")
    mine = task({"type": "parquet", "path": str(tmp_path)}, max_bytes=50)
    data = mine.load()
    assert learnt == ["a good film", "a bad film", "good " * 10, "bad"]
    assert mine.texts("train", data.tables["train"])[1] == learnt


def test_no_whole_long_document_is_learnt_from_or_tokenized(tmp_path, learnt):
    long = {"_id": "long", "title": "", "text": "word " * 200_000}
    root = write(tmp_path / "x", corpus=[*corpus(), long])
    mine = validate(Retrieval, {"type": "retrieval", "data": {"type": "beir", "path": str(root)}})
    data = mine.load()
    assert max(map(len, learnt)) <= 1024
    assert max(map(len, mine.texts("documents", data.tables["documents"])[1])) <= 1024
