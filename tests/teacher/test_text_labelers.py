"""Labelers of texts, from a folder and from scratch."""

import json
import shutil

import pytest
import torch

from tests.helpers.text_models import TEXTS, rows, seeded
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.texts import SEPARATOR
from tgt_ray.models.text.tokens import corpus_tokens
from tgt_ray.teacher.labelers.text import TextEncoderLabeler, TextTransformerLabeler


def test_own_classes_in_another_order_than_the_task_s_are_refused(text_models, text_spec, tmp_path):
    shutil.copytree(text_models / "classifier", tmp_path / "named")
    config = json.loads((tmp_path / "named/config.json").read_text())
    names = ["Entailment", "neutral", "contradiction"]
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    (tmp_path / "named/config.json").write_text(json.dumps(config))
    path = str(tmp_path / "named")
    labeler = TextEncoderLabeler(path=path, max_tokens=32)
    model = labeler.build(text_spec, 3)
    with pytest.raises(ConfigError, match=r"another order; give classes: \[2, 1, 0\]"):
        labeler.own_classes(model, ("contradiction", "neutral", "entailment"))
    given = TextEncoderLabeler(path=path, max_tokens=32, classes=[2, 1, 0])
    assert given.own_classes(model, ("no", "neutral", "yes")) == [
        ["contradiction", "no"],
        ["neutral", "neutral"],
        ["Entailment", "yes"],
    ]
    assert labeler.own_classes(model, ("entailment", "neutral", "contradiction"))[0] == ["Entailment", "entailment"]
    # What nobody has named says nothing.
    plain = TextEncoderLabeler(path=str(text_models / "classifier"), max_tokens=32)
    assert not plain.own_classes(plain.build(text_spec, 3), ("contradiction", "neutral", "entailment"))


def test_a_classifier_says_what_transformers_says(text_models, text_spec):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = str(text_models / "classifier")
    labeler = seeded(TextEncoderLabeler(path=path, max_tokens=32).build, text_spec, 3)
    assert TextEncoderLabeler(path=path).load_weights(labeler)["head"] == "own"
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    for pair in (("the old man",), ("the old man", "a good book today")):
        given = tokenizer(*pair, return_tensors="pt", return_token_type_ids=False)
        if len(pair) == 2:
            ends = (given["input_ids"] == tokenizer.eos_token_id).long()
            given["token_type_ids"] = ((ends.cumsum(1) - ends) > 0).long()
        with torch.no_grad():
            expected = model(**given).logits
        torch.testing.assert_close(labeler(rows(SEPARATOR.join(pair))).logits, expected, atol=1e-5, rtol=1e-4)


def test_an_encoder_gives_the_mean_of_its_tokens_and_needs_a_head(text_models, text_spec):
    from transformers import AutoModel, AutoTokenizer

    path = str(text_models / "encoder")
    config = TextEncoderLabeler(path=path)
    labeler = seeded(config.build, text_spec, 5)
    assert config.load_weights(labeler)["head"] == "fit"
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    given = tokenizer(["nobody likes the film"], return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        expected = model(**given).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(labeler(rows("nobody likes the film")).embedding, expected, atol=1e-5, rtol=1e-4)
    assert labeler.backbone.tokens.max_tokens == 32, "the model's own limit"


def test_fine_tuning_moves_all_weights(text_models, text_spec):
    config = validate(
        TextEncoderLabeler,
        {
            "type": "text_encoder",
            "path": str(text_models / "encoder"),
            "finetune": {"steps": 150, "learning_rate": 3e-3},
        },
    )
    model = config.build(text_spec, 2)
    assert config.load_weights(model)["head"] == "fit"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    labels = torch.tensor([int("film" in text) for text in TEXTS])
    assert config.fit_head(model, rows(*TEXTS), labels) == {"finetune": {"split": "train", "steps": 150, "threads": 1}}
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items() if "head" not in name)
    with torch.no_grad():
        assert (model.eval()(rows(*TEXTS)).logits.argmax(1) == labels).float().mean() > 0.9


def test_a_head_that_is_kept_is_not_fine_tuned(text_models, text_spec):
    with_head = {"type": "text_encoder", "path": str(text_models / "classifier"), "finetune": {"steps": 1}}
    for given in ({"head": "own"}, {"classes": [0, 1]}):
        with pytest.raises(
            ConfigError, match=r"finetune: trains a new head, and (head: own|classes) keeps the model's own"
        ):
            validate(TextEncoderLabeler, {**with_head, **given})
    config = validate(TextEncoderLabeler, with_head)
    assert config.load_weights(config.build(text_spec, 3))["head"] == "fit", "though the model has one of three classes"


def test_a_model_that_takes_no_soft_tokens_says_so(text_spec, tmp_path):
    import transformers as t

    tokenizer = corpus_tokens(text_spec.tokenizer, 16, "test").tokenizer
    config = t.BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=34, num_labels=3,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    t.BartForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    labeler = seeded(TextEncoderLabeler(path=str(tmp_path)).build, text_spec, 3)
    soft = torch.nn.functional.one_hot(labeler.backbone.prepare(rows(TEXTS[0])), len(tokenizer)).float()
    with pytest.raises(ConfigError, match=r"teacher\.labeler: BartForSequenceClassification takes no soft tokens"):
        labeler(soft)


def test_a_labeler_from_scratch_learns(text_spec):
    config = TextTransformerLabeler(layers=1, width=32, heads=2, max_tokens=24)
    torch.manual_seed(0)
    model, state = config.build(text_spec, 2), torch.get_rng_state()
    labels = torch.tensor([int("likes" in text) for text in TEXTS])
    config.model_copy(update={"pretrain": config.pretrain.model_copy(update={"steps": 80})}).fit(
        model, rows(*TEXTS), labels
    )
    assert torch.equal(torch.get_rng_state(), state), "training draws from a generator of its own"
    with torch.no_grad():
        assert (model.eval()(rows(*TEXTS)).logits.argmax(1) == labels).float().mean() > 0.95


def test_more_tokens_than_a_model_has_positions_are_refused(text_models, text_spec):
    with pytest.raises(
        ConfigError, match=r"teacher\.labeler\.max_tokens: 64, but the model has positions for 32 tokens"
    ):
        TextEncoderLabeler(path=str(text_models / "encoder"), max_tokens=64).build(text_spec, 2)


def test_a_head_without_weights_is_not_taken_for_the_model_s_own(text_models, text_spec, tmp_path):
    import transformers as t

    tokenizer = corpus_tokens(text_spec.tokenizer, 30, "test").tokenizer
    config = t.RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=34, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    t.RobertaModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for pooling, refused in (("mean", False), ("model", True)):
        labeler = TextEncoderLabeler(path=str(tmp_path), pooling=pooling)
        model = labeler.build(text_spec, 2)
        if refused:
            with pytest.raises(ConfigError, match=r"has no weights for 'classifier\.dense\.bias'; give pooling: mean"):
                labeler.load_weights(model)
        else:
            assert labeler.load_weights(model)["head"] == "fit"
            assert model(rows(*TEXTS[:3])).logits.shape == (3, 2)
