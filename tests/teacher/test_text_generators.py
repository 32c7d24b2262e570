"""Text models: labelers and students from transformers or from scratch, and the generators. Small models are saved here and loaded by the
code that hub names take."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import override
from tgt_ray.core.texts import SEPARATOR, to_bytes, to_texts
from tgt_ray.entrypoints import api
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.hub import own_file, place
from tgt_ray.models.students import TextEncoderStudent, TextTransformerStudent
from tgt_ray.models.text.generation import logits_at
from tgt_ray.models.text.tokens import corpus_tokens, tokens_of
from tgt_ray.models.text.vocabulary import train_tokenizer
from tgt_ray.models.weights import whole
from tgt_ray.tasks.metrics.generated_texts import exact_copy_rate
from tgt_ray.teacher.generators import CausalLMGenerator, Doc2QueryGenerator, MaskedLMGenerator, Seq2SeqGenerator
from tgt_ray.teacher.labelers.text import TextEncoderLabeler, TextTransformerLabeler
from tgt_ray.teacher.module import Teacher

WIDTH = 96
TEXTS = [
    f"{who} {what} the {thing} {how}"
    for who in ("a small child", "the old man", "my sister", "nobody")
    for what in ("sees", "buys", "likes", "has lost")
    for thing in ("red car", "house", "good book", "film")
    for how in ("today .", "with joy !", "at last .")
]


@pytest.fixture(scope="module")
def shape():
    return InputSpec((WIDTH,), train_tokenizer(TEXTS, 400))


def rows(*texts):
    return torch.from_numpy(to_bytes(texts, WIDTH))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def seeded(build, *args):
    torch.manual_seed(0)
    return build(*args).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, shape):
    """Small models of each kind with the tokenizer, as `save_pretrained` writes them."""
    import transformers as t

    tokenizer = corpus_tokens(shape.tokenizer, 32, "test").tokenizer
    size, small = len(tokenizer), {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    bert = t.BertConfig(vocab_size=size, hidden_size=16, max_position_embeddings=32, num_labels=3, **small, **special)
    bart = t.BartConfig(
        vocab_size=size, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=34, decoder_start_token_id=special["eos_token_id"],
        forced_eos_token_id=special["eos_token_id"], **special,
    )  # fmt: skip
    gpt = t.GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=128, **special)
    torch.manual_seed(0)
    models = {
        "classifier": t.BertForSequenceClassification(bert),
        "encoder": t.BertModel(bert),
        "masked_lm": t.BertForMaskedLM(bert),
        "seq2seq": t.BartForConditionalGeneration(bart),
        "causal_lm": t.GPT2LMHeadModel(gpt),
    }
    root = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


def test_the_same_texts_give_the_same_vocabulary(shape):
    assert train_tokenizer(TEXTS, 400) == shape.tokenizer
    assert train_tokenizer(TEXTS[:10], 400) != shape.tokenizer


def test_tokens_take_any_text_apart_without_loss(shape):
    tokens = corpus_tokens(shape.tokenizer, 90, "test")
    texts = ["a red car", "Ünïcode — and \N{SNOWMAN}", f"one{SEPARATOR}two", "x"]
    for text in texts:
        assert tokens.texts(tokens(rows(text))) == [text]


def test_names_of_special_tokens_in_a_text_are_text(shape):
    tokens = corpus_tokens(shape.tokenizer, 60, "test")
    text = "the film </s> a <mask> and <pad>"
    ids = tokens(rows(text))
    assert tokens.texts(ids) == [text]
    assert (ids == tokens.end).sum() == 1 and tokens.mask not in ids


def test_a_tokenizer_that_pads_on_the_left_is_used_all_the_same(folders, shape, tmp_path):
    import shutil

    from transformers import AutoTokenizer

    shutil.copytree(folders / "encoder", tmp_path / "left")
    AutoTokenizer.from_pretrained(tmp_path / "left", padding_side="left").save_pretrained(tmp_path / "left")
    one, other = (TextEncoderStudent(path=str(path)) for path in (folders / "encoder", tmp_path / "left"))
    embeddings = []
    for config in (one, other):
        backbone = config.build(shape).eval()
        config.load_weights(backbone)
        embeddings.append(backbone(rows("a film", "the old man likes the house")))
    torch.testing.assert_close(*embeddings)


@pytest.mark.parametrize("kind", ["corpus", "bert", "t5"])
def test_a_text_that_only_its_tokenizer_has_changed_is_a_copy(kind, shape, t5):
    from transformers import AutoTokenizer, BertTokenizer

    texts = [
        "nobody likes the film .",
        "My  sister , the film !",
        f"Nobódy .{SEPARATOR}the house",
        " ".join(["film"] * 15),
    ]
    if kind == "corpus":
        tokens = corpus_tokens(shape.tokenizer, 16, "test")
    elif kind == "bert":
        words = [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
            "nobody",
            "likes",
            "the",
            "film",
            "my",
            "sister",
            "house",
            *".,!",
        ]
        tokens = tokens_of(BertTokenizer(vocab={word: number for number, word in enumerate(words)}), 16, "test")
    else:
        tokens, texts = tokens_of(AutoTokenizer.from_pretrained(t5), 16, "test"), [texts[3]]
    again = tokens.texts(tokens(rows(*texts)))
    assert exact_copy_rate(texts, again, 16) == 100
    assert kind != "bert" or again[:2] == ["nobody likes the film.", "my sister, the film!"]
    assert exact_copy_rate(texts, [text.replace("film", "car").replace("ouse", "car") for text in again], 16) == 0


def test_long_texts_are_counted(shape):
    tokens = corpus_tokens(shape.tokenizer, 6, "test")
    assert tokens.count_cut(["a", TEXTS[0], TEXTS[5]]) == (2, TEXTS[0])
    assert tokens(rows(TEXTS[0])).shape == (1, 6)


def test_rows_of_few_bytes_are_not_padded_to_a_model_s_thousands_of_tokens(shape):
    wide, most = (corpus_tokens(shape.tokenizer, longest, "test") for longest in (8192, 40))
    texts = ["a film", f"the house{SEPARATOR}the film", "\N{SNOWMAN}" * (WIDTH // 3), "x" * WIDTH, TEXTS[3]]
    ids = wide(rows(*texts))
    assert WIDTH < ids.shape[1] < WIDTH + 10
    for text in texts:
        assert torch.equal(wide(rows(text)), ids[texts.index(text)][None]), "as wide whatever texts are beside it"
        whole = wide.tokenizer(*text.split(SEPARATOR))["input_ids"]
        assert ids[texts.index(text)].tolist() == whole + [wide.pad] * (ids.shape[1] - len(whole))
    assert most(rows(*texts)).shape[1] == 40
    wide.prefix = "what is said here: "
    said = f"{wide.prefix}{'x' * WIDTH}"
    assert (wide(rows("x" * WIDTH)) != wide.pad).sum() == len(wide.tokenizer(said)["input_ids"])


def test_ids_of_rows_of_several_widths_are_joined(shape):
    backbone = seeded(TextTransformerStudent(layers=1, width=16, heads=2, max_tokens=90).build, shape)
    short = torch.from_numpy(to_bytes(["a film", "a car"], 24))
    ids = backbone.joined(backbone.prepare(short), backbone.prepare(rows(TEXTS[0])))
    expected = torch.cat([backbone(short), backbone(rows(TEXTS[0]))])
    torch.testing.assert_close(backbone(ids), expected)


@pytest.mark.parametrize("layers", [0, 2])
def test_a_backbone_gives_the_same_for_bytes_ids_and_soft_tokens(shape, layers):
    backbone = seeded(TextTransformerStudent(layers=layers, width=16, heads=2, max_tokens=32).build, shape)
    inputs = rows(TEXTS[0], "a", f"a house{SEPARATOR}a film")
    ids = backbone.prepare(inputs)
    expected = backbone(inputs)
    assert expected.shape == (3, backbone.dim)
    torch.testing.assert_close(backbone(ids), expected)
    torch.testing.assert_close(backbone(F.one_hot(ids, len(backbone.tokens)).float()), expected)
    # Alone or beside longer texts.
    torch.testing.assert_close(backbone(inputs[1:2]), expected[1:2])


def test_own_classes_in_another_order_than_the_task_s_are_refused(folders, shape, tmp_path):
    shutil.copytree(folders / "classifier", tmp_path / "named")
    config = json.loads((tmp_path / "named/config.json").read_text())
    names = ["Entailment", "neutral", "contradiction"]
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    (tmp_path / "named/config.json").write_text(json.dumps(config))
    path = str(tmp_path / "named")
    labeler = TextEncoderLabeler(path=path, max_tokens=32)
    model = labeler.build(shape, 3)
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
    plain = TextEncoderLabeler(path=str(folders / "classifier"), max_tokens=32)
    assert not plain.own_classes(plain.build(shape, 3), ("contradiction", "neutral", "entailment"))


def test_a_large_batch_gives_what_each_text_gives_alone(shape):
    backbone = seeded(TextTransformerStudent(layers=1, width=16, heads=2, max_tokens=32).build, shape)
    inputs = rows(*(text[: 4 + 7 * number % 40] for number, text in enumerate(TEXTS * 2)))
    alone = torch.cat([backbone(inputs[number : number + 1]) for number in range(len(inputs))])
    torch.testing.assert_close(backbone(inputs), alone)


def test_the_order_of_words_counts_in_a_transformer(shape):
    backbone = seeded(TextTransformerStudent(layers=1, width=16, heads=2).build, shape)
    one, other = backbone(rows("a car has a house", "a house has a car"))
    assert (one - other).abs().max() > 1e-4


def test_a_classifier_says_what_transformers_says(folders, shape):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = str(folders / "classifier")
    labeler = seeded(TextEncoderLabeler(path=path, max_tokens=32).build, shape, 3)
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


def test_an_encoder_gives_the_mean_of_its_tokens_and_needs_a_head(folders, shape):
    from transformers import AutoModel, AutoTokenizer

    path = str(folders / "encoder")
    config = TextEncoderLabeler(path=path)
    labeler = seeded(config.build, shape, 5)
    assert config.load_weights(labeler)["head"] == "fit"
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    given = tokenizer(["nobody likes the film"], return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        expected = model(**given).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(labeler(rows("nobody likes the film")).embedding, expected, atol=1e-5, rtol=1e-4)
    assert labeler.backbone.tokens.max_tokens == 32, "the model's own limit"


def test_a_student_starts_from_the_folder_s_weights(folders, shape):
    config = TextEncoderStudent(path=str(folders / "encoder"))
    first, second = seeded(config.build, shape), config.build(shape).eval()
    assert (first(rows("a film")) - second(rows("a film"))).abs().max() > 1e-3
    config.load_weights(first)
    config.load_weights(second)
    torch.testing.assert_close(first(rows("a film")), second(rows("a film")))


def test_fine_tuning_moves_all_weights(folders, shape):
    config = validate(
        TextEncoderLabeler,
        {"type": "text_encoder", "path": str(folders / "encoder"), "finetune": {"steps": 150, "learning_rate": 3e-3}},
    )
    model = config.build(shape, 2)
    assert config.load_weights(model)["head"] == "fit"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    labels = torch.tensor([int("film" in text) for text in TEXTS])
    assert config.fit_head(model, rows(*TEXTS), labels) == {"finetune": {"split": "train", "steps": 150}}
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items() if "head" not in name)
    with torch.no_grad():
        assert (model.eval()(rows(*TEXTS)).logits.argmax(1) == labels).float().mean() > 0.9


def test_a_head_that_is_kept_is_not_fine_tuned(folders, shape):
    with_head = {"type": "text_encoder", "path": str(folders / "classifier"), "finetune": {"steps": 1}}
    for given in ({"head": "own"}, {"classes": [0, 1]}):
        with pytest.raises(
            ConfigError, match=r"finetune: trains a new head, and (head: own|classes) keeps the model's own"
        ):
            validate(TextEncoderLabeler, {**with_head, **given})
    config = validate(TextEncoderLabeler, with_head)
    assert config.load_weights(config.build(shape, 3))["head"] == "fit", "though the model has one of three classes"


def test_a_model_that_takes_no_soft_tokens_says_so(shape, tmp_path):
    import transformers as t

    tokenizer = corpus_tokens(shape.tokenizer, 16, "test").tokenizer
    config = t.BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=34, num_labels=3,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    t.BartForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    labeler = seeded(TextEncoderLabeler(path=str(tmp_path)).build, shape, 3)
    soft = torch.nn.functional.one_hot(labeler.backbone.prepare(rows(TEXTS[0])), len(tokenizer)).float()
    with pytest.raises(ConfigError, match=r"teacher\.labeler: BartForSequenceClassification takes no soft tokens"):
        labeler(soft)


def test_a_labeler_from_scratch_learns(shape):
    config = TextTransformerLabeler(layers=1, width=32, heads=2, max_tokens=24)
    torch.manual_seed(0)
    model, state = config.build(shape, 2), torch.get_rng_state()
    labels = torch.tensor([int("likes" in text) for text in TEXTS])
    config.model_copy(update={"pretrain": config.pretrain.model_copy(update={"steps": 80})}).fit(
        model, rows(*TEXTS), labels
    )
    assert torch.equal(torch.get_rng_state(), state), "training draws from a generator of its own"
    with torch.no_grad():
        assert (model.eval()(rows(*TEXTS)).logits.argmax(1) == labels).float().mean() > 0.95


SCRATCH = {"layers": 1, "width": 32, "heads": 2, "max_tokens": 32}


def teacher_with(config, shape):
    return Teacher.of(torch.nn.Identity(), seeded(config.build, shape), config)


@pytest.fixture(params=["scratch", "folder"])
def masking(request, folders, shape):
    def make(cls, **options):
        name = cls.model_fields["type"].default
        where = {"path": str(folders / name), "max_tokens": 32} if request.param == "folder" else SCRATCH
        return teacher_with(cls(**where, **options), shape)

    return make


@pytest.mark.parametrize("cls", [Seq2SeqGenerator, MaskedLMGenerator])
def test_only_masked_tokens_change(masking, cls):
    teacher = masking(cls, mask_rate=0.4)
    inputs = rows(*TEXTS[:8], f"the house{SEPARATOR}a red car")
    latents, context = teacher.encode(inputs, generator())
    ids, masked = context[:, 0], context[:, 1].bool()
    tokens = teacher.generator.tokens
    assert masked.any(dim=1).all(), "at least one of each text"
    assert not (masked & torch.isin(ids, torch.tensor(sorted(tokens.special)))).any()
    assert 0.2 < masked.sum() / (ids != tokens.pad).sum() < 0.6
    out = teacher.decode(latents, generator(1), context)
    assert out.shape == inputs.shape and out.dtype == torch.uint8
    soft = teacher.relax(latents, generator(1), context)
    torch.testing.assert_close(soft.sum(dim=2), torch.ones_like(soft[:, :, 0]))
    assert (soft.argmax(dim=2) == ids)[~masked].all()
    assert to_texts(out.numpy())[-1].count(SEPARATOR) == 1, "a pair stays a pair"
    again = teacher.decode(latents, generator(1), context)
    assert torch.equal(out, again)
    assert not torch.equal(out, teacher.decode(latents, generator(2), context))


def test_a_masked_language_model_sees_which_sentence_a_token_is_of(folders, shape):
    path = str(folders / "masked_lm")
    model, own = (
        seeded(MaskedLMGenerator(**where).build, shape) for where in ({"path": path, "max_tokens": 32}, SCRATCH)
    )
    body = AutoModelForMaskedLM.from_pretrained(path).eval()
    for text, differ in ((f"the house{SEPARATOR}a red car", True), ("the house", False)):
        ids = model.tokens(rows(text))
        ids = ids[:, : int((ids != model.tokens.pad).sum())]
        masked = torch.zeros_like(ids, dtype=torch.bool)
        masked[:, 1] = masked[:, -2] = True
        hidden = ids.masked_fill(masked, model.tokens.mask)
        types = torch.zeros_like(ids)
        types[:, int((ids == model.tokens.end).int().argmax()) + 1 :] = int(differ)
        with torch.no_grad():
            ours = model.logits(model.states(hidden), ids, masked, masked)
            theirs, untyped = (body(hidden, **given).logits[masked] for given in ({"token_type_ids": types}, {}))
            small = own.logits(own.states(hidden), ids, masked, masked)
            assert torch.allclose(small, own.body(hidden).logits[masked], atol=1e-6), (
                "trained here as before: without types"
            )
        assert torch.allclose(ours, theirs, atol=1e-6)
        assert torch.allclose(ours, untyped, atol=1e-6) != differ


@pytest.mark.parametrize("cls", [Seq2SeqGenerator, MaskedLMGenerator])
def test_soft_tokens_are_what_is_decoded_and_carry_gradients(masking, cls):
    teacher = masking(cls, mask_rate=0.5, temperature=0)
    latents, context = teacher.encode(rows(*TEXTS[:4]), generator())
    latents.requires_grad_()
    soft = teacher.relax(latents, generator(), context)
    decoded = teacher.decode(latents.detach(), generator(), context)
    assert teacher.generator.tokens.texts(soft.argmax(dim=2)) == to_texts(decoded.numpy())
    (gradient,) = torch.autograd.grad(soft[:, :, 5:40].sum(), latents)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("cls", [Seq2SeqGenerator, MaskedLMGenerator])
def test_the_scale_of_latents_is_that_of_tokens(masking, cls):
    teacher = masking(cls, mask_rate=0.3)
    scale = teacher.generator.latent_std(rows(*TEXTS[:40]), generator())
    latents, _ = teacher.encode(rows(*TEXTS[:40]), generator())
    assert latents.shape[1] % len(scale) == 0
    assert (scale > 0).all()


def test_noise_changes_what_is_filled_in(shape):
    teacher = teacher_with(Seq2SeqGenerator(**SCRATCH, mask_rate=0.5, temperature=0), shape)
    latents, context = teacher.encode(rows(*TEXTS[:8]), generator())
    far = latents + 5 * torch.randn(latents.shape, generator=generator())
    change = teacher.relax(far, generator(), context) - teacher.relax(latents, generator(), context)
    masked = context[:, 1].bool()
    assert change[masked].abs().max() > 1e-5
    assert not change[~masked].any(), "what isn't masked stays"


def test_sampling_writes_what_transformers_writes(folders, shape):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    path = str(folders / "seq2seq")
    config = Seq2SeqGenerator(path=path, mask_rate=0, temperature=0, decoding="sample", max_tokens=20)
    teacher = teacher_with(config, shape)
    out = teacher.decode(*_swap(teacher.encode(rows("my sister likes the film"), generator())))
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForSeq2SeqLM.from_pretrained(path).eval()
    given = tokenizer(["my sister likes the film"], return_tensors="pt", return_token_type_ids=False)
    said = model.generate(**given, max_new_tokens=20, do_sample=False, num_beams=1)
    assert (
        to_texts(out.numpy())[0]
        == to_texts(rows(tokenizer.decode(said[0], skip_special_tokens=True).strip()).numpy())[0]
    )


def _swap(encoded):
    latents, context = encoded
    return latents, generator(), context


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A folder with a small T5, whose tokenizer has three sentinels and no mask token."""
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    words = sorted({word for text in TEXTS for word in text.split()})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *((f"▁{word}", -2.0) for word in words), ("▁", -9.0)]
    pieces += [(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyz<>_0123456789"]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=3)
    config = T5Config(
        vocab_size=len(tokenizer) + 4, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    T5ForConditionalGeneration(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def test_t5_fills_the_spans_of_its_sentinels(t5, shape):
    """Against a call of the model itself, on sequences that are written by hand."""
    model = seeded(Seq2SeqGenerator(path=t5, max_tokens=12).build, shape)
    ids = model.tokens(rows("a small child sees the red car today .", "nobody buys the film"))[:, :10]
    masked = torch.zeros_like(ids, dtype=torch.bool)
    masked[0, [1, 2, 5]] = True
    masked[1, 0] = True
    first, second, _ = model.tokens.sentinels
    a, _, _, sees, the, _, car, today, dot, end = ids[0].tolist()
    _, buys, the, film, _, *_ = ids[1].tolist()
    read = torch.tensor(
        [[a, first, sees, the, second, car, today, dot, end, 0], [first, buys, the, film, end, 0, 0, 0, 0, 0]]
    )
    small, child, red, nobody = (*ids[0, [1, 2, 5]].tolist(), int(ids[1, 0]))
    written = torch.tensor([[0, first, small, child, second], [0, first, nobody, 0, 0]])
    assert torch.equal(model.hide(ids, masked), read)
    with torch.no_grad():
        whole = model.body(input_ids=read, attention_mask=(read != 0).long(), decoder_input_ids=written).logits
        ours = model.logits(model.states(model.hide(ids, masked)), ids, masked, masked)
    expected = torch.stack([whole[0, 1], whole[0, 2], whole[0, 4], whole[1, 1]])
    assert red == int(ids[masked][2])
    assert torch.allclose(ours, expected, atol=1e-6)


def test_t5_changes_masked_words_alone(t5, shape):
    teacher = teacher_with(Seq2SeqGenerator(path=t5, max_tokens=16, mask_rate=0.6), shape)
    texts = [text for text in TEXTS if text.count(" ") == 6][:20]
    rng = generator()
    latents, context = teacher.encode(rows(*texts), rng)
    out = to_texts(teacher.decode(latents, rng, context).numpy())
    masked = context[:, 1].bool()
    starts = masked & ~F.pad(masked[:, :-1], (1, 0))
    assert starts.sum(dim=1).max() == 3, "no more spans than sentinels"
    kept = [
        [word for word, hidden in zip(text.split(), row, strict=False) if not hidden]
        for text, row in zip(texts, masked.tolist(), strict=True)
    ]
    for before, after in zip(kept, out, strict=True):
        rest = iter(after.split())
        assert all(any(word in other for other in rest) for word in before), "what isn't masked stays, in its order"
    assert any(a != b for a, b in zip(texts, out, strict=True))
    far = latents.clone().requires_grad_()
    teacher.relax(far, generator(), context)[masked].square().sum().backward()
    assert far.grad is not None and far.grad.abs().sum() > 0


def test_a_sentinel_in_a_text_is_text(t5, shape):
    tokens = Seq2SeqGenerator(path=t5, max_tokens=40).tokens(shape)
    assert tokens.sentinels and len(tokens.sentinels) == 3
    assert not set(tokens(rows("a small <extra_id_0> car"))[0].tolist()) & set(tokens.sentinels)


@pytest.mark.parametrize("kind", ["without", "encoder"])
def test_a_model_without_a_trained_decoder_is_refused(t5, shape, tmp_path, kind):
    from transformers import AutoTokenizer, T5Config, T5EncoderModel

    config = T5Config.from_pretrained(t5)
    T5EncoderModel(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(t5).save_pretrained(tmp_path)
    if kind == "without":  # as it would be drawn at random
        said = json.loads((tmp_path / "config.json").read_text()) | {"is_encoder_decoder": True}
        (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(
        ConfigError, match=r"teacher\.generator\.path: .*(has no weights for 'decoder|a model without a decoder)"
    ):
        Seq2SeqGenerator(path=str(tmp_path), max_tokens=16).build(shape)


def test_t5_does_not_write_whole_texts_from_masked_ones(t5, shape):
    with pytest.raises(ConfigError, match=r"teacher\.generator\.decoding: sample, of a model that writes masked spans"):
        Seq2SeqGenerator(path=t5, decoding="sample", max_tokens=16).build(shape)
    Seq2SeqGenerator(path=t5, decoding="sample", mask_rate=0, max_tokens=16).build(shape)


@pytest.mark.parametrize("decoding", ["sample", "causal"])
def test_writing_follows_from_the_request_alone(folders, shape, decoding):
    if decoding == "sample":
        config = Seq2SeqGenerator(path=str(folders / "seq2seq"), decoding="sample", max_tokens=16)
    else:
        config = CausalLMGenerator(path=str(folders / "causal_lm"), max_new_tokens=8, shots=2, max_tokens=64)
    teacher = teacher_with(config, shape)
    state = torch.get_rng_state()

    def written(seed):
        rng = generator(seed)
        latents, context = teacher.encode(rows(*TEXTS[:6]), rng)
        return to_texts(teacher.decode(latents, rng, context).numpy())

    assert written(0) == written(0)
    assert written(0) != written(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any("\n" in text for text in written(0))


def test_an_anchor_is_no_example_in_its_own_prompt(folders, shape):
    config = CausalLMGenerator(path=str(folders / "causal_lm"), max_new_tokens=8, shots=4, max_tokens=120)
    teacher = teacher_with(config, shape)
    texts = ["a film", "the house", "my sister"]
    asked, seen = rows(*texts), set()
    for seed in range(8):
        _, context = teacher.encode(asked, generator(seed))
        for text, ids in zip(texts, context[:, 0], strict=True):
            said = teacher.generator.tokens.tokenizer.decode(ids, skip_special_tokens=True)
            *others, last, end = (line.strip() for line in said.split("\n"))
            assert (last, end) == (text, "") and len(others) == 3 and text not in others
            seen |= {(text, other) for other in others}
    assert len(seen) == 6, "any other one"
    _, alone = teacher.encode(asked[:1], generator())
    assert teacher.generator.tokens.tokenizer.decode(alone[0, 0], skip_special_tokens=True).strip() == "a film"


@pytest.mark.parametrize(
    "family", ["bert", "distilbert", "electra", "mobilebert", "modernbert", "mpnet", "roberta", "bart", "t5"]
)
def test_the_head_gives_at_some_places_what_it_gives_at_all(family):
    sizes = {
        "vocab_size": 50,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    }
    small = {
        "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
        "mobilebert": {"hidden_size": 16, "embedding_size": 8, "true_hidden_size": 16, "intra_bottleneck_size": 16}
        | {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
        "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
        "bart": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
        | {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
    }.get(family, {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32})
    config = AutoConfig.for_model(family, **sizes, **small)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForMaskedLM
    body = auto.from_config(config).eval()
    ids = torch.randint(3, 50, (4, 6))
    places = torch.rand(4, 6) < 0.5
    given = {"input_ids": ids} | ({"decoder_input_ids": ids} if config.is_encoder_decoder else {})
    with torch.no_grad():
        everywhere = body(**given).logits
        some = logits_at(body, places, **given)
        assert torch.allclose(some, everywhere[places], atol=1e-6)
        assert torch.equal(body(**given).logits, everywhere)


def test_denoising_is_learnt(shape):
    config = MaskedLMGenerator(**SCRATCH, mask_rate=0.2, temperature=0)
    model = config.build(shape)
    how = config.pretrain.model_copy(update={"steps": 150, "batch_size": 32, "learning_rate": 3e-3})
    losses = []

    def loss():
        ids = model.tokens(rows(*TEXTS))
        with torch.no_grad():
            return float(model.denoising_loss(ids, generator()))

    losses.append(loss())
    config = config.model_copy(update={"pretrain": how})
    assert config.fit(model, rows(*TEXTS), torch.nn.Identity(), lambda: 0.0) == {"steps": 150}
    losses.append(loss())
    assert losses[1] < 0.6 * losses[0]


def test_denoising_stops_on_agreement(shape):
    config = Seq2SeqGenerator(**SCRATCH)
    how = config.pretrain.model_copy(update={"steps": 50, "check_every": 5, "agreement": 80.0})
    model, said = config.build(shape), iter([50.0, 90.0])
    config = config.model_copy(update={"pretrain": how})
    assert config.fit(model, rows(*TEXTS), torch.nn.Identity(), lambda: next(said)) == {"steps": 10}


def test_tied_weights_go_into_a_file_and_back(shape):
    import safetensors.torch

    config = Seq2SeqGenerator(**SCRATCH)
    model, other = config.build(shape), config.build(shape)
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(whole(model.state_dict()))))
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"type": "seq2seq", "mask_rate": 0}, "decoding 'parallel' fills masked places"),
        ({"type": "seq2seq", "width": 30, "heads": 4}, "width 30 is not a multiple of heads 4"),
        ({"type": "masked_lm", "mask_rate": 0}, "mask_rate"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, says):
    cls = Seq2SeqGenerator if config["type"] == "seq2seq" else MaskedLMGenerator
    with pytest.raises(ConfigError, match=says):
        validate(cls, config)


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("encoder", TextEncoderLabeler),
        ("masked_lm", MaskedLMGenerator),
        ("seq2seq", Seq2SeqGenerator),
        ("causal_lm", CausalLMGenerator),
        ("seq2seq", Doc2QueryGenerator),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(folders, shape, tmp_path, name, cls):
    import shutil

    path = tmp_path / "wrong"
    shutil.copytree(folders / name, path)
    big = corpus_tokens(train_tokenizer([*TEXTS, *(f"word{i} word{i}" for i in range(300))], 700), 32, "test")
    big.tokenizer.save_pretrained(path)
    with pytest.raises(
        ConfigError, match=r"teacher\.\w+: the tokenizer gives ids up to \d+, and its model has \d+ emb"
    ):
        cls(path=str(path), max_tokens=32).build(shape, *([2] if cls is TextEncoderLabeler else []))


def of_family(family, folder, tokenizer, pad, model=AutoModelForMaskedLM):
    """A folder with a small model of a family, whose config says this padding token."""
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    if family == "distilbert":
        small = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 40, "pad_token_id": pad}
    config = AutoConfig.for_model(family, **sizes, **small)
    model.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_model_that_counts_positions_from_padding_needs_a_tokenizer_that_pads_so(shape, tmp_path):
    tokenizer = corpus_tokens(shape.tokenizer, 32, "test").tokenizer
    other = tokenizer.pad_token_id + 2
    for cls, more in ((TextEncoderLabeler, [2]), (MaskedLMGenerator, [])):
        build = cls(path=of_family("roberta", tmp_path, tokenizer, other), max_tokens=32).build
        with pytest.raises(
            ConfigError,
            match=rf"pads with token {tokenizer.pad_token_id}, and its model counts positions from padding token {other}: .*give a folder",
        ):
            build(shape, *more)
        of_family("roberta", tmp_path, tokenizer, tokenizer.pad_token_id)
        build(shape, *more)


@pytest.mark.parametrize("family", ["roberta", "data2vec-text", "roberta-prelayernorm", "luke", "ibert", "esm"])
def test_texts_have_the_positions_that_are_left_after_padding(shape, tmp_path, family):
    tokenizer = corpus_tokens(shape.tokenizer, 32, "test").tokenizer
    path = of_family(family, tmp_path, tokenizer, tokenizer.pad_token_id, model=AutoModel)
    longest = 40 - tokenizer.pad_token_id - 1
    with pytest.raises(
        ConfigError, match=rf"max_tokens: {longest + 1}, but .* positions for {longest} tokens at the most"
    ):
        TextEncoderStudent(path=path, max_tokens=longest + 1).build(shape)
    backbone = seeded(TextEncoderStudent(path=path).build, shape)
    assert backbone.tokens.max_tokens == longest
    ids = backbone.prepare(rows("x" * WIDTH))
    assert (ids != tokenizer.pad_token_id).sum() == longest
    assert backbone(ids).isfinite().all()


@pytest.mark.parametrize("family", ["bert", "electra", "albert", "deberta-v2", "distilbert"])
def test_a_padding_token_that_only_a_config_has_refuses_nothing(shape, tmp_path, family):
    """As Multilingual-MiniLM: a BERT with the tokenizer of XLM-R, whose padding token is another than its config's."""
    tokenizer = corpus_tokens(shape.tokenizer, 32, "test").tokenizer
    path = of_family(family, tmp_path, tokenizer, tokenizer.pad_token_id + 2)
    backbone = seeded(TextEncoderStudent(path=path, max_tokens=32).build, shape)
    together = backbone(rows("a film", "the old man likes the house"))
    torch.testing.assert_close(together[:1], backbone(rows("a film")), msg="padding is masked all the same")
    MaskedLMGenerator(path=path, max_tokens=32).build(shape)


def test_a_special_token_that_no_text_gets_needs_no_embedding(folders, shape, tmp_path):
    """As Gemma 3's <image_soft_token>."""
    import shutil

    for name in ("encoder", "causal_lm"):
        shutil.copytree(folders / name, tmp_path / name)
        tokenizer = corpus_tokens(shape.tokenizer, 32, "test").tokenizer
        tokenizer.add_tokens("<image>", special_tokens=True)
        tokenizer.save_pretrained(tmp_path / name)
    labeler = TextEncoderLabeler(path=str(tmp_path / "encoder"), max_tokens=32).build(shape, 2)
    assert labeler(rows("an <image> of a film")).logits.isfinite().all()
    teacher = teacher_with(CausalLMGenerator(path=str(tmp_path / "causal_lm"), max_tokens=64), shape)
    _, context = teacher.encode(rows("an <image> of a film", TEXTS[0]), generator())
    assert context[:, 0].max() < len(teacher.generator.body.get_input_embeddings().weight)


def test_more_tokens_than_a_model_has_positions_are_refused(folders, shape):
    with pytest.raises(
        ConfigError, match=r"teacher\.labeler\.max_tokens: 64, but the model has positions for 32 tokens"
    ):
        TextEncoderLabeler(path=str(folders / "encoder"), max_tokens=64).build(shape, 2)


def test_a_head_without_weights_is_not_taken_for_the_model_s_own(folders, shape, tmp_path):
    import transformers as t

    tokenizer = corpus_tokens(shape.tokenizer, 30, "test").tokenizer
    config = t.RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=34, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    t.RobertaModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for pooling, refused in (("mean", False), ("model", True)):
        labeler = TextEncoderLabeler(path=str(tmp_path), pooling=pooling)
        model = labeler.build(shape, 2)
        if refused:
            with pytest.raises(ConfigError, match=r"has no weights for 'classifier\.dense\.bias'; give pooling: mean"):
                labeler.load_weights(model)
        else:
            assert labeler.load_weights(model)["head"] == "fit"
            assert model(rows(*TEXTS[:3])).logits.shape == (3, 2)


@pytest.mark.parametrize("key", ["teacher.labeler", "teacher.generator", "student"])
def test_a_run_says_whose_model_cannot_be_loaded(tmp_path, key):
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        frame = pd.DataFrame({"text": TEXTS, "label": [number % 2 for number in range(len(TEXTS))]})
        frame.to_parquet(tmp_path / "data" / f"{split}.parquet")
    nothing = {"teacher.labeler": "text_encoder", "teacher.generator": "seq2seq", "student": "text_encoder"}[key]
    config = {
        "task": {"type": "text_classification", "data": {"type": "parquet", "path": str(tmp_path / "data")}},
        "teacher": {"labeler": {"type": "text_transformer"}, "generator": {"type": "masked_lm"}},
        "student": {"type": "text_transformer"},
        "explorer": {"type": "random"},
    }
    config = override(config, key, {"type": nothing, "path": str(tmp_path / "nothing")})
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)}: .*nothing: cannot be loaded"):
        api.run(validate(Experiment, config), storage=str(tmp_path / "s"), local=True)


def test_a_folder_that_is_no_model_is_refused(tmp_path, shape):
    with pytest.raises(ConfigError, match="cannot be loaded"):
        TextEncoderLabeler(path=str(tmp_path)).build(shape, 2)


def test_a_file_that_cannot_be_asked_for_is_not_taken_for_one_that_is_not_there(folders, monkeypatch, tmp_path):
    assert own_file(str(folders / "encoder"), None, "modules.json") is None
    (tmp_path / "modules.json").write_text("[1")
    with pytest.raises(
        ConfigError, match=r"whether it has a file modules\.json, and what that says, can't be found out"
    ):
        own_file(str(tmp_path), None, "modules.json")

    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def asked(error):
        def download(*args, **more):
            raise error

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        return own_file("some/model", None, "modules.json")

    assert asked(EntryNotFoundError("404")) is None
    for error in (LocalEntryNotFoundError("offline"), OSError("no connection")):
        with pytest.raises(ConfigError, match=r"some/model: whether it has a file modules\.json"):
            asked(error)


def test_models_in_packages_are_found():
    assert place("some/hub-name") == "some/hub-name"
    assert place("package:tgt_ray/models").endswith("tgt_ray/models")
    with pytest.raises(ConfigError, match="'no_such_package_here' is not installed"):
        place("package:no_such_package_here/model")
    with pytest.raises(ConfigError, match=r"has no folder '\.\./x'"):
        place("package:tgt_ray/../x")


def test_a_model_from_scratch_needs_texts():
    with pytest.raises(ConfigError, match="needs a text task"):
        TextTransformerStudent().build(InputSpec((1, 28, 28)))


def test_rows_are_bytes():
    assert rows("ä").dtype == torch.uint8
    assert np.asarray(rows("ä")[0, :2]).tolist() == [0xC3, 0xA4]
