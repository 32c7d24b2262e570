"""T5, which writes the spans that its sentinels stand for."""

import json

import pytest
import torch
from torch.nn import functional as F

from tests.helpers.text_models import TEXTS, generator, rows, seeded, teacher_with
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.texts import to_texts
from tgt_ray.teacher.generators import Seq2SeqGenerator


def test_t5_fills_the_spans_of_its_sentinels(t5, text_spec):
    """Against a call of the model itself, on sequences that are written by hand."""
    model = seeded(Seq2SeqGenerator(path=t5, max_tokens=12).build, text_spec)
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


def test_t5_changes_masked_words_alone(t5, text_spec):
    teacher = teacher_with(Seq2SeqGenerator(path=t5, max_tokens=16, mask_rate=0.6), text_spec)
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


@pytest.mark.parametrize("kind", ["without", "encoder"])
def test_a_model_without_a_trained_decoder_is_refused(t5, text_spec, tmp_path, kind):
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
        Seq2SeqGenerator(path=str(tmp_path), max_tokens=16).build(text_spec)


def test_t5_does_not_write_whole_texts_from_masked_ones(t5, text_spec):
    with pytest.raises(
        ConfigError, match=r"teacher\.generator\.decoding: sample, but the model writes only masked spans"
    ):
        Seq2SeqGenerator(path=t5, decoding="sample", max_tokens=16).build(text_spec)
    Seq2SeqGenerator(path=t5, decoding="sample", mask_rate=0, max_tokens=16).build(text_spec)
