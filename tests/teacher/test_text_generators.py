"""Generators of texts: masked places filled in, and texts written."""

import pytest
import torch
from transformers import AutoModelForMaskedLM

from tests.helpers.text_models import SCRATCH, TEXTS, generator, of_family, rows, seeded, teacher_with
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.texts import SEPARATOR, to_texts
from tgt_ray.teacher.explorers import Neighbourhood, RandomMatched
from tgt_ray.teacher.generators import CausalLMGenerator, MaskedLMGenerator, Seq2SeqGenerator


@pytest.fixture(params=["scratch", "folder"])
def masking(request, text_models, text_spec):
    def make(cls, **options):
        name = cls.model_fields["type"].default
        where = {"path": str(text_models / name), "max_tokens": 32} if request.param == "folder" else SCRATCH
        return teacher_with(cls(**where, **options), text_spec)

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


def test_a_masked_language_model_sees_which_sentence_a_token_is_of(text_models, text_spec):
    path = str(text_models / "masked_lm")
    model, own = (
        seeded(MaskedLMGenerator(**where).build, text_spec) for where in ({"path": path, "max_tokens": 32}, SCRATCH)
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
def test_a_random_step_lies_on_a_text_s_tokens_alone(masking, cls):
    """Its length is step_size sqrt(tokens x H) in units of the scale, however long the other texts are."""
    teacher = masking(cls, mask_rate=0.4)
    inputs, scale = rows("a film", TEXTS[0], f"the house{SEPARATOR}a red car"), 0.7
    latents, context = teacher.encode(inputs, generator())
    tokens, width = (context[:, 0] != teacher.generator.tokens.pad), latents.shape[1] // context.shape[2]
    near = Neighbourhood(
        torch.tensor(scale), None, latents, torch.zeros(3), torch.zeros(3), generator(4), torch.arange(3),
        teacher.present(latents, context),
    )  # fmt: skip
    step = RandomMatched(sigma=0, step_size=0.3).explore(latents, near) - latents
    by_token = step.unflatten(1, (-1, width)).norm(dim=2)
    assert (by_token[~tokens] == 0).all() and (by_token[tokens] > 0).all()
    expected = scale * 0.3 * (tokens.sum(dim=1) * width) ** 0.5
    torch.testing.assert_close(step.norm(dim=1), expected, rtol=1e-4, atol=0)


def test_words_that_the_vocabulary_lacks_stay_in_new_texts(text_spec, tmp_path):
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "nobody", "likes", "the", "film", "house", "."]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    config = MaskedLMGenerator(path=of_family("bert", tmp_path, tokenizer, 0), max_tokens=16, mask_rate=0.5)
    teacher = teacher_with(config, text_spec)
    texts = [
        "nobody likes the Größenwahn film .",
        "the house .",
        f"Quark the film{SEPARATOR}nobody likes \N{SNOWMAN} .",
    ]
    latents, context = teacher.encode(rows(*texts), generator())
    changed = to_texts(teacher.decode(latents, generator(1), context).numpy())
    kept = [["Größenwahn"], [], ["Quark", "\N{SNOWMAN}"]]
    for text, new, unknown in zip(texts, changed, kept, strict=True):
        places = [text.replace(SEPARATOR, " ").split().index(word) for word in unknown]
        assert [new.replace(SEPARATOR, " ").replace(".", " .").split()[place] for place in places] == unknown, new
        assert new.count(SEPARATOR) == text.count(SEPARATOR)
    assert changed != texts, "the other words are drawn anew"
    one = teacher.decode(latents[2:], generator(1), context[2:])
    assert "Quark" in to_texts(one.numpy())[0]
    assert teacher.relax(latents, generator(), context).shape[:2] == context.shape[::2]


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


def test_noise_changes_what_is_filled_in(text_spec):
    teacher = teacher_with(Seq2SeqGenerator(**SCRATCH, mask_rate=0.5, temperature=0), text_spec)
    latents, context = teacher.encode(rows(*TEXTS[:8]), generator())
    far = latents + 5 * torch.randn(latents.shape, generator=generator())
    change = teacher.relax(far, generator(), context) - teacher.relax(latents, generator(), context)
    masked = context[:, 1].bool()
    assert change[masked].abs().max() > 1e-5
    assert not change[~masked].any(), "what isn't masked stays"


