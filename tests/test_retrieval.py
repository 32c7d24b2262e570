"""Retrieval: data in BEIR's layout, rankings against an independent library, teacher, students, and whole runs in one process."""

import json
import logging
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import check_name
from tgt_ray.core.texts import to_bytes, to_texts
from tgt_ray.data import BeirFolder
from tgt_ray.entrypoints import api
from tgt_ray.experiment.advice import warn_of_cut_texts
from tgt_ray.experiment.controls import control
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.text.tokens import corpus_tokens
from tgt_ray.models.text.vocabulary import train_tokenizer
from tgt_ray.objectives.criteria.embed_distill import EmbedDistillCriterion
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.tasks import Retrieval
from tgt_ray.tasks.metrics import ranking
from tgt_ray.teacher.generators import Doc2QueryGenerator, SpanGenerator
from tgt_ray.teacher.labelers.dual_encoder import DualEncoderLabeler
from tgt_ray.teacher.module import Teacher

COLOURS = ("red", "blue", "green", "black", "white", "yellow", "brown", "grey")
THINGS = ("car", "house", "lamp", "boat", "chair", "shirt")
PLACES = ("garden", "harbour", "kitchen", "street")


def corpus():
    return [
        {
            "_id": f"d{c}{t}",
            "title": f"{colour} {thing}",
            "text": f"A {colour} {thing} in the {PLACES[(c + t) % 4]}. Old {colour}.",
        }
        for c, colour in enumerate(COLOURS)
        for t, thing in enumerate(THINGS)
    ]


def queries():
    return [
        {"_id": f"q{n}{c}{t}", "text": text.format(colour=colour, thing=thing)}
        for n, text in enumerate(("{colour} {thing} ?", "a {thing} that is {colour} ?"))
        for c, colour in enumerate(COLOURS)
        for t, thing in enumerate(THINGS)
    ]


def judged(split):
    """The second half of the second kind of question is for validation and test."""
    return [
        {"query-id": query["_id"], "corpus-id": f"d{query['_id'][2:]}", "score": 1}
        for query in queries()
        if {"0": "train", "1": "validation" if int(query["_id"][2]) % 2 else "test"}[query["_id"][1]] == split
    ]


def write(root, **other):
    """A folder of Parquet files; other: rows in place of a file's own, under its name without the slash."""
    (root / "qrels").mkdir(parents=True)
    files = {"corpus": corpus(), "queries": queries()} | {
        f"qrels/{s}": judged(s) for s in ("train", "validation", "test")
    }
    for name, rows in files.items():
        table = pd.DataFrame(other.get(name.replace("qrels/", ""), rows))
        table.to_parquet(root / f"{name}.parquet")
    return root


@pytest.fixture(scope="module")
def beir(tmp_path_factory):
    return write(tmp_path_factory.mktemp("beir") / "things")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Random word embeddings: their mean says which words a text has, so that it finds documents with a query's words."""
    import transformers as t

    texts = [f"{each.get('title', '')} {each['text']}" for each in (*corpus(), *queries())]
    tokenizer = corpus_tokens(train_tokenizer(texts, 400), 32, "test").tokenizer
    config = t.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=0,
        num_attention_heads=2,
        max_position_embeddings=40,
    )
    torch.manual_seed(0)
    model = t.BertModel(config)
    model.embeddings.position_embeddings.weight.data.zero_()
    folder = tmp_path_factory.mktemp("models") / "encoder"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def experiment(beir, encoder, **changes):
    config = {
        "task": {
            "type": "retrieval",
            "data": {"type": "beir", "path": str(beir)},
            "max_bytes": 64,
            "document_bytes": 96,
            "vocabulary": 400,
        },
        "teacher": {
            "labeler": {"type": "dual_encoder", "path": str(encoder), "max_tokens": 24},
            "generator": {
                "type": "masked_lm",
                "layers": 1,
                "width": 16,
                "heads": 2,
                "max_tokens": 20,
                "mask_rate": 0.2,
                "pretrain": {"steps": 30},
            },
        },
        "student": {"type": "text_transformer", "layers": 0, "width": 24, "max_tokens": 20},
        "explorer": {"type": "random", "sigma": 0.5},
        "objective": {"type": "embed_distill"},
        "train": {"steps": 60, "batch_size": 16, "learning_rate": 0.02, "eval_every": 30},
        "pool": {"rows_per_request": 16, "window": 2},
        "fit_check": {"rows": 16},
    }
    for key, value in changes.items():
        config[key] = {**config[key], **value} if "type" not in value else value
    return validate(Experiment, config)


def test_rankings_are_measured_as_trec_eval_does():
    import ir_measures
    from ir_measures import RR, R, nDCG

    rng = np.random.default_rng(0)
    documents, size = 300, 40
    ranked = np.stack([rng.permutation(documents)[:100] for _ in range(size)])
    relevant = [rng.choice(documents, rng.integers(1, 15), replace=False) for _ in range(size)]
    grades = [rng.integers(1, 4, len(each)).astype(float) for each in relevant]
    found = ranking.measure(ranked, pa.chunked_array([relevant]), pa.chunked_array([grades]))
    qrels = [
        ir_measures.Qrel(str(q), str(d), int(g))
        for q in range(size)
        for d, g in zip(relevant[q], grades[q], strict=True)
    ]
    run = [ir_measures.ScoredDoc(str(q), str(d), -float(r)) for q in range(size) for r, d in enumerate(ranked[q])]
    wanted = {"ndcg_at_10": nDCG @ 10, "mrr_at_10": RR @ 10, **{f"recall_at_{k}": R @ k for k in (1, 5, 20, 100)}}
    oracle = ir_measures.calc_aggregate(list(wanted.values()), qrels, run)
    assert set(found) == set(ranking.NAMES) == set(wanted)
    for name, measure in wanted.items():
        assert found[name] == pytest.approx(100 * oracle[measure], abs=1e-6), name


def test_the_first_relevant_document_has_its_rank():
    ranked = np.array([[4, 2, 0], [1, 3, 2], [0, 1, 2]])
    relevant = pa.chunked_array([[[0, 2], [1], [3, 4]]])
    grades = pa.chunked_array([[[1.0, 1.0], [1.0], [1.0, 1.0]]])
    assert ranking.first_hits(ranked, relevant, grades).tolist() == [2, 1, 0]
    of_each = ranking.of_each(ranked, relevant, grades)
    assert of_each["mrr_at_10"].tolist() == [50.0, 100.0, 0.0]
    assert of_each["recall_at_5"].tolist() == [100.0, 100.0, 0.0]


