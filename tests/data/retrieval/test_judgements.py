"""Judgements as BEIR and TREC write them, and those that can't be used."""

import json
import logging

import pandas as pd
import pytest

from tests.helpers.retrieval import corpus, judged, queries, write
from tgt_ray.core.errors import ConfigError
from tgt_ray.data import BeirFolder


def scan(root):
    return BeirFolder(path=str(root)).scan()


def trec(root, line, head=""):
    """The folder with all judgements as lines of text."""
    for split in ("train", "validation", "test"):
        (root / f"qrels/{split}.parquet").unlink(missing_ok=True)
        rows = [line.format(*each.values()) for each in judged(split)]
        (root / f"qrels/{split}.tsv").write_text("\n".join([*([head] if head else []), *rows]) + "\n")
    return root


FORMS = {
    "trec, spaces": ("{} 0 {} {}", ""),
    "trec, tabs": ("{}\tQ0\t{}\t{}", ""),
    "trec, names": ("{}\t0\t{}\t{}", "TOPIC\tITERATION\tDOCUMENT\tRELEVANCY"),
    "trec, names and spaces": ("{} 0 {}  {}", "qid iter docid rel"),
    "no names": ("{}\t{}\t{}", ""),
    "a mark": ("{}\t{}\t{}", "\ufeffquery-id\tcorpus-id\tscore"),
}


@pytest.mark.parametrize(("line", "head"), FORMS.values(), ids=FORMS)
def test_forms_of_judgements_give_the_same(beir, tmp_path, line, head):
    found, wanted = scan(trec(write(tmp_path / "x"), line, head)), scan(beir)
    for split in ("train", "validation", "test"):
        assert getattr(found, split).fingerprint() == getattr(wanted, split).fingerprint()
    assert found.left_out == ()


WRONG = {
    "a run": ("{} Q0 {} 1 {} bm25", "", "train.tsv: line 1 is 'q000 Q0 d00 1 1 bm25'; expected a first line with"),
    "commas": ("{},{},{}", "query-id,corpus-id,score", "with commas between them, not with tabs"),
    "other names": ("{}\t{}\t{}", "query\tdoc\tgrade", "line 1 is 'query doc grade'; expected a first line"),
    "a grade": ("{} 0 {} good{}", "qid iter docid rel", "line 2 is 'q000 0 d00 good1'"),
}


@pytest.mark.parametrize(("line", "head", "says"), WRONG.values(), ids=WRONG)
def test_other_forms_are_refused(tmp_path, line, head, says):
    with pytest.raises(ConfigError) as err:
        scan(trec(write(tmp_path / "x"), line, head))
    assert says in " ".join(str(err.value).replace("\\t", " ").split())


def test_a_line_with_too_few_columns_is_named(tmp_path):
    root = trec(write(tmp_path / "x"), "{} 0 {} {}")
    with open(root / "qrels/test.tsv", "a") as file:
        file.write("q100 d00 1\n")
    with pytest.raises(ConfigError, match=r"test\.tsv: line \d+ is 'q100 d00 1', expected 4 columns"):
        scan(root)


def test_judgements_of_what_is_not_there_are_left_out_and_counted(tmp_path, caplog):
    more = [("q000", "ghost", 1), ("q001", "ghost", 1), ("nobody", "d00", 1), ("nobody", "ghost", 1)]
    rows = [*judged("train"), *({"query-id": q, "corpus-id": d, "score": s} for q, d, s in more)]
    found, plain = scan(write(tmp_path / "x", train=rows)), scan(write(tmp_path / "y"))
    assert found.train.fingerprint() == plain.train.fingerprint()
    assert [(each.what.split(" that")[0], each.count) for each in found.left_out] == [
        ("judgements of queries", 2),
        ("judgements of documents", 2),
    ]
    assert found.left_out[1].first.endswith("train.parquet q000 ghost")
    said = [line for line in caplog.messages if "these judgements are left out" in line]
    assert len(said) == 2 and "names 1 documents that the corpus doesn't have, the first: 'ghost'" in said[1]


