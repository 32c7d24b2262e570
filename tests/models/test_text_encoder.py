"""Backbones of texts, from a folder and from scratch."""

import shutil

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel

from tests.helpers.text_models import TEXTS, WIDTH, of_family, rows, seeded
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.texts import SEPARATOR, to_bytes
from tgt_ray.models.students import TextEncoderStudent, TextTransformerStudent
from tgt_ray.models.text.tokens import corpus_tokens
from tgt_ray.teacher.generators import MaskedLMGenerator
from tgt_ray.teacher.labelers.text import TextEncoderLabeler


def test_a_tokenizer_that_pads_on_the_left_is_used_all_the_same(text_models, text_spec, tmp_path):
    from transformers import AutoTokenizer

    shutil.copytree(text_models / "encoder", tmp_path / "left")
    AutoTokenizer.from_pretrained(tmp_path / "left", padding_side="left").save_pretrained(tmp_path / "left")
    one, other = (TextEncoderStudent(path=str(path)) for path in (text_models / "encoder", tmp_path / "left"))
    embeddings = []
    for config in (one, other):
        backbone = config.build(text_spec).eval()
        config.load_weights(backbone)
        embeddings.append(backbone(rows("a film", "the old man likes the house")))
    torch.testing.assert_close(*embeddings)


def test_ids_of_rows_of_several_widths_are_joined(text_spec):
    backbone = seeded(TextTransformerStudent(layers=1, width=16, heads=2, max_tokens=90).build, text_spec)
    short = torch.from_numpy(to_bytes(["a film", "a car"], 24))
    ids = backbone.joined(backbone.prepare(short), backbone.prepare(rows(TEXTS[0])))
    expected = torch.cat([backbone(short), backbone(rows(TEXTS[0]))])
    torch.testing.assert_close(backbone(ids), expected)


@pytest.mark.parametrize("layers", [0, 2])
def test_a_backbone_gives_the_same_for_bytes_ids_and_soft_tokens(text_spec, layers):
    backbone = seeded(TextTransformerStudent(layers=layers, width=16, heads=2, max_tokens=32).build, text_spec)
    inputs = rows(TEXTS[0], "a", f"a house{SEPARATOR}a film")
    ids = backbone.prepare(inputs)
    expected = backbone(inputs)
    assert expected.shape == (3, backbone.dim)
    torch.testing.assert_close(backbone(ids), expected)
    torch.testing.assert_close(backbone(F.one_hot(ids, len(backbone.tokens)).float()), expected)
    # Alone or beside longer texts.
    torch.testing.assert_close(backbone(inputs[1:2]), expected[1:2])


def test_a_large_batch_gives_what_each_text_gives_alone(text_spec):
    backbone = seeded(TextTransformerStudent(layers=1, width=16, heads=2, max_tokens=32).build, text_spec)
    inputs = rows(*(text[: 4 + 7 * number % 40] for number, text in enumerate(TEXTS * 2)))
    alone = torch.cat([backbone(inputs[number : number + 1]) for number in range(len(inputs))])
    torch.testing.assert_close(backbone(inputs), alone)


def test_the_order_of_words_counts_in_a_transformer(text_spec):
    backbone = seeded(TextTransformerStudent(layers=1, width=16, heads=2).build, text_spec)
    one, other = backbone(rows("a car has a house", "a house has a car"))
    assert (one - other).abs().max() > 1e-4


def test_a_student_starts_from_the_folder_s_weights(text_models, text_spec):
    config = TextEncoderStudent(path=str(text_models / "encoder"))
    first, second = seeded(config.build, text_spec), config.build(text_spec).eval()
    assert (first(rows("a film")) - second(rows("a film"))).abs().max() > 1e-3
    config.load_weights(first)
    config.load_weights(second)
    torch.testing.assert_close(first(rows("a film")), second(rows("a film")))


def test_a_model_that_counts_positions_from_padding_needs_a_tokenizer_that_pads_so(text_spec, tmp_path):
    tokenizer = corpus_tokens(text_spec.tokenizer, 32, "test").tokenizer
    other = tokenizer.pad_token_id + 2
    for cls, more in ((TextEncoderLabeler, [2]), (MaskedLMGenerator, [])):
        build = cls(path=of_family("roberta", tmp_path, tokenizer, other), max_tokens=32).build
        with pytest.raises(
            ConfigError,
            match=rf"pads with token {tokenizer.pad_token_id}, and its model counts positions "
            rf"from padding token {other}: .*give a folder",
        ):
            build(text_spec, *more)
        of_family("roberta", tmp_path, tokenizer, tokenizer.pad_token_id)
        build(text_spec, *more)


