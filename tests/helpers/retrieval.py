"""A small corpus of things, queries for it, models that are quickly made, and an experiment on them."""

import pandas as pd
import torch

from tgt_ray.core.config import validate
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.text.tokens import corpus_tokens
from tgt_ray.models.text.vocabulary import train_tokenizer

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


def save_encoder(folder):
    """Random word embeddings: their mean says which words a text has, so it finds documents with a query's words."""
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
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


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


def save_writer(encoder, folder):
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
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def doc2query(writer, **more):
    return {"type": "doc2query", "path": str(writer), "prefix": "say: ", "max_tokens": 40, "max_new_tokens": 12} | more
