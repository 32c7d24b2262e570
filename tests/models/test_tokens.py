"""Tokenizers: what texts become and what comes back, and tokenizers that don't fit their model."""

import shutil

import numpy as np
import pytest
import torch

from tests.helpers.text_models import TEXTS, WIDTH, generator, rows, teacher_with
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.texts import SEPARATOR, to_bytes
from tgt_ray.models.text.tokens import corpus_tokens, own_tokens, tokens_of
from tgt_ray.models.text.vocabulary import train_tokenizer
from tgt_ray.tasks.metrics.generated_texts import exact_copy_rate
from tgt_ray.teacher.generators import CausalLMGenerator, Doc2QueryGenerator, MaskedLMGenerator, Seq2SeqGenerator
from tgt_ray.teacher.labelers.text import TextEncoderLabeler


def test_the_same_texts_give_the_same_vocabulary(text_spec):
    assert train_tokenizer(TEXTS, 400) == text_spec.tokenizer
    assert train_tokenizer(TEXTS[:10], 400) != text_spec.tokenizer


def test_tokens_take_any_text_apart_without_loss(text_spec):
    tokens = corpus_tokens(text_spec.tokenizer, 90, "test")
    texts = ["a red car", "Ünïcode — and \N{SNOWMAN}", f"one{SEPARATOR}two", "x"]
    for text in texts:
        assert tokens.texts(tokens(rows(text))) == [text]


def test_names_of_special_tokens_in_a_text_are_text(text_spec):
    tokens = corpus_tokens(text_spec.tokenizer, 60, "test")
    text = "the film </s> a <mask> and <pad>"
    ids = tokens(rows(text))
    assert tokens.texts(ids) == [text]
    assert (ids == tokens.end).sum() == 1 and tokens.mask not in ids


@pytest.mark.parametrize("kind", ["corpus", "bert", "t5"])
def test_a_text_that_only_its_tokenizer_has_changed_is_a_copy(kind, text_spec, t5):
    from transformers import AutoTokenizer, BertTokenizer

    texts = [
        "nobody likes the film .",
        "My  sister , the film !",
        f"Nobódy .{SEPARATOR}the house",
        " ".join(["film"] * 15),
    ]
    if kind == "corpus":
        tokens = corpus_tokens(text_spec.tokenizer, 16, "test")
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


def test_long_texts_are_counted(text_spec):
    tokens = corpus_tokens(text_spec.tokenizer, 6, "test")
    assert tokens.count_cut(["a", TEXTS[0], TEXTS[5]]) == (2, TEXTS[0])
    assert tokens(rows(TEXTS[0])).shape == (1, 6)


def test_rows_of_few_bytes_are_not_padded_to_a_model_s_thousands_of_tokens(text_spec):
    wide, most = (corpus_tokens(text_spec.tokenizer, longest, "test") for longest in (8192, 40))
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


def test_a_sentinel_in_a_text_is_text(t5, text_spec):
    tokens = Seq2SeqGenerator(path=t5, max_tokens=40).tokens(text_spec)
    assert tokens.sentinels and len(tokens.sentinels) == 3
    assert not set(tokens(rows("a small <extra_id_0> car"))[0].tolist()) & set(tokens.sentinels)


def test_a_sentinel_in_a_text_counts_as_the_text_that_it_is_read_as(t5, text_spec):
    tokens = Seq2SeqGenerator(path=t5, max_tokens=40).tokens(text_spec)
    text = "a <extra_id_0> car <extra_id_1>"
    length = int((tokens(rows(text)) != tokens.pad).sum())
    for most, cut in ((length, 0), (length - 1, 1)):
        tokens.max_tokens = most
        assert tokens.count_cut([text]) == (cut, text if cut else "")


def words_only(*words):
    """A tokenizer of whole words, as BERT's where a word isn't in its vocabulary and has no pieces there."""
    from transformers import BertTokenizer

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    return BertTokenizer(vocab={word: number for number, word in enumerate(names)})


def test_words_that_a_vocabulary_lacks_are_told_and_put_back():
    tokens = tokens_of(words_only("nobody", "likes", "the", "film", "[", "]", *".,!?"), 12, "test")
    texts = [
        "Nobody likes Zürich, the ☃ film!",
        f"the film{SEPARATOR}Likes  Ω?",
        "nobody likes the film",
        "Quark [UNK] the film",
        "the " * 9 + "Quark film Quark",  # the last one is cut
    ]
    inputs = rows(*texts)
    ids, unknown = tokens(inputs), tokens.unknown_words(inputs)
    assert unknown == [["Zürich", "☃"], ["Ω"], [], ["Quark", "UNK"], ["Quark"]]
    assert tokens.texts(ids, unknown) == [
        "nobody likes Zürich, the ☃ film!",
        f"the film{SEPARATOR}likes Ω?",
        "nobody likes the film",
        "Quark [ UNK ] the film",
        " ".join(["the"] * 9 + ["Quark"]),
    ]
    assert tokens.texts(ids)[0] == "nobody likes, the film!"


