"""The labeler that embeds queries and documents, and what it takes from a model's folder."""

import json
import logging
import shutil

import pytest
import torch

from tests.helpers.retrieval import experiment
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.core.texts import to_bytes
from tgt_ray.tasks import Retrieval
from tgt_ray.teacher.labelers.dual_encoder import DualEncoderLabeler
from tgt_ray.training.local import prepare_local


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
            how_said = "after the prompt 'q: ', up to 24 tokens, the mean of tokens, normalised to length 1"
            assert f"queries by {path}: {how_said}" in lines[0]
            assert all(("cosine, the default of sentence-transformers" in line) == (who == "default") for line in lines)
            assert all("teacher.labeler.normalize" in line for line in lines)


def test_a_model_without_states_of_its_tokens_is_refused(encoder, tmp_path):
    import transformers as t

    tokenizer = t.AutoTokenizer.from_pretrained(encoder)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = t.DPRConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **size)
    t.DPRQuestionEncoder(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    says = (
        r"teacher\.labeler\.path: .* is a DPRQuestionEncoder, which gives no states of its tokens; "
        r"use another model, or the same weights"
    )
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

    for module in ("hub", "text.encoder", "text.tokens"):
        monkeypatch.setattr(f"tgt_ray.models.{module}.from_hub", local)
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
