"""The generator that takes words of documents for queries."""

import pandas as pd
import pytest
import torch

from tests.helpers.retrieval import corpus, experiment, write
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.core.texts import to_bytes, to_texts
from tgt_ray.entrypoints import api
from tgt_ray.teacher.generators import SpanGenerator
from tgt_ray.training.local import prepare_local


def test_spans_are_words_of_their_documents_and_follow_from_the_generator():
    text = "The red car stands in the old garden near the harbour. It is old."
    model = SpanGenerator(least_words=3, most_words=5).build(InputSpec((64,)))
    rows = torch.from_numpy(to_bytes([text] * 40, 96))
    latents, context = model.encode(rows, torch.Generator().manual_seed(0))
    first, again = (
        to_texts(model.decode(latents, torch.Generator().manual_seed(1), context).numpy()) for _ in range(2)
    )
    assert first == again
    assert len(set(first)) > 5
    for span in first:
        assert span in text
        assert 3 <= len(span.split()) <= 5
    short = torch.from_numpy(to_bytes(["two words"], 96))
    assert to_texts(model.decode(latents[:1], torch.Generator().manual_seed(1), short).numpy()) == ["two words"]
    with pytest.raises(ConfigError, match="least_words 9 is more than most_words 4"):
        validate(SpanGenerator, {"least_words": 9, "most_words": 4})


def spans_of(text, count=60, **settings):
    model = SpanGenerator(**settings).build(InputSpec((64,)))
    rows = torch.from_numpy(to_bytes([text] * count, 512))
    return to_texts(model.decode(torch.zeros(count, 0), torch.Generator().manual_seed(1), rows).numpy())


def test_spans_of_texts_without_white_space_are_characters_of_a_sentence():
    ends = ("。", "！", "？", "｡")
    parts = (
        "赤い車は古い庭に止まっている",
        "青い船が港から出て行きました",
        "緑の家はどこにありますか",
        "白い椅子が台所に置いてある",
    )
    text = "".join(part + end for part, end in zip(parts, ends, strict=True))
    for spaced in (text, text.replace("。", "。 ")):
        found = set(spans_of(spaced, least_words=2, most_words=4))
        assert len(found) > 20
        assert {len(span) for span in found} == {4, 6, 8}
        for span in found:
            assert span in spaced
            assert not any(end in span[:-1] for end in ends), "a span goes over the end of a sentence"
    assert len({span[0] for span in found}) > 8


def test_spans_of_spaced_texts_are_words_even_where_these_are_long():
    address = "https://www.example.org/some/long/address/of/one/word"
    assert set(spans_of(f"{address} here.")) == {f"{address} here."}
    # As before there were characters: what is drawn, and in which order, has not changed.
    text = "The red car stands in the old garden near the harbour. It is old. Nobody has driven it for a long time!"
    assert spans_of(text, 4, least_words=3, most_words=5) == [
        "It is old.",
        "it for a long",
        "it for a long time!",
        "old garden near the harbour.",
    ]


def test_no_query_is_made_from_an_empty_document(encoder, tmp_path, caplog):
    documents = [{**each, "title": "", "text": ""} if each["_id"] in ("d00", "d23") else each for each in corpus()]
    root = write(tmp_path / "x", corpus=documents)
    config = experiment(root, encoder, teacher={"generator": {"type": "spans", "most_words": 6}}, train={"steps": 30})
    prepared = prepare_local(config, config.task.load(), Storage(str(tmp_path / "s")))
    assert "2 documents are empty" in caplog.text
    assert len(prepared.anchors.ids) == 46
    assert not {0, 15} & set(prepared.anchors.ids)
    (table,) = prepared.student.anchor_tables
    assert table["id"].to_pylist() == prepared.anchors.ids.tolist() == prepared.anchors.labels.tolist()
    api.run(config, storage=str(tmp_path), name="spans", local=True)
    shown = pd.read_parquet(tmp_path / "spans/gallery.parquet")
    assert all(row.explored and row.explored in row.anchor_text for row in shown.itertuples())
    assert (shown.anchor_class == shown.anchor).all()
