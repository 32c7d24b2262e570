"""Retrieval as a task: queries with answers, and those of which nothing is known."""

import logging

import pytest

from tests.helpers.retrieval import corpus, experiment, judged, queries, write
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.tasks import Retrieval
from tgt_ray.training.local import prepare_local


def test_some_queries_keep_their_answers(beir):
    data = {"type": "beir", "path": str(beir)}
    whole = Retrieval(data=data).load()
    few = Retrieval(data=data, labelled={"rows": 10}).load()
    assert len(few.tables["train"]) == 10
    assert len(few.tables["unlabelled"]) == 38
    assert set(few.labels("unlabelled")) == {-1}
    assert (few.labels("train") >= 0).all()
    assert few.num_classes == whole.num_classes == len(corpus())
    assert few.fingerprints["documents"] == whole.fingerprints["documents"]
    alone = Retrieval(data=data, labelled={"rows": 10}, unlabelled="ignore").load()
    assert "unlabelled" not in alone.tables
    with pytest.raises(ConfigError, match=r"task\.labelled\.rows: 49 is more than the 48 queries"):
        Retrieval(data=data, labelled={"rows": 49}).load()


def more_queries():
    """Two that nobody has answered; one that test asks as well; and one judged with a document that is no answer."""
    texts = {"u0": "lamp red ?", "u1": "houses ?", "u2": queries()[48]["text"], "u3": "an old shirt ?"}
    return [{"_id": name, "text": text} for name, text in texts.items()]


@pytest.fixture(scope="module")
def unanswered(tmp_path_factory):
    train = [*judged("train"), {"query-id": "u3", "corpus-id": "d00", "score": 0}]
    root = tmp_path_factory.mktemp("beir") / "more"
    return write(root, queries=[*more_queries()[:1], *queries(), *more_queries()[1:]], train=train)


def test_queries_of_which_nothing_is_known_are_anchors(unanswered, caplog):
    data = {"type": "beir", "path": str(unanswered)}
    assert queries()[48]["_id"] in {each["query-id"] for each in judged("test")}
    with caplog.at_level(logging.INFO):
        whole = Retrieval(data=data).load()
    (line,) = (line for line in caplog.messages if "in no qrels file" in line)
    assert "2 queries are in no qrels file" in line
    assert "1 more have the text of a held-out query" in line
    assert whole.tables["unlabelled"]["text"].to_pylist() == ["lamp red ?", "houses ?"]
    assert whole.tables["unlabelled"]["id"].to_pylist() == [0, 97]
    assert set(whole.labels("unlabelled")) == {-1}
    assert len(whole.tables["train"]) == 48
    full = whole.tables["full"]
    assert full.slice(48).equals(whole.tables["unlabelled"])
    assert full.slice(0, 48).equals(whole.tables["train"])
    few = Retrieval(data=data, labelled={"rows": 10}, unlabelled="anchors").load()
    assert len(few.tables["unlabelled"]) == 38 + 2
    assert few.tables["unlabelled"].slice(38).equals(whole.tables["unlabelled"])
    assert few.tables["full"].slice(48).equals(whole.tables["unlabelled"])
    assert not set(few.tables["train"]["id"].to_pylist()) & set(few.tables["unlabelled"]["id"].to_pylist())
    ignored = Retrieval(data=data, unlabelled="ignore").load()
    assert "unlabelled" not in ignored.tables
    assert ignored.tables["full"].equals(ignored.tables["train"])


def test_queries_of_which_nothing_is_known_are_explored(unanswered, encoder, tmp_path):
    config = experiment(unanswered, encoder)
    anchors = prepare_local(config, config.task.load(), Storage(str(tmp_path))).anchors
    assert anchors.ids[48:].tolist() == [0, 97]
    assert corpus()[anchors.labels[48]]["title"] == "red lamp"


def test_anchors_without_answers_are_not_asked_for_where_there_are_none(beir):
    data = {"type": "beir", "path": str(beir)}
    with pytest.raises(ConfigError, match=r"task\.unlabelled: 'anchors', but all queries have answers"):
        Retrieval(data=data, unlabelled="anchors").load()
    Retrieval(data=data, unlabelled="ignore").load()


def test_long_documents_are_counted(beir, caplog):
    with caplog.at_level(logging.WARNING):
        Retrieval(data={"type": "beir", "path": str(beir)}, document_bytes=40).load()
    assert "48 of 48 documents are longer than task.document_bytes 40 and are cut" in caplog.text
