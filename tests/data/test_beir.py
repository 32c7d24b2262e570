"""Documents, queries and answers in BEIR's layout, and what is refused of them."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.helpers.retrieval import corpus, judged, queries, write
from tgt_ray.core.errors import ConfigError
from tgt_ray.data import BeirFolder


def test_the_layouts_of_beir_give_the_same(beir, tmp_path):
    other = tmp_path / "lines"
    (other / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", corpus()), ("queries", queries())):
        lines = [json.dumps({**row, "metadata": {"any": 1}}) for row in rows]
        (other / f"{name}.jsonl").write_text("\n".join(lines))
    for split, file in (("train", "train"), ("validation", "dev"), ("test", "test")):
        pd.DataFrame(judged(split)).to_csv(other / "qrels" / f"{file}.tsv", sep="\t", index=False)
    first, second = (BeirFolder(path=str(path)).scan() for path in (beir, other))
    assert first.documents.to_pylist() == second.documents.to_pylist()
    assert first.names == second.names
    for split in ("train", "validation", "test"):
        assert getattr(first, split).fingerprint() == getattr(second, split).fingerprint(), split


def test_a_query_has_all_its_answers_best_first(tmp_path):
    answers = [
        *judged("train"),
        {"query-id": "q000", "corpus-id": "d11", "score": 2},
        {"query-id": "q000", "corpus-id": "d12", "score": 0},
    ]
    train = BeirFolder(path=str(write(tmp_path / "x", train=answers))).scan().train
    ids = [row["_id"] for row in corpus()]
    assert train.relevant[0].as_py() == [ids.index("d11"), ids.index("d00")]
    assert train.grades[0].as_py() == [2, 1]
    assert train.labels[0] == ids.index("d11")
    assert train.without_labels(np.array([0])).labels[:2].tolist() == [-1, ids.index("d01")]


def test_queries_without_an_answer_are_left_out_and_counted(tmp_path, caplog):
    answers = [{**row, "score": 0} if row["query-id"] == "q000" else row for row in judged("train")]
    train = BeirFolder(path=str(write(tmp_path / "x", train=answers))).scan().train
    assert len(train) == len(judged("train")) - 1
    assert "1 queries have no answer" in caplog.text


def test_validation_is_held_out_where_there_is_none(beir, tmp_path):
    root = write(tmp_path / "x")
    (root / "qrels/validation.parquet").unlink()
    splits = BeirFolder(path=str(root), validation_fraction=0.25).scan()
    assert len(splits.validation) == 12
    assert len(splits.train) == 36
    assert not set(splits.validation.ids) & set(splits.train.ids)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (
            {"corpus": [*corpus(), corpus()[3]]},
            "corpus.parquet: 1 ids come more than once in column '_id', the first: 'd03'",
        ),
        ({"queries": [*queries(), queries()[0]]}, "queries.parquet: 1 ids come more than once"),
        (
            {
                "train": [
                    *({**each, "score": 0} for each in judged("train")),
                    *({"query-id": "q000", "corpus-id": name, "score": 1} for name in ("x1", "x2")),
                ]
            },
            "train.parquet: names 2 documents that the corpus doesn't have, the first: 'x1', 'x2'",
        ),
        (
            {"test": [{"query-id": "nobody", "corpus-id": "d00", "score": 1}]},
            "test.parquet: names 1 queries that the queries file doesn't have, the first: 'nobody'",
        ),
        (
            {"test": [{"query-id": "q000", "corpus-id": "d00", "score": 1}]},
            "1 queries are in train and in test, the first is 'q000'",
        ),
        ({"corpus": [{"_id": "d00", "body": "x"}]}, "corpus.parquet: has no column 'text'"),
        ({"queries": [{"_id": "q000", "text": " "}, *queries()[1:]]}, "has 1 empty queries, the first is 'q000'"),
        ({"train": [{"query-id": "q000", "corpus-id": "d00", "score": 0}]}, "has no score above 0"),
        (
            {"train": [{"query-id": "q000", "corpus-id": "d00", "score": float("inf")}]},
            "column 'score' has inf in row 0",
        ),
        (
            {"train": [{"query-id": "q000", "corpus-id": "d00", "score": "good"}]},
            "column 'score' has values that are not numbers",
        ),
        ({"corpus": [{"_id": "d00", "text": ["a", "list"]}]}, "column 'text' is list<element: string>, expected texts"),
        ({"corpus": [{"_id": "d00", "text": None}]}, "corpus.parquet: column 'text' has 1 null values"),
    ],
)
def test_data_that_does_not_fit_together_is_refused(other, says, tmp_path):
    with pytest.raises(ConfigError) as err:
        BeirFolder(path=str(write(tmp_path / "x", **other))).scan()
    assert says in str(err.value)


def test_json_lines_may_have_numbers_as_ids_and_must_have_some(tmp_path):
    root = write(tmp_path / "x")
    (root / "corpus.parquet").unlink()
    lines = [json.dumps({"_id": number, "text": row["text"]}) for number, row in enumerate(corpus())]
    (root / "corpus.jsonl").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"names 48 documents that the corpus doesn't have, the first: 'd00'"):
        BeirFolder(path=str(root)).scan()
    (root / "corpus.jsonl").write_text("\n".join(json.dumps({"text": row["text"]}) for row in corpus()))
    with pytest.raises(ConfigError, match=r"corpus\.jsonl: has no column '_id'"):
        BeirFolder(path=str(root)).scan()
    (root / "corpus.jsonl").write_text('{"_id": "a"')
    with pytest.raises(ConfigError, match="line 1 is not a JSON object"):
        BeirFolder(path=str(root)).scan()


def test_a_split_that_is_there_twice_is_refused(tmp_path):
    root = write(tmp_path / "x")
    (root / "qrels/dev.parquet").write_bytes((root / "qrels/validation.parquet").read_bytes())
    with pytest.raises(ConfigError, match="has both validation and dev; keep one"):
        BeirFolder(path=str(root)).scan()
    (root / "qrels/dev.parquet").unlink()
    pd.DataFrame(judged("test")).to_csv(root / "qrels/test.tsv", sep="\t", index=False)
    with pytest.raises(ConfigError, match=r"has both test\.parquet and test\.tsv; keep one"):
        BeirFolder(path=str(root)).scan()
    (root / "qrels/test.parquet").unlink()
    (root / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\tscore\nq100\td00\t1\t1\n")
    with pytest.raises(ConfigError, match=r"test\.tsv: has 2 columns 'score'"):
        BeirFolder(path=str(root)).scan()


def test_an_empty_corpus_and_missing_files_are_refused(tmp_path):
    root = write(tmp_path / "x")
    pd.DataFrame(
        {"_id": pa.array([], pa.string()).to_pandas(), "text": pa.array([], pa.string()).to_pandas()}
    ).to_parquet(root / "corpus.parquet")
    with pytest.raises(ConfigError, match=r"corpus\.parquet: holds no documents"):
        BeirFolder(path=str(root)).scan()
    (root / "corpus.parquet").unlink()
    with pytest.raises(ConfigError, match=r"no file corpus \(.parquet or .jsonl\)"):
        BeirFolder(path=str(root)).scan()


def test_queries_that_are_documents_of_the_corpus_are_counted(tmp_path, caplog):
    """As ArguAna has them: the text of a document, whose title is apart."""
    asked = [each["query-id"] for split in ("validation", "test") for each in judged(split)][:4]
    texts = {each["_id"]: each["text"] for each in queries()}
    more = [
        {"_id": asked[0], "title": "a title", "text": texts[asked[0]]},
        {"_id": asked[1], "title": "", "text": f" {texts[asked[1]]}"},
        {"_id": asked[2], "title": "", "text": "another text"},
        {"_id": "other", "title": "", "text": texts[asked[3]]},
        {"_id": "q000", "title": "", "text": texts["q000"]},  # of train
    ]
    BeirFolder(path=str(write(tmp_path / "x", corpus=[*corpus(), *more]))).scan()
    (line,) = (line for line in caplog.messages if "own document" in line)
    assert "2 validation and test queries are documents of the corpus" in line
    caplog.clear()
    BeirFolder(path=str(write(tmp_path / "y"))).scan()
    assert "own document" not in caplog.text


def test_a_corpus_of_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"corpus\.parquet: all documents are empty"):
        BeirFolder(
            path=str(write(tmp_path / "x", corpus=[{**each, "title": "", "text": " "} for each in corpus()]))
        ).scan()


def test_tables_may_be_packed_or_lie_in_folders_of_their_own(tmp_path):
    """As hubs have them: corpus.jsonl.gz, or corpus/corpus-00000-of-00002.parquet."""
    plain, packed, shards = (write(tmp_path / name) for name in ("plain", "packed", "shards"))
    for name in ("corpus", "queries"):
        table = pd.read_parquet(packed / f"{name}.parquet")
        table.to_json(packed / f"{name}.jsonl.gz", orient="records", lines=True)
        (packed / f"{name}.parquet").unlink()
        (shards / name).mkdir()
        for number, rows in enumerate((table[:20], table[20:])):
            rows.to_parquet(shards / name / f"{name}-0000{number}-of-00002.parquet")
        (shards / f"{name}.parquet").unlink()
    for split in ("train", "test", "validation"):
        table = pd.read_parquet(packed / "qrels" / f"{split}.parquet")
        table.to_csv(packed / "qrels" / f"{split}.tsv.gz", sep="\t", index=False)
        (packed / "qrels" / f"{split}.parquet").unlink()
    whole, *others = (BeirFolder(path=each).scan() for each in (plain, packed, shards))
    for each in others:
        assert each.documents.equals(whole.documents) and each.document_keys.equals(whole.document_keys)
        for split in ("train", "validation", "test"):
            assert getattr(each, split).fingerprint() == getattr(whole, split).fingerprint()
        assert each.left_out == whole.left_out == ()