def test_a_perfect_ranking_of_few_documents_is_perfect():
    found = ranking.measure(np.array([[2, 0, 1]]), pa.chunked_array([[[2]]]), pa.chunked_array([[[1.0]]]))
    assert found == dict.fromkeys(ranking.NAMES, 100.0)


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
        ({"corpus": [*corpus(), corpus()[3]]}, "corpus.parquet: 1 ids come more than once in column '_id', the first: 'd03'"),
        ({"queries": [*queries(), queries()[0]]}, "queries.parquet: 1 ids come more than once"),
        ({"train": [*judged("train"), {"query-id": "q000", "corpus-id": "x1", "score": 1}, {"query-id": "q000", "corpus-id": "x2", "score": 1}]}, "train.parquet: names 2 documents that the corpus hasn't, the first: 'x1', 'x2'"),
        ({"test": [{"query-id": "nobody", "corpus-id": "d00", "score": 1}]}, "test.parquet: names 1 queries that the queries file hasn't, the first: 'nobody'"),
        ({"test": [{"query-id": "q000", "corpus-id": "d00", "score": 1}]}, "1 queries are in train and in test, the first is 'q000'"),
        ({"corpus": [{"_id": "d00", "body": "x"}]}, "corpus.parquet: has no column 'text'"),
        ({"queries": [{"_id": "q000", "text": " "}, *queries()[1:]]}, "has 1 empty queries, the first is 'q000'"),
        ({"train": [{"query-id": "q000", "corpus-id": "d00", "score": 0}]}, "has no score above 0"),
        ({"train": [{"query-id": "q000", "corpus-id": "d00", "score": float("inf")}]}, "column 'score' has inf in row 0"),
        ({"train": [{"query-id": "q000", "corpus-id": "d00", "score": "good"}]}, "column 'score' has values that are no numbers"),
        ({"corpus": [{"_id": "d00", "text": ["a", "list"]}]}, "column 'text' is list<element: string>, expected texts"),
        ({"corpus": [{"_id": "d00", "text": None}]}, "corpus.parquet: column 'text' has 1 null values"),
    ],
)  # fmt: skip
def test_data_that_does_not_fit_together_is_refused(other, says, tmp_path):
    with pytest.raises(ConfigError) as err:
        BeirFolder(path=str(write(tmp_path / "x", **other))).scan()
    assert says in str(err.value)


def test_json_lines_may_have_numbers_as_ids_and_must_have_some(tmp_path):
    root = write(tmp_path / "x")
    (root / "corpus.parquet").unlink()
    lines = [json.dumps({"_id": number, "text": row["text"]}) for number, row in enumerate(corpus())]
    (root / "corpus.jsonl").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"names 48 documents that the corpus hasn't, the first: 'd00'"):
        BeirFolder(path=str(root)).scan()
    (root / "corpus.jsonl").write_text("\n".join(json.dumps({"text": row["text"]}) for row in corpus()))
    with pytest.raises(ConfigError, match=r"corpus\.jsonl: has no column '_id'"):
        BeirFolder(path=str(root)).scan()
    (root / "corpus.jsonl").write_text('{"_id": "a"')
    with pytest.raises(ConfigError, match="line 1 is no JSON object"):
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


def more_queries():
    """Two that nobody has answered; one that test asks as well; and one of which only a document is known that is no answer."""
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
    from tgt_ray.core.storage import Storage
    from tgt_ray.training.local import prepare_local

    config = experiment(unanswered, encoder)
    anchors = prepare_local(config, config.task.load(), Storage(str(tmp_path))).anchors
    assert anchors.ids[48:].tolist() == [0, 97]
    assert corpus()[anchors.labels[48]]["title"] == "red lamp"


def test_anchors_without_answers_are_not_asked_for_where_there_are_none(beir):
    data = {"type": "beir", "path": str(beir)}
    with pytest.raises(ConfigError, match=r"task\.unlabelled: 'anchors', but all queries have answers"):
        Retrieval(data=data, unlabelled="anchors").load()
    Retrieval(data=data, unlabelled="ignore").load()


def test_the_teacher_s_head_has_the_documents_embeddings(beir, encoder):
    data = Retrieval(data={"type": "beir", "path": str(beir)}, max_bytes=64, document_bytes=96).load()
    config = DualEncoderLabeler(path=str(encoder), document_prefix="find: ", query_prefix="ask: ")
    model = config.build(data.spec, data.num_classes)
    assert config.load_weights(model)["head"] == "fit"
    inputs = Retrieval(data={"type": "beir", "path": str(beir)}, document_bytes=96).inputs(
        data.tables["documents"], data.input_shape
    )
    embeddings, cut = config.document_embedder(model)(inputs)
    assert not cut.any()
    with torch.no_grad():
        model.head.weight.copy_(embeddings)
    from transformers import AutoModel, AutoTokenizer

    body, tokenizer = AutoModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)

    def embed(text):
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=40)["input_ids"]
        with torch.no_grad():
            return torch.nn.functional.normalize(body(ids).last_hidden_state.mean(dim=1), dim=1)[0]

    texts = [text.as_py() for text in data.tables["documents"]["document"]]
    wanted = torch.stack([embed(f"find: {text}") for text in texts])
    torch.testing.assert_close(embeddings, wanted, atol=1e-5, rtol=0)
    with torch.no_grad():
        said = model.eval()(torch.from_numpy(to_bytes(["red car ?"], 64)))
    query = embed("ask: red car ?")
    torch.testing.assert_close(said.embedding[0], query, atol=1e-5, rtol=0)
    torch.testing.assert_close(said.logits[0], wanted @ query / 0.05, atol=1e-4, rtol=0)


