"""Short texts, small models of each kind with their tokenizer, and how they are called."""

import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from tgt_ray.core.texts import to_bytes
from tgt_ray.models.text.tokens import corpus_tokens
from tgt_ray.teacher.module import Teacher

WIDTH = 96
TEXTS = [
    f"{who} {what} the {thing} {how}"
    for who in ("a small child", "the old man", "my sister", "nobody")
    for what in ("sees", "buys", "likes", "has lost")
    for thing in ("red car", "house", "good book", "film")
    for how in ("today .", "with joy !", "at last .")
]


def rows(*texts):
    return torch.from_numpy(to_bytes(texts, WIDTH))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def seeded(build, *args):
    torch.manual_seed(0)
    return build(*args).eval().requires_grad_(False)


SCRATCH = {"layers": 1, "width": 32, "heads": 2, "max_tokens": 32}


def teacher_with(config, spec):
    return Teacher.of(torch.nn.Identity(), seeded(config.build, spec), config)


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


def save_models(spec, root):
    """Small models of each kind with the tokenizer, as `save_pretrained` writes them."""
    import transformers as t

    tokenizer = corpus_tokens(spec.tokenizer, 32, "test").tokenizer
    size, small = len(tokenizer), {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    bert = t.BertConfig(vocab_size=size, hidden_size=16, max_position_embeddings=32, num_labels=3, **small, **special)
    bart = t.BartConfig(
        vocab_size=size,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=34,
        decoder_start_token_id=special["eos_token_id"],
        forced_eos_token_id=special["eos_token_id"],
        **special,
    )
    gpt = t.GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=128, **special)
    torch.manual_seed(0)
    models = {
        "classifier": t.BertForSequenceClassification(bert),
        "encoder": t.BertModel(bert),
        "masked_lm": t.BertForMaskedLM(bert),
        "seq2seq": t.BartForConditionalGeneration(bart),
        "causal_lm": t.GPT2LMHeadModel(gpt),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)


def save_t5(path):
    """A small T5, whose tokenizer has three sentinels and no mask token."""
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    words = sorted({word for text in TEXTS for word in text.split()})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *((f"▁{word}", -2.0) for word in words), ("▁", -9.0)]
    pieces += [(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyz<>_0123456789"]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=3)
    config = T5Config(
        vocab_size=len(tokenizer) + 4, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    T5ForConditionalGeneration(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
