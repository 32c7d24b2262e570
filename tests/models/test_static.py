"""Students that are the mean of vectors of tokens, which begin as an encoder's."""

import shutil

import numpy as np
import pytest
import torch

import tgt_ray
from tests.helpers import retrieval, text_runs
from tests.helpers.text_models import TEXTS, rows
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.inference.export import export_student
from tgt_ray.models.students import StaticStudent
from tgt_ray.models.text.static import first_vectors, vectors_of, words_of
from tgt_ray.teacher.labelers.text import TextEncoderLabeler


def student(folder, text_spec, **settings):
    config = StaticStudent(path=str(folder), **settings)
    backbone = config.build(text_spec).eval()
    config.load_weights(backbone)
    return config, backbone


def test_a_text_is_the_mean_of_its_words_vectors(text_models, text_spec):
    _, backbone = student(text_models / "encoder", text_spec, dims=8)
    ids = backbone.prepare(rows(TEXTS[0]))
    vectors = backbone.body.vectors.weight
    special = torch.tensor([each in backbone.tokens.special for each in ids[0].tolist()])
    there = backbone.tokens.present(ids)[0]
    assert not vectors[ids[0][special]].any(), "the mean has the direction of the words' mean"
    expected = vectors[ids[0][there]].sum(dim=0) / there.sum()
    torch.testing.assert_close(backbone(rows(TEXTS[0]))[0], expected)
    assert backbone(rows(*TEXTS[:3])).shape == (3, 8) and backbone.dim == 8


@pytest.mark.parametrize("outputs", [True, False])
def test_first_vectors_are_the_encoder_s_principal_components_weighed_by_rank(text_models, text_spec, outputs):
    """Against scikit-learn's PCA of what the encoder says of each token alone."""
    from sklearn.decomposition import PCA

    config = TextEncoderLabeler(path=str(text_models / "encoder"), pooling="mean")
    encoder = config.backbone(text_spec, "test").eval()
    config.load_body(encoder, "test")
    words, tokens = words_of(encoder), encoder.tokens
    start, end = tokens.tokenizer("a")["input_ids"][0], tokens.end
    assert not set(words.tolist()) & tokens.special
    with torch.no_grad():
        if outputs:
            said = torch.cat([encoder(torch.tensor([[start, int(word), end]])) for word in words])
        else:
            said = encoder.body.get_input_embeddings().weight[words]
    vectors, directions = first_vectors(encoder, outputs, 5, "student")
    components = PCA(5, svd_solver="full").fit(said.double().numpy())
    share = 1 / np.arange(2, len(words) + 2)
    weights = 1e-4 / (1e-4 + share / share.sum())
    expected = components.transform(said.double().numpy()) * weights[:, None]
    expected /= np.sqrt(np.mean(expected**2))
    got = vectors[words].numpy()
    signs = np.sign((got * expected).sum(axis=0))
    np.testing.assert_allclose(got, expected * signs, atol=2e-3)
    np.testing.assert_allclose(np.abs(directions.T.numpy() @ components.components_.T), np.eye(5), atol=1e-3)


def test_empty_places_of_a_vocabulary_are_no_words(text_models, text_spec, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    shutil.copytree(text_models / "encoder", tmp_path / "encoder")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "encoder")
    tokenizer.add_tokens(["[unused1]", "[unused2]"])
    tokenizer.save_pretrained(tmp_path / "encoder")
    model = AutoModel.from_pretrained(tmp_path / "encoder")
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "encoder")
    _, backbone = student(tmp_path / "encoder", text_spec, dims=4)
    unused = tokenizer.convert_tokens_to_ids(["[unused1]", "[unused2]"])
    assert not backbone.body.vectors.weight[unused].any()


def test_more_dims_than_the_encoder_has_are_refused(text_models, text_spec):
    with pytest.raises(ConfigError, match=r"student.dims: 17, and the encoder's tokens have vectors of 16 numbers"):
        student(text_models / "encoder", text_spec, dims=17)


def test_vectors_are_computed_once_in_a_process(text_models, text_spec, monkeypatch):
    student(text_models / "encoder", text_spec, dims=7)
    hits = vectors_of.cache_info().hits
    student(text_models / "encoder", text_spec, dims=7)
    assert vectors_of.cache_info().hits == hits + 1