def test_a_document_that_fits_exactly_is_not_cut(encoder):
    text = "a red car and a blue lamp"
    plain = DualEncoderLabeler(path=str(encoder))
    whole = len(plain.build(InputSpec((64,)), 2).backbone.tokens.tokenizer(text)["input_ids"])
    for tokens, expected in ((whole, [False, False]), (whole - 1, [False, True])):
        config = DualEncoderLabeler(path=str(encoder), document_tokens=tokens)
        model = config.build(InputSpec((64,)), 2)
        config.load_weights(model)
        _, cut = config.document_embedder(model)(torch.from_numpy(to_bytes(["a red car", text], 64)))
        assert cut.tolist() == expected


def test_a_limit_that_the_model_has_no_positions_for_names_its_key(encoder):
    config = DualEncoderLabeler(path=str(encoder), max_tokens=16, document_tokens=100_000)
    model = config.build(InputSpec((64,)), 2)
    with pytest.raises(
        ConfigError, match=r"teacher\.labeler\.document_tokens: 100000, but the model has positions for"
    ):
        config.load_weights(model)


def sentence_model(encoder, folder, layers=("Transformer", "Pooling"), pooling=None, place="1_Pooling", **said):
    """A copy of the encoder with the files that sentence-transformers writes. layers: None without modules.json."""
    shutil.copytree(encoder, folder)
    if layers is not None:
        modules = [{"type": f"x.{each}", "path": place if each == "Pooling" else each} for each in layers]
        (folder / "modules.json").write_text(json.dumps(modules))
    (folder / place).mkdir()
    (folder / place / "config.json").write_text(json.dumps(pooling or {"pooling_mode_mean_tokens": True}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(said))
    return str(folder)


def built(path, **settings):
    return DualEncoderLabeler(path=str(path), **settings).build(InputSpec((64,)), 3)


@pytest.mark.parametrize(
    ("layers", "similarity", "given", "normalized"),
    [
        (("Transformer", "Pooling", "Normalize"), None, None, True),
        (("Transformer", "Pooling", "Normalize"), "dot", None, True),
        (("Transformer", "Pooling"), "cosine", None, True),
        (("Transformer", "Pooling"), "dot", None, False),
        (("Transformer", "Pooling"), "dot", True, True),
        (("Transformer", "Pooling"), "cosine", False, False),
        (("Transformer", "Pooling"), None, None, True),
        (("Transformer", "Pooling"), "euclidean", True, True),
        (None, "dot", None, False),
        (None, None, None, True),
    ],
)
def test_embeddings_are_normalised_where_the_model_compares_them_so(
    encoder, tmp_path, layers, similarity, given, normalized
):
    path = sentence_model(encoder, tmp_path / "x", layers, similarity_fn_name=similarity)
    assert built(path, normalize=given).normalize is normalized


@pytest.mark.parametrize("given", [None, False])
def test_a_model_that_compares_by_distances_is_refused(encoder, tmp_path, given):
    path = sentence_model(encoder, tmp_path / "x", similarity_fn_name="manhattan")
    with pytest.raises(ConfigError, match=r"compares embeddings by 'manhattan', .* give normalize: true"):
        built(path, normalize=given)


@pytest.mark.parametrize(
    ("said", "query", "document"),
    [
        ({"prompts": {"query": "q: ", "passage": "p: ", "corpus": "c: "}}, "q: ", "p: "),
        ({"prompts": {"corpus": "c: "}}, "", "c: "),
        ({"prompts": {"query": None, "document": None, "passage": "p: "}}, "", ""),
        ({"prompts": {"all": "a: ", "query": "q: "}, "default_prompt_name": "all"}, "q: ", "a: "),
        ({"prompts": {"all": "a: ", "document": ""}, "default_prompt_name": "all"}, "a: ", ""),
        ({"prompts": None}, "", ""),
        ({}, "", ""),
    ],
)
def test_prompts_are_those_of_the_model(encoder, tmp_path, said, query, document):
    path = sentence_model(encoder, tmp_path / "x", **said)
    model = built(path)
    assert model.backbone.tokens.prefix == query
    assert DualEncoderLabeler(path=path).documents_encoder(model).tokens.prefix == document


def test_a_default_prompt_that_is_not_there_is_refused(encoder, tmp_path):
    path = sentence_model(encoder, tmp_path / "x", prompts={"query": "q: "}, default_prompt_name="quary")
    with pytest.raises(ConfigError, match="default_prompt_name: 'quary' is none of its prompts; did you mean 'query'"):
        built(path)


def test_pooling_is_where_the_model_s_layers_say(encoder, tmp_path):
    cls = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    for place in ("1_Pooling", "2_Pooling"):
        assert built(sentence_model(encoder, tmp_path / place, pooling=cls, place=place)).backbone.pooling == "cls"
    alone = sentence_model(encoder, tmp_path / "alone", layers=None, pooling={"pooling_mode": ["cls"]})
    assert built(alone).backbone.pooling == "cls"
    shutil.rmtree(tmp_path / "2_Pooling/2_Pooling")
    with pytest.raises(ConfigError, match=r"has no file 2_Pooling/config\.json, where its modules\.json has pooling"):
        built(tmp_path / "2_Pooling")
    assert built(tmp_path / "2_Pooling", pooling="mean").backbone.pooling == "mean"
    with pytest.raises(ConfigError, match=r"its modules\.json has no layer 'Pooling'"):
        built(sentence_model(encoder, tmp_path / "none", layers=("Transformer",)))
    with pytest.raises(ConfigError, match="come from a layer 'Dense'"):
        built(sentence_model(encoder, tmp_path / "dense", layers=("Transformer", "Pooling", "Dense")))
    for pooling in ({"pooling_mode_lasttoken": True}, {"pooling_mode": "lasttoken"}, {"pooling_mode": ["lasttoken"]}):
        shutil.rmtree(tmp_path / "last", ignore_errors=True)
        with pytest.raises(ConfigError, match="its embeddings are pooled by lasttoken"):
            built(sentence_model(encoder, tmp_path / "last", pooling=pooling))


def test_a_prompt_that_is_not_pooled_is_refused(encoder, tmp_path):
    pooling = {"pooling_mode": "mean", "include_prompt": False}
    path = sentence_model(encoder, tmp_path / "x", pooling=pooling, prompts={"document": "p: "})
    assert not built(path).backbone.tokens.prefix
    with pytest.raises(ConfigError, match=r"leaves the tokens of its prompt 'q: ' out .* query_prefix: ''"):
        built(path, query_prefix="q: ")
    with pytest.raises(ConfigError, match=r"leaves the tokens of its prompt 'p: ' out .* document_prefix: ''"):
        DualEncoderLabeler(path=path).documents_encoder(built(path))
    DualEncoderLabeler(path=path, document_prefix="").documents_encoder(built(path))
    DualEncoderLabeler(path=path, pooling="mean").documents_encoder(built(path))


def test_how_texts_are_embedded_is_said_once_and_recorded(beir, encoder, tmp_path, caplog):
    from tgt_ray.core.storage import Storage
    from tgt_ray.training.local import prepare_local

    path = sentence_model(encoder, tmp_path / "x", prompts={"query": "q: "})
    labeler = {"type": "dual_encoder", "path": path, "max_tokens": 24, "document_prefix": "p: "}
    with caplog.at_level(logging.INFO):
        for normalize, who in ((None, "default"), (None, "default"), (True, "config")):
            caplog.clear()
            config = experiment(beir, encoder, teacher={"labeler": labeler | {"normalize": normalize}})
            record = prepare_local(config, config.task.load(), Storage(str(tmp_path / "s"))).teacher
            lines = [line for line in caplog.messages if " by " in line and line.startswith("teacher.labeler: ")]
            assert len(lines) == 2
            how = {
                "path": path,
                "revision": None,
                "max_tokens": 24,
                "pooling": "mean",
                "normalize": True,
                "normalize_said_by": who,
            }
            assert record["labeler"]["encoders"] == {
                "queries": {**how, "prompt": "q: "},
                "documents": {**how, "prompt": "p: "},
            }
            assert (
                f"queries by {path}: after the prompt 'q: ', up to 24 tokens, the mean of tokens, normalised to length 1"
                in lines[0]
            )
            assert all(("cosine, the default of sentence-transformers" in line) == (who == "default") for line in lines)
            assert all("teacher.labeler.normalize" in line for line in lines)


def test_a_model_without_states_of_its_tokens_is_refused(encoder, tmp_path):
    import transformers as t

    tokenizer = t.AutoTokenizer.from_pretrained(encoder)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = t.DPRConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **size)
    t.DPRQuestionEncoder(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    says = r"teacher\.labeler\.path: .* is a DPRQuestionEncoder, which gives no states of its tokens; use another model, or the same weights"
    with pytest.raises(ConfigError, match=says) as err:
        built(tmp_path)
    assert "\n" not in str(err.value)
    with pytest.raises(ConfigError, match=says):
        DualEncoderLabeler(path=str(encoder), document_path=str(tmp_path)).documents_encoder(built(encoder))


def test_a_second_tower_has_a_revision_of_its_own(encoder, monkeypatch):
    asked = set()

    def local(load, path, revision, **options):
        asked.add((path, revision))
        return load(str(encoder), **options)

    def nothing(path, revision, name):
        asked.add((path, revision))

    for module in ("encoder", "tokens"):
        monkeypatch.setattr(f"tgt_ray.models.text.{module}.from_hub", local)
    for module in ("sentence_settings", "tokens"):
        monkeypatch.setattr(f"tgt_ray.models.text.{module}.own_file", nothing)
    for given, revisions in (
        ({"revision": "a"}, {("x/queries", "a"), ("x/documents", None)}),
        ({"revision": "a", "document_revision": "b"}, {("x/queries", "a"), ("x/documents", "b")}),
    ):
        asked.clear()
        labeler = DualEncoderLabeler(path="x/queries", document_path="x/documents", **given)
        model = labeler.build(InputSpec((64,)), 3)
        fitted_by = labeler.load_weights(model)["fitted_by"]
        assert asked == revisions
    assert fitted_by == DualEncoderLabeler(path=str(encoder)).load_weights(built(encoder))["fitted_by"]
    with pytest.raises(
        ConfigError, match=r"document_revision: 'b' is of document_path, which is not given; .* revision"
    ):
        validate(DualEncoderLabeler, {"path": "x/queries", "document_revision": "b"})


def test_towers_that_disagree_on_normalisation_are_refused(encoder, tmp_path):
    cosine = sentence_model(encoder, tmp_path / "cosine", similarity_fn_name="cosine")
    dot = sentence_model(encoder, tmp_path / "dot", similarity_fn_name="dot")
    for first, second in ((cosine, dot), (dot, cosine), (dot, encoder)):
        towers = {"path": str(first), "document_path": str(second)}
        labeler = DualEncoderLabeler(**towers)
        with pytest.raises(ConfigError, match=r"document_path: .* teacher\.labeler\.normalize: true or false"):
            labeler.load_weights(labeler.build(InputSpec((64,)), 3))
        for given in (True, False):
            labeler = DualEncoderLabeler(**towers, normalize=given)
            model = labeler.build(InputSpec((64,)), 3)
            assert {each["normalize"] for each in labeler.load_weights(model)["encoders"].values()} == {given}
    labeler = DualEncoderLabeler(path=dot, document_path=dot)
    model = labeler.build(InputSpec((64,)), 3)
    labeler.load_weights(model)
    assert not model.normalize


def test_towers_of_different_sizes_are_refused(encoder, tmp_path):
    import transformers as t

    t.BertModel(
        t.BertConfig(vocab_size=400, hidden_size=16, num_hidden_layers=0, num_attention_heads=2)
    ).save_pretrained(tmp_path)
    t.AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path)
    config = DualEncoderLabeler(path=str(encoder), document_path=str(tmp_path))
    with pytest.raises(ConfigError, match=r"document_path: .* gives embeddings of 16 numbers, and path .* of 32"):
        config.load_weights(config.build(InputSpec((64,)), 3))