def test_sampling_writes_what_transformers_writes(text_models, text_spec):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    path = str(text_models / "seq2seq")
    config = Seq2SeqGenerator(path=path, mask_rate=0, temperature=0, decoding="sample", max_tokens=20)
    teacher = teacher_with(config, text_spec)
    out = teacher.decode(*_swap(teacher.encode(rows("my sister likes the film"), generator())))
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForSeq2SeqLM.from_pretrained(path).eval()
    given = tokenizer(["my sister likes the film"], return_tensors="pt", return_token_type_ids=False)
    said = model.generate(**given, max_new_tokens=20, do_sample=False, num_beams=1)
    assert (
        to_texts(out.numpy())[0]
        == to_texts(rows(tokenizer.decode(said[0], skip_special_tokens=True).strip()).numpy())[0]
    )


def test_words_that_the_vocabulary_lacks_stay_in_texts_that_are_written(text_spec, tmp_path, monkeypatch):
    """A decoder that writes its anchor's tokens again gives the anchor, and one that writes more says nothing there."""
    from transformers import BartConfig, BartForConditionalGeneration, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "nobody", "likes", "the", "film", "house", "."]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    sizes = {f"{side}_{what}": size for side in ("encoder", "decoder") for what, size in
             (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))}  # fmt: skip
    ends = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    config = BartConfig(vocab_size=len(words), d_model=16, max_position_embeddings=40, **sizes, **ends)
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = Seq2SeqGenerator(path=str(tmp_path), mask_rate=0, decoding="sample", max_tokens=16)
    teacher = teacher_with(config, text_spec)
    texts = ["nobody likes the Größenwahn film.", "the house.", "Quark likes nobody."]
    latents, context = teacher.encode(rows(*texts), generator())
    monkeypatch.setattr(teacher.generator.body, "generate", lambda **given: context[:, 0])
    assert to_texts(teacher.decode(latents, generator(), context).numpy()) == texts
    more = torch.cat([context[:, 0, :1], torch.full((3, 1), 1), context[:, 0, 1:]], dim=1)
    monkeypatch.setattr(teacher.generator.body, "generate", lambda **given: more)
    found = to_texts(teacher.decode(latents, generator(), context).numpy())
    assert found[0].startswith("Größenwahn nobody likes the") and found[1] == "the house."


def _swap(encoded):
    latents, context = encoded
    return latents, generator(), context


@pytest.mark.parametrize("decoding", ["sample", "causal"])
def test_writing_follows_from_the_request_alone(text_models, text_spec, decoding):
    if decoding == "sample":
        config = Seq2SeqGenerator(path=str(text_models / "seq2seq"), decoding="sample", max_tokens=16)
    else:
        config = CausalLMGenerator(path=str(text_models / "causal_lm"), max_new_tokens=8, shots=2, max_tokens=64)
    teacher = teacher_with(config, text_spec)
    state = torch.get_rng_state()

    def written(seed):
        rng = generator(seed)
        latents, context = teacher.encode(rows(*TEXTS[:6]), rng)
        return to_texts(teacher.decode(latents, rng, context).numpy())

    assert written(0) == written(0)
    assert written(0) != written(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any("\n" in text for text in written(0))


def test_an_anchor_is_no_example_in_its_own_prompt(text_models, text_spec):
    config = CausalLMGenerator(path=str(text_models / "causal_lm"), max_new_tokens=8, shots=4, max_tokens=120)
    teacher = teacher_with(config, text_spec)
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


def test_denoising_is_learnt(text_spec):
    config = MaskedLMGenerator(**SCRATCH, mask_rate=0.2, temperature=0)
    model = config.build(text_spec)
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


def test_denoising_stops_on_agreement(text_spec):
    config = Seq2SeqGenerator(**SCRATCH)
    how = config.pretrain.model_copy(update={"steps": 50, "check_every": 5, "agreement": 80.0})
    model, said = config.build(text_spec), iter([50.0, 90.0])
    config = config.model_copy(update={"pretrain": how})
    assert config.fit(model, rows(*TEXTS), torch.nn.Identity(), lambda: next(said)) == {"steps": 10}


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