def test_soft_tokens_are_taken(text_models, text_spec):
    _, backbone = student(text_models / "encoder", text_spec, dims=8)
    ids = backbone.prepare(rows(TEXTS[0]))
    soft = torch.nn.functional.one_hot(ids, backbone.body.config.vocab_size).float().requires_grad_()
    out = backbone(soft)
    torch.testing.assert_close(out, backbone(ids))
    out.sum().backward()
    assert soft.grad.any()


def test_it_learns_classes_and_is_used_without_the_encoder(sentences, text_models, tmp_path):
    shutil.copytree(text_models / "encoder", tmp_path / "encoder")
    config = text_runs.experiment(
        sentences,
        explorer={"type": "none"},
        student={"type": "static", "path": str(tmp_path / "encoder"), "dims": 12, "max_tokens": 40},
        train={"steps": 60, "batch_size": 16, "learning_rate": 0.02, "eval_every": 30},
        objective={"type": "distillation", "alpha": 0.0},
    )
    result = tgt_ray.run(config, storage=str(tmp_path / "results"), name="static", local=True)
    assert result.record["result"]["test_accuracy"] > 80
    shutil.rmtree(tmp_path / "encoder")
    loaded = tgt_ray.load_student(result.folder)
    said = loaded.predict(["the film was joy today", "this book is noise today"], embedding=True)
    assert said["label"].tolist() == ["1", "0"] and said["embedding"][0].shape == (12,)
    export_student(loaded, "safetensors", tmp_path / "export", Storage(tmp_path / "results"))
    exported = tgt_ray.load_student(str(tmp_path / "export"))
    np.testing.assert_array_equal(exported.scores(["the film"]), loaded.scores(["the film"]))
    refused = {"transformers": "has no class", "sentence-transformers": "leaves the special tokens around a text out"}
    for name, why in refused.items():
        with pytest.raises(ConfigError, match=f"--format {name}: {why}"):
            export_student(loaded, name, tmp_path / name, Storage(tmp_path / "results"))
    on = tgt_ray.run(config, storage=str(tmp_path / "results"), name="on", local=True, start_from=result.folder)
    assert on.record["started_from"]["head"] == "kept"


def test_a_student_of_queries_begins_in_the_space_of_documents(beir, encoder, tmp_path):
    """Without a step of training it finds documents as the encoder's word vectors do; then it learns."""
    student = {"type": "static", "path": str(encoder), "dims": 32, "max_tokens": 20}
    still = {"steps": 1, "eval_every": 1, "learning_rate": 1e-30, "weight_decay": 0, "batch_size": 16}
    found = []
    for name, vectors, train in (
        ("outputs", "outputs", still),
        ("inputs", "inputs", still),
        ("learnt", "outputs", {"learning_rate": 2e-3}),
    ):
        config = retrieval.experiment(
            beir, encoder, student={**student, "vectors": vectors}, explorer={"type": "none"}, train=train
        )
        found.append(tgt_ray.run(config, storage=str(tmp_path), name=name, local=True))
    outputs, inputs, learnt = (each.record["result"]["test_ndcg_at_10"] for each in found)
    assert min(outputs, inputs) > 40 and learnt > outputs, (outputs, inputs, learnt)
    loaded = tgt_ray.load_student(found[2].folder)
    assert loaded.search(["red car ?"], k=3)["text"].str.contains("red car").any()


def test_it_builds_without_a_task_s_vocabulary(text_models):
    assert StaticStudent(path=str(text_models / "encoder")).build(InputSpec((8,))).dim == 256


def test_a_token_stands_where_a_text_would(text_models, t5):
    from tgt_ray.models.text.static import around
    from tgt_ray.models.text.tokens import own_tokens

    tokens = own_tokens(str(text_models / "encoder"), None, 16, "test")
    start, end = tokens.tokenizer("a")["input_ids"][0], tokens.end
    assert around(tokens) == ([start], [end])
    assert around(own_tokens(t5, None, 16, "test")) == ([], [1])