def test_a_second_tower_embeds_documents(encoder, tmp_path):
    import transformers as t

    torch.manual_seed(1)
    tokenizer = t.AutoTokenizer.from_pretrained(encoder)
    config = t.BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=0, num_attention_heads=2)
    t.BertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    heads = []
    for path in (None, str(tmp_path)):
        labeler = DualEncoderLabeler(path=str(encoder), document_path=path)
        model = labeler.build(InputSpec((64,)), 2)
        labeler.load_weights(model)
        embed = labeler.document_embedder(model)
        heads.append(embed(torch.from_numpy(to_bytes(["a red car", "a blue lamp"], 64)))[0])
    assert not torch.allclose(*heads)


def test_one_document_without_length_does_not_make_all_of_any_length():
    documents = np.eye(4, dtype=np.float32)
    documents[1] = 0
    assert EmbedDistillCriterion(3, documents, 1.0, 0.1, 0.2, 1.0, 1.0).unit
    assert not EmbedDistillCriterion(3, 2 * documents, 1.0, 0.1, 0.2, 1.0, 1.0).unit


def test_the_criterion_is_its_formula():
    """Against plain numpy, with rows of both kinds and a document that comes twice."""
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((20, 6)).astype(np.float32)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    torch.manual_seed(0)
    criterion = EmbedDistillCriterion(4, documents, 0.3, 0.1, 0.2, 0.7, 1.3)
    embedding, teacher = rng.standard_normal((5, 4)).astype(np.float32), rng.standard_normal((5, 6)).astype(np.float32)
    teacher /= np.linalg.norm(teacher, axis=1, keepdims=True)
    of_rows = np.array([3, 7, 3, 11, 7])
    said = {"embedding": torch.from_numpy(teacher), "document": torch.from_numpy(of_rows)}
    got = criterion(torch.from_numpy(embedding), torch.from_numpy(of_rows[:3]), said, {})
    student = embedding @ criterion.head.weight.detach().numpy().T + criterion.head.bias.detach().numpy()
    student /= np.linalg.norm(student, axis=1, keepdims=True)
    candidates = [3, 7, 11]

    def log_softmax(x):
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))

    own, its = student @ documents[candidates].T, teacher @ documents[candidates].T
    log_p, log_q = log_softmax(its / 0.1), log_softmax(own / 0.1)
    taught = 0.7 * np.linalg.norm(teacher - student, axis=1) + 1.3 * (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    ce = -log_softmax(own / 0.2)[np.arange(3), [0, 1, 0]]
    wanted = (0.7 * ce.sum() + 0.3 * taught[:3].sum() + taught[3:].sum()) / 5
    assert float(got.value.detach()) == pytest.approx(wanted, rel=1e-5)
    scores = criterion.scores(torch.from_numpy(embedding)).detach().numpy()
    np.testing.assert_allclose(scores, student @ documents.T / 0.1, rtol=1e-4, atol=1e-4)


def test_a_student_that_embeds_documents_is_taught_them_too():
    """Against plain numpy; the last three embeddings are of a batch's documents."""
    rng = np.random.default_rng(1)
    documents = rng.standard_normal((20, 6)).astype(np.float32)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    torch.manual_seed(0)
    criterion = EmbedDistillCriterion(4, documents, 0.25, 0.1, 0.2, 0.7, 1.3, own_documents=True)
    embedding, teacher = rng.standard_normal((4 + 3, 4)).astype(np.float32), documents[[5, 6, 7, 8]]
    of_rows, candidates = np.array([9, 2, 9, 4]), [2, 4, 9]
    said = {"embedding": torch.from_numpy(teacher), "document": torch.from_numpy(of_rows)}
    rows, further = torch.from_numpy(embedding).split([4, 3])
    got = criterion(rows, torch.from_numpy(of_rows[:2]), said, {"documents": further})
    out = embedding @ criterion.head.weight.detach().numpy().T + criterion.head.bias.detach().numpy()
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    student, own = out[:4], out[4:]

    def log_softmax(x):
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))

    log_p, log_q = log_softmax(teacher @ documents[candidates].T / 0.1), log_softmax(student @ own.T / 0.1)
    taught = 0.7 * np.linalg.norm(teacher - student, axis=1) + 1.3 * (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    ce = -log_softmax(student @ own.T / 0.2)[np.arange(2), [2, 0]]
    apart = np.linalg.norm(documents[candidates] - own, axis=1).mean()
    wanted = (0.75 * ce.sum() + 0.25 * taught[:2].sum() + taught[2:].sum()) / 4 + 0.7 * apart * (0.25 * 2 + 2) / 4
    assert float(got.value.detach()) == pytest.approx(wanted, rel=1e-5)
    assert float(got.parts["distance_documents"]) == pytest.approx(apart, rel=1e-5)


@pytest.mark.parametrize("longest", [30, 300])  # 300: more than a query's row can have, or a document's
def test_a_dual_encoder_ranks_its_own_documents(beir, encoder, tmp_path, longest):
    student = {"type": "text_transformer", "layers": 0, "width": 24, "max_tokens": longest}
    objective = {"type": "embed_distill", "document_encoder": "student"}
    config = experiment(beir, encoder, student=student, objective=objective, train={"steps": 200, "eval_every": 100})
    found = api.run(config, storage=str(tmp_path), name="both", local=True)
    last = found.metrics.iloc[-1]
    assert last.test_recall_at_20 > 60
    assert last.train_distance_documents < found.metrics.iloc[0].train_distance_documents
    import safetensors.numpy

    # The weights are the student's alone: documents are embedded by them.
    weights = safetensors.numpy.load((tmp_path / "both/student.safetensors").read_bytes())
    assert not any("documents" in name for name in weights)


def test_half_precision_ranks_as_full_does():
    documents = torch.nn.functional.normalize(torch.randn(2000, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    torch.manual_seed(0)
    criterion = EmbedDistillCriterion(5, documents.numpy(), 1.0, 0.05, 0.05, 1.0, 1.0)
    rows = torch.randn(3, 5)
    with torch.no_grad():
        wanted = criterion.scores(rows)
        with torch.autocast("cpu", torch.bfloat16):
            got = criterion.scores(rows)
            said = {"embedding": documents[:3], "document": torch.arange(3)}
            loss = criterion(rows, torch.arange(3), said, {}).value
    assert got.dtype == loss.dtype == torch.float32
    assert torch.equal(got, wanted)


def test_documents_are_not_sent_around_and_move_with_the_module():
    criterion = EmbedDistillCriterion(5, np.eye(4, dtype=np.float32), 1.0, 0.05, 0.05, 1.0, 1.0)
    assert not list(criterion.buffers())
    assert criterion.to(torch.float64).documents.dtype == torch.float64


def test_a_student_that_is_the_teacher_has_nothing_to_learn():
    documents = torch.nn.functional.normalize(torch.randn(9, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    criterion = EmbedDistillCriterion(5, documents.numpy(), 1.0, 0.05, 0.05, 1.0, 1.0)
    with torch.no_grad():
        criterion.head.weight.copy_(torch.eye(5))
        criterion.head.bias.zero_()
    rows = documents[:4] + 0.0
    loss = criterion(rows, torch.arange(4), {"embedding": rows, "document": torch.arange(4)}, {})
    assert float(loss.value.detach()) == pytest.approx(0, abs=1e-6)


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
    text = "".join(f"{word}" + end for word, end in zip(("赤い車は古い庭に止まっている", "青い船が港から出て行きました", "緑の家はどこにありますか", "白い椅子が台所に置いてある"), ends, strict=True))  # fmt: skip
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
    from tgt_ray.core.storage import Storage
    from tgt_ray.training.local import prepare_local

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


def test_a_corpus_of_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"corpus\.parquet: all documents are empty"):
        BeirFolder(
            path=str(write(tmp_path / "x", corpus=[{**each, "title": "", "text": " "} for each in corpus()]))
        ).scan()


@pytest.fixture(scope="module")
def done(beir, encoder, tmp_path_factory):
    storage = str(tmp_path_factory.mktemp("runs"))
    return api.run(
        experiment(beir, encoder, train={"steps": 200, "eval_every": 100}), storage=storage, name="run", local=True
    )


def test_a_run_learns_to_rank_and_leaves_what_it_should(done, beir):
    from pathlib import Path

    last = done.metrics.iloc[-1]
    ceiling = done.record["teacher"]["labeler"]["quality"]["test"]
    assert set(ranking.NAMES) <= set(ceiling)
    # By chance 20 of 48 documents are 42 %.
    assert last.test_recall_at_20 > 60
    assert last.test_ndcg_at_10 > 0.7 * ceiling["ndcg_at_10"]
    assert 0 < last.train_distance_synthetic < 1.5
    folder = Path(done.folder)
    assert {"student.safetensors", "tokenizer.json", "gallery.html", "gallery.parquet", "fit_check.html"} <= {
        each.name for each in folder.iterdir()
    }
    scan = Retrieval(data={"type": "beir", "path": str(beir)}).scan()
    each = pd.read_csv(folder / "per_query.csv")
    assert each["query_text"].tolist() == scan.tables["test"]["text"].to_pylist()
    # They are found again in the files that they are from.
    asked = pd.DataFrame(queries()).set_index("_id").loc[each["query_id"]]
    assert each["query_text"].tolist() == asked["text"].tolist()
    answers = pd.DataFrame(judged("test")).set_index("query-id")["corpus-id"]
    assert each["best_answer_id"].tolist() == answers[each["query_id"]].tolist()
    titles = pd.DataFrame(corpus()).set_index("_id")["title"]
    for which in ("first", "best_answer"):
        said = each[f"{which}_text"].str.partition(".")[0]
        assert said.tolist() == titles[each[f"{which}_id"]].tolist()
    assert ((each["rank"] == 1) == (each["first_id"] == each["best_answer_id"])).all()
    for name in ranking.NAMES:
        assert each[name].mean() == pytest.approx(last[f"test_{name}"])
    found = each[each["rank"].notna()]
    assert np.allclose(found.mrr_at_10, np.where(found["rank"] <= 10, 100 / found["rank"], 0))
    assert (found[found["rank"] == 1].mrr_at_10 == 100).all()
    shown = pd.read_parquet(folder / "gallery.parquet")
    assert ((shown.teacher_p > 0) & (shown.teacher_p <= 1)).all()
    assert "red car" in (folder / "gallery.html").read_text()


def test_no_run_is_called_as_a_folder_that_the_storage_keeps(done):
    from pathlib import Path

    kept = {each.name for each in Path(done.folder).parent.iterdir()} - {"run"}
    assert {"documents", "teachers", "vocabularies"} <= kept
    for name in kept:
        with pytest.raises(ConfigError, match="the storage keeps its own files there"):
            check_name(name)


def test_the_teacher_cache_has_no_scores_of_all_documents(done):
    from pathlib import Path

    import safetensors.numpy

    cache = Path(done.folder).parent / "teacher_cache"
    shapes = [{n: v.shape for n, v in safetensors.numpy.load(file.read_bytes()).items()} for file in cache.iterdir()]
    assert shapes == [{"embedding": (48, 32)}]


def test_documents_are_embedded_again_only_where_they_would_differ(beir, encoder, tmp_path):
    from tgt_ray.core.storage import Storage
    from tgt_ray.teacher.store import prepare_teacher

    def prepared(**changes):
        config = experiment(beir, encoder, **changes)
        data = config.task.load()
        return prepare_teacher(config.teacher, config.task, data, Storage(str(tmp_path)))[1]["labeler"]

    def files():
        return {each.name for each in (tmp_path / "documents").iterdir()}

    first, there = prepared(), files()
    assert len(there) == 1
    # Queries that are cut elsewhere are others for the teacher's quality, and documents stay as they are.
    cut = prepared(task={"max_bytes": 8, "vocabulary": 350})
    assert cut["fingerprint"] == first["fingerprint"]
    assert cut["quality"]["test"] != first["quality"]["test"]
    assert files() == there
    labeler = {"type": "dual_encoder", "path": str(encoder), "max_tokens": 24}
    prepared(teacher={"labeler": {**labeler, "temperature": 0.1, "query_prefix": "ask: "}})
    assert files() == there
    prepared(teacher={"labeler": {**labeler, "document_prefix": "find: "}})
    prepared(teacher={"labeler": {**labeler, "normalize": False}})
    assert len(files()) == 3


@pytest.mark.parametrize("name", ["one_hot", "distillation"])
def test_controls_are_of_retrieval(beir, encoder, name, tmp_path):
    plain = control(experiment(beir, encoder), name)
    assert plain.objective.type == "embed_distill"
    assert plain.objective.embedding_weight == 0
    assert plain.objective.alpha == (0 if name == "one_hot" else 1)
    assert not plain.streams


def test_queries_as_they_are_come_with_what_the_teacher_says(beir, encoder, tmp_path):
    config = experiment(beir, encoder, task={"labelled": {"rows": 8}}, explorer={"type": "identity"})
    found = api.run(config, storage=str(tmp_path), name="identity", local=True)
    shown = pd.read_parquet(tmp_path / "identity/gallery.parquet")
    assert (shown.explored == shown.anchor_text).all() and shown.anchor_class.isna().any()
    assert found.record["teacher"]["fit_check"]["agreement_explored"] == 100
    with pytest.raises(ConfigError, match="'identity' takes anchors as they are, and"):
        experiment(beir, encoder, explorer={"type": "identity"}, teacher={"generator": {"type": "spans"}})
    # Before a sweep starts, and not when the control's turn has come.
    spans = experiment(beir, encoder, task={"labelled": {"rows": 8}}, teacher={"generator": {"type": "spans"}})
    sweep = {"experiment": spans.model_dump(mode="json"), "space": {"train.learning_rate": {"choice": [0.1]}}}
    assert validate(SweepConfig, sweep).search.controls == ["one_hot", "distillation"]
    with pytest.raises(ConfigError, match=r"search\.controls: 'anchors': .*'identity' takes anchors as they are"):
        validate(SweepConfig, sweep | {"search": {"controls": ["anchors"]}})


def test_queries_are_made_from_documents(beir, encoder, tmp_path):
    config = experiment(
        beir, encoder, task={"labelled": {"rows": 8}}, teacher={"generator": {"type": "spans", "most_words": 6}}
    )
    found = api.run(config, storage=str(tmp_path), name="spans", local=True)
    shown = pd.read_parquet(tmp_path / "spans/gallery.parquet")
    assert all(row.explored in row.anchor_text for row in shown.itertuples())
    assert (shown.anchor_class == shown.anchor).all()
    assert found.record["teacher"]["fit_check"]["agreement_explored"] > 20
    assert "no trained query generator was used" in found.record["teacher"]["generator"]["queries"]


@pytest.fixture(scope="module")
def writer(encoder, tmp_path_factory):
    """A small encoder-decoder with the encoder's vocabulary that has learnt to write a document's title."""
    import transformers as t

    tokenizer = t.AutoTokenizer.from_pretrained(encoder)
    start, pad, end = tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id
    config = t.BartConfig(
        vocab_size=len(tokenizer), d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=48, dropout=0.0,
        bos_token_id=start, pad_token_id=pad, eos_token_id=end, decoder_start_token_id=end, forced_eos_token_id=end,
    )  # fmt: skip
    torch.manual_seed(0)
    model = t.BartForConditionalGeneration(config)
    documents = [
        f"say: {each['title']}. {each['text']}" if each.get("title") else f"say: {each['text']}" for each in corpus()
    ]
    ids = tokenizer(documents, padding=True, return_tensors="pt", return_token_type_ids=False)
    said = [each.removeprefix("say: ").partition(".")[0] for each in documents]
    labels = tokenizer(said, padding=True, return_tensors="pt")["input_ids"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(250):
        optimizer.zero_grad()
        model(**ids, labels=labels.masked_fill(labels == pad, -100)).loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("models") / "writer"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def doc2query(writer, **more):
    return {"type": "doc2query", "path": str(writer), "prefix": "say: ", "max_tokens": 40, "max_new_tokens": 12} | more


def test_a_trained_model_writes_queries_of_documents(beir, encoder, writer, tmp_path):
    config = experiment(beir, encoder, task={"labelled": {"rows": 8}}, teacher={"generator": doc2query(writer)})
    found = api.run(config, storage=str(tmp_path), name="written", local=True)
    shown = pd.read_parquet(tmp_path / "written/gallery.parquet")
    assert (shown.anchor_class == shown.anchor).all()
    begins = [text.startswith(query.split()[0]) for text, query in zip(shown.anchor_text, shown.explored, strict=True)]
    assert np.mean(begins) > 0.8
    assert found.record["teacher"]["fit_check"]["agreement_explored"] > 20
    assert found.record["teacher"]["generator"]["weights"].endswith("writer")


def test_what_is_written_follows_from_the_generator_alone(beir, writer):
    shape = InputSpec((64,), "")
    model = validate(Doc2QueryGenerator, doc2query(writer, temperature=8.0)).build(shape).eval()
    rows = torch.from_numpy(to_bytes([each["text"] for each in corpus()][:6], 96))

    def written(seed):
        rng = torch.Generator().manual_seed(seed)
        latents, context = model.encode(rows, rng)
        return to_texts(model.decode(latents, rng, context).numpy())

    assert written(0) == written(0) != written(1)
    assert all(0 < len(text) <= 64 for text in written(0))


def test_how_is_drawn_is_not_said_by_the_model_s_folder(beir, writer, tmp_path):
    shutil.copytree(writer, tmp_path / "other")
    settings = json.loads((writer / "generation_config.json").read_text())
    strange = {"num_return_sequences": 3, "top_p": 0.01, "repetition_penalty": 5.0, "do_sample": True}
    (tmp_path / "other/generation_config.json").write_text(json.dumps(settings | strange))
    rows = torch.from_numpy(to_bytes([each["text"] for each in corpus()][:6], 96))
    written, facts = [], []
    for folder in (writer, tmp_path / "other"):
        model = validate(Doc2QueryGenerator, doc2query(folder)).build(InputSpec((64,), "")).eval()
        latents, context = model.encode(rows, torch.Generator())
        written.append(model.decode(latents, torch.Generator().manual_seed(0), context))
        facts.append(model.facts())
    assert torch.equal(*written)
    assert facts[0] == facts[1]


def test_documents_that_are_cut_are_counted(beir, encoder, writer, caplog):
    config = experiment(beir, encoder, teacher={"generator": doc2query(writer, max_tokens=8)})
    with caplog.at_level(logging.WARNING):
        warn_of_cut_texts(config, config.task.load())
    assert "teacher.generator: cuts 48 of 48 documents to its 8 tokens" in caplog.text


def test_a_query_writer_needs_documents_and_its_model_s_limits(beir, encoder, writer):
    shape = InputSpec((64,), "")
    with pytest.raises(ConfigError, match=r"max_tokens: 300, but the model has positions for 48 tokens"):
        validate(Doc2QueryGenerator, doc2query(writer, max_tokens=300)).build(shape)
    with pytest.raises(ConfigError, match=r"max_new_tokens: 60, but the model has positions for 48 tokens"):
        validate(Doc2QueryGenerator, doc2query(writer, max_new_tokens=60)).build(shape)
    with pytest.raises(ConfigError, match="unknown key 'layers'"):
        validate(Doc2QueryGenerator, doc2query(writer, layers=1))
    with pytest.raises(ConfigError, match=r"teacher\.generator\.type: 'doc2query'"):
        config = experiment(beir, encoder).model_dump(mode="json")
        task = {"type": "text_classification", "data": {"type": "parquet", "path": str(beir)}}
        labeler = {"type": "text_transformer"}
        teacher = {"labeler": labeler, "generator": doc2query(writer)}
        validate(Experiment, config | {"task": task, "teacher": teacher, "objective": {"type": "distillation"}})
    with pytest.raises(ConfigError, match=r"explorer\.type"):
        experiment(beir, encoder, teacher={"generator": doc2query(writer)}, explorer={"type": "random-matched"})


def test_rows_without_answers_are_anchors_of_what_the_teacher_finds(beir, encoder, tmp_path):
    from tgt_ray.core.storage import Storage
    from tgt_ray.training.local import prepare_local

    config = experiment(beir, encoder, task={"labelled": {"rows": 8}})
    data = config.task.load()
    prepared = prepare_local(config, data, Storage(str(tmp_path)))
    assert len(prepared.anchors.ids) == 48
    assert (prepared.anchors.labels[:8] == data.labels("train")).all()
    # The teacher finds most of them.
    texts = data.tables["unlabelled"]["text"].to_pylist()
    documents = data.tables["documents"]["document"].to_pylist()
    right = [
        documents[label].split(".")[0] in text for label, text in zip(prepared.anchors.labels[8:], texts, strict=True)
    ]
    assert np.mean(right) > 0.5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objective": {"type": "distillation"}}, "objective.type: 'distillation' needs the signal 'logits', and the labeler scores documents, too many for logits of all of them; legal: embed_distill"),
        ({"teacher": {"labeler": {"type": "text_transformer"}}}, "teacher.labeler.type: 'text_transformer' is for tasks whose answers are classes"),
        ({"train": {"sampling": "balanced"}}, "train.sampling: 'balanced' is for classes"),
        ({"train": {"second_phase": {"type": "crt"}}}, "train.second_phase: 'crt' is for classes"),
        ({"explorer": {"anchors": "balanced"}}, "explorer.anchors: 'balanced' is for classes"),
        ({"objective": {"type": "embed_distill", "alpha": 0, "embedding_weight": 0, "score_weight": 0}}, "synthetic rows teach nothing"),
        ({"explorer": {"type": "interpolation"}}, "explorer.type: 'interpolation' goes between"),
        ({"objective": {"type": "embed_distill", "embedding_weight": 0, "score_weight": 0}}, "nothing is learnt from the teacher"),
    ],
)  # fmt: skip
def test_what_is_not_for_retrieval_is_refused(beir, encoder, changes, says):
    with pytest.raises(ConfigError) as err:
        experiment(beir, encoder, **changes)
    assert says in str(err.value)


def test_a_dual_encoder_s_documents_are_unknown_to_generators(beir, encoder):
    with pytest.raises(ConfigError, match=r"objective\.document_encoder: student, but explorer\.type 'gradient' looks"):
        experiment(
            beir,
            encoder,
            objective={"type": "embed_distill", "document_encoder": "student"},
            explorer={"type": "gradient"},
        )


def test_gradients_need_one_vocabulary(beir, encoder):
    config = experiment(beir, encoder, explorer={"type": "gradient"})
    with pytest.raises(ConfigError, match="needs generator, labeler and student with one vocabulary"):
        config.check_files()
    labeler = {"type": "dual_encoder", "path": str(encoder), "query_prefix": "ask: "}
    config = experiment(beir, encoder, explorer={"type": "gradient"}, teacher={"labeler": labeler})
    with pytest.raises(ConfigError, match="before which the labeler's prompt 'ask: ' can't be put"):
        config.check_files()


def test_gradients_move_queries_a_few_at_a_time(beir, encoder, tmp_path, monkeypatch):
    import transformers as t

    tokenizer = t.AutoTokenizer.from_pretrained(encoder)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    t.BertForMaskedLM(t.BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(tmp_path / "masked")
    tokenizer.save_pretrained(tmp_path / "masked")
    sizes, relax = [], Teacher.relax

    def noted(self, latents, *more):
        sizes.append(len(latents))
        return relax(self, latents, *more)

    monkeypatch.setattr(Teacher, "relax", noted)
    config = experiment(
        beir,
        encoder,
        explorer={"type": "gradient"},
        teacher={"generator": {"type": "masked_lm", "path": str(tmp_path / "masked"), "max_tokens": 20}},
        student={"type": "text_encoder", "path": str(encoder), "max_tokens": 20},
        train={"steps": 20, "eval_every": 20, "learning_rate": 1e-3},
        pool={"rows_per_request": 100},
    )
    found = api.run(config, storage=str(tmp_path), name="gradient", local=True)
    assert found.metrics.iloc[-1].test_recall_at_20 > 0
    assert {64, 36} <= set(sizes) and max(sizes) == 64, "of a request of 100 rows"


def test_a_prompt_of_the_model_s_own_is_no_way_for_gradients(beir, encoder, tmp_path):
    shutil.copytree(encoder, tmp_path / "asks")
    (tmp_path / "asks/config_sentence_transformers.json").write_text('{"prompts": {"query": "q: "}}')
    labeler = {"type": "dual_encoder", "path": str(tmp_path / "asks")}
    config = experiment(beir, encoder, explorer={"type": "gradient"}, teacher={"labeler": labeler})
    with pytest.raises(ConfigError, match="before which the labeler's prompt 'q: ' can't be put"):
        config.check_files()


def test_long_documents_are_counted(beir, caplog):
    with caplog.at_level(logging.WARNING):
        Retrieval(data={"type": "beir", "path": str(beir)}, document_bytes=40).load()
    assert "48 of 48 documents are longer than task.document_bytes 40 and are cut" in caplog.text