def test_a_query_that_loses_its_answers_is_counted(tmp_path):
    rows = [{**each, "corpus-id": "ghost"} if each["query-id"] == "q000" else each for each in judged("train")]
    found = scan(write(tmp_path / "x", train=rows))
    assert "q000" not in found.train.keys.to_pylist() and "q000" not in found.unlabelled.keys.to_pylist()
    assert ("queries without an answer above 0", 1) in [(each.what, each.count) for each in found.left_out]


def test_a_split_that_loses_all_is_refused(tmp_path):
    rows = [{**each, "corpus-id": "ghost"} for each in judged("test")]
    with pytest.raises(ConfigError, match=r"test\.parquet: names 1 documents .* 'ghost'; no answer is left"):
        scan(write(tmp_path / "x", test=rows))


def test_pairs_that_come_twice_count_once_with_their_best_grade(tmp_path):
    rows = [*judged("train"), {"query-id": "q000", "corpus-id": "d00", "score": 2}, judged("train")[1]]
    found = scan(write(tmp_path / "x", train=rows))
    assert found.train.grades[0].as_py() == [2] and found.train.grades[1].as_py() == [1]
    (entry,) = found.left_out
    assert entry.what.startswith("judgements of a pair that comes twice") and entry.count == 2


def test_other_files_are_counted_and_validation_has_several_names(beir, tmp_path):
    root = write(tmp_path / "x")
    (root / "qrels/validation.parquet").rename(root / "qrels/valid.parquet")
    for name in ("qrels/small.tsv", "qrels/._test.parquet", "README.md"):
        (root / name).write_text("any")
    found = scan(root)
    assert found.validation.fingerprint() == scan(beir).validation.fingerprint()
    assert [(each.what.split(" (")[0], each.count, each.first) for each in found.left_out] == [
        ("files that are neither corpus nor queries", 1, "README.md"),
        ("hidden files", 1, "._test.parquet"),
        ("files in qrels of no split", 1, "small.tsv"),
    ]


def test_shards_of_the_corpus_are_read_in_order(beir, tmp_path):
    root = write(tmp_path / "x")
    (root / "corpus.parquet").unlink()
    for number, rows in enumerate((corpus()[:30], corpus()[30:])):
        pd.DataFrame(rows).to_parquet(root / f"corpus-0000{number}-of-00002.parquet")
    assert scan(root).documents.to_pylist() == scan(beir).documents.to_pylist()
    (root / "corpus-00000-of-00002.parquet").unlink()
    with pytest.raises(ConfigError, match="has 1 of 2 shards of corpus; the first that is missing is corpus-00000-of"):
        scan(root)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lines_of_any_metadata_ids_and_encoding(beir, tmp_path, encoding):
    root = write(tmp_path / "x")
    for name, rows in (("corpus", corpus()), ("queries", queries())):
        (root / f"{name}.parquet").unlink()
        lines = [json.dumps({**row, "metadata": {} if n % 2 else "x"}) for n, row in enumerate(rows)]
        lines.append(json.dumps({"_id": 7, "title": "", "text": "a number for an id"}))
        (root / f"{name}.jsonl").write_text("\n".join(lines), encoding=encoding)
    found = scan(root)
    assert found.train.fingerprint() == scan(beir).train.fingerprint()
    assert found.document_keys[-1].as_py() == "7"


def test_a_corpus_in_another_encoding_is_refused_with_its_line(tmp_path):
    root = write(tmp_path / "x")
    (root / "corpus.parquet").unlink()
    (root / "corpus.jsonl").write_bytes('{"_id": "1", "text": "a"}\n{"_id": "2", "text": "é"}\n'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"corpus\.jsonl: line 2 is not UTF-8 .*save the file as UTF-8"):
        scan(root)


def test_what_was_read_without_names_is_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        scan(trec(write(tmp_path / "x"), "{} 0 {} {}"))
    assert sum("query, iteration, document, grade" in line for line in caplog.messages) == 3