def test_a_text_ends_where_its_last_token_is(text_spec):
    tokens = corpus_tokens(text_spec.tokenizer, 20, "test")
    ids = torch.tensor([[5, 6, tokens.pad, tokens.pad], [5, tokens.pad, 7, tokens.pad], [tokens.pad] * 4])
    assert tokens.present(ids).sum(dim=1).tolist() == [2, 3, 0]
    tokens.ends_with_pad = True  # as a causal model's tokenizer that ends texts with the token that it pads with
    assert tokens.present(ids).sum(dim=1).tolist() == [3, 4, 1]


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
def test_a_tokenizer_of_another_model_is_refused(text_models, text_spec, tmp_path, name, cls):
    path = tmp_path / "wrong"
    shutil.copytree(text_models / name, path)
    big = corpus_tokens(train_tokenizer([*TEXTS, *(f"word{i} word{i}" for i in range(300))], 700), 32, "test")
    big.tokenizer.save_pretrained(path)
    with pytest.raises(
        ConfigError, match=r"teacher\.\w+: the tokenizer gives ids up to \d+, and its model has \d+ emb"
    ):
        cls(path=str(path), max_tokens=32).build(text_spec, *([2] if cls is TextEncoderLabeler else []))


def test_a_special_token_that_no_text_gets_needs_no_embedding(text_models, text_spec, tmp_path):
    """As Gemma 3's <image_soft_token>."""
    for name in ("encoder", "causal_lm"):
        shutil.copytree(text_models / name, tmp_path / name)
        tokenizer = corpus_tokens(text_spec.tokenizer, 32, "test").tokenizer
        tokenizer.add_tokens("<image>", special_tokens=True)
        tokenizer.save_pretrained(tmp_path / name)
    labeler = TextEncoderLabeler(path=str(tmp_path / "encoder"), max_tokens=32).build(text_spec, 2)
    assert labeler(rows("an <image> of a film")).logits.isfinite().all()
    teacher = teacher_with(CausalLMGenerator(path=str(tmp_path / "causal_lm"), max_tokens=64), text_spec)
    _, context = teacher.encode(rows("an <image> of a film", TEXTS[0]), generator())
    assert context[:, 0].max() < len(teacher.generator.body.get_input_embeddings().weight)


def test_rows_are_bytes():
    assert rows("ä").dtype == torch.uint8
    assert np.asarray(rows("ä")[0, :2]).tolist() == [0xC3, 0xA4]


def long_texts(kind: str) -> list[str]:
    rng = np.random.default_rng(0)
    words = [*TEXTS[0].split(), "nobody", "Ünïcode", "a", "....", "x" * 150]
    text = {"words": " ", "one word": "", "spaces": "      ", "lines": " \n"}[kind].join(rng.choice(words, 4000))
    return [text, f"short{SEPARATOR}{text}", f"{text}{SEPARATOR}short", f"{text}{SEPARATOR}{text[::-1]}"]


@pytest.mark.parametrize("kind", ["words", "one word", "spaces", "lines"])
@pytest.mark.parametrize("which", ["corpus", "t5"])
@pytest.mark.parametrize("most", [16, 64])
def test_of_a_long_text_no_more_is_tokenized_than_decides(which, kind, most, text_spec, t5, monkeypatch):
    tokens = corpus_tokens(text_spec.tokenizer, most, "x") if which == "corpus" else own_tokens(t5, None, most, "x")
    texts, sizes = long_texts(kind), []
    inputs = torch.from_numpy(to_bytes(texts, 100_000))
    # All of a text, as it was before.
    whole = tokens.tokenizer([texts[0]], truncation=True, max_length=most)["input_ids"]
    backend = type(tokens.tokenizer)._encode_plus

    def encode(self, text, text_pair=None, *more, **settings):
        for each in (text, text_pair):
            sizes.extend(map(len, [each] if isinstance(each, str) else each or []))
        return backend(self, text, text_pair, *more, **settings)

    monkeypatch.setattr(type(tokens.tokenizer), "_encode_plus", encode)
    ids = tokens(inputs)
    assert ids[0].tolist() == whole[0] and ids.shape == (4, most)
    assert tokens.count_cut(texts)[0] == 4 and tokens.count_cut(["a film"])[0] == 0
    tokens.unknown_words(inputs)
    assert max(sizes) <= 32 * most
    ending = tokens.end_of(texts[0])
    assert len(ending) <= 32 * most and texts[0].endswith(ending)
    last = [tokens.tokenizer(each, add_special_tokens=False)["input_ids"][-most:] for each in (ending, texts[0])]
    assert last[0] == last[1]