@pytest.mark.parametrize("family", ["roberta", "data2vec-text", "roberta-prelayernorm", "luke", "ibert", "esm"])
def test_texts_have_the_positions_that_are_left_after_padding(text_spec, tmp_path, family):
    tokenizer = corpus_tokens(text_spec.tokenizer, 32, "test").tokenizer
    path = of_family(family, tmp_path, tokenizer, tokenizer.pad_token_id, model=AutoModel)
    longest = 40 - tokenizer.pad_token_id - 1
    with pytest.raises(
        ConfigError, match=rf"max_tokens: {longest + 1}, but .* positions for {longest} tokens at the most"
    ):
        TextEncoderStudent(path=path, max_tokens=longest + 1).build(text_spec)
    backbone = seeded(TextEncoderStudent(path=path).build, text_spec)
    assert backbone.tokens.max_tokens == longest
    ids = backbone.prepare(rows("x" * WIDTH))
    assert (ids != tokenizer.pad_token_id).sum() == longest
    assert backbone(ids).isfinite().all()


@pytest.mark.parametrize("family", ["bert", "electra", "albert", "deberta-v2", "distilbert"])
def test_a_padding_token_that_only_a_config_has_refuses_nothing(text_spec, tmp_path, family):
    """As Multilingual-MiniLM: a BERT with the tokenizer of XLM-R, whose padding token is another than its config's."""
    tokenizer = corpus_tokens(text_spec.tokenizer, 32, "test").tokenizer
    path = of_family(family, tmp_path, tokenizer, tokenizer.pad_token_id + 2)
    backbone = seeded(TextEncoderStudent(path=path, max_tokens=32).build, text_spec)
    together = backbone(rows("a film", "the old man likes the house"))
    torch.testing.assert_close(together[:1], backbone(rows("a film")), msg="padding is masked all the same")
    MaskedLMGenerator(path=path, max_tokens=32).build(text_spec)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("pads_with", ["its own", "another than its config says", "the end", "the unknown token"])
def test_a_causal_classifier_s_end_of_a_text_is_that_of_its_mask(text_spec, tmp_path, family, pads_with):
    """What it gives is, for each text, what the model itself gives for the text alone, without padding."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    tokenizer = corpus_tokens(text_spec.tokenizer, 32, "test").tokenizer
    if pads_with in ("the end", "the unknown token"):
        tokenizer.pad_token = {"the end": tokenizer.eos_token, "the unknown token": tokenizer.unk_token}[pads_with]
    pad = tokenizer.pad_token_id if pads_with != "another than its config says" else tokenizer("film")["input_ids"][1]
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 32}
    small |= {"intermediate_size": 32, "word_embed_proj_dim": 16}
    if family == "gpt2":
        small = {"n_embd": 16, "n_layer": 1, "n_head": 2}
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), max_position_embeddings=64, pad_token_id=pad, num_labels=3, **small
    )
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = ["a film", "the old man likes the house", "film", "a small child sees the film film", *TEXTS[:40]]
    labeler = TextEncoderLabeler(path=str(tmp_path), max_tokens=32)
    model = labeler.build(text_spec, 3).eval()
    labeler.load_weights(model)
    own = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    own.config.pad_token_id = None  # so that it takes the last token of a text
    with torch.no_grad():
        wanted = torch.cat([own(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits for text in texts])
        inputs = rows(*texts)
        torch.testing.assert_close(model(inputs).logits, wanted, rtol=1e-4, atol=1e-5)
        ids = model.backbone.prepare(inputs)
        soft = F.one_hot(ids, len(tokenizer)).float()
        torch.testing.assert_close(model(soft).logits, wanted, rtol=1e-4, atol=1e-5)
    assert model.backbone.facts()["end"] == "by the mask"


def test_a_classifier_that_pools_itself_is_as_it_was(text_models, text_spec):
    backbone = TextEncoderLabeler(path=str(text_models / "classifier"), max_tokens=32).build(text_spec, 3).backbone
    assert "end" not in backbone.facts()


def test_a_model_from_scratch_needs_texts():
    with pytest.raises(ConfigError, match="needs a text task"):
        TextTransformerStudent().build(InputSpec((1, 28, 28)))
