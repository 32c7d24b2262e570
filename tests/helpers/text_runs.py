"""Sentences that are good or bad, and an experiment on them with models from scratch."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tgt_ray.core.config import validate
from tgt_ray.experiment.experiment import Experiment

GOOD, BAD = ("joy", "delight", "wonder"), ("boredom", "noise", "gloom")


def sentences_of(rng, count):
    """Sentences with a good or a bad word in them, and which it is."""
    labels = rng.integers(0, 2, count)
    subjects, verbs = ("the film", "this book", "my evening", "her new song"), ("was", "is", "brings", "gave us")
    texts = [
        f"{rng.choice(subjects)} {rng.choice(verbs)} {rng.choice(GOOD if label else BAD)} today" for label in labels
    ]
    return texts, labels


def write_sentences(root):
    rng = np.random.default_rng(0)
    for split, count in (("train", 160), ("validation", 40), ("test", 60)):
        texts, labels = sentences_of(rng, count)
        hypotheses, _ = sentences_of(rng, count)
        pq.write_table(pa.table({"text": texts, "hypothesis": hypotheses, "label": labels}), root / f"{split}.parquet")


SIZE = {"layers": 1, "width": 16, "heads": 2, "max_tokens": 24}
GENERATORS = {
    "masked_lm": {"type": "masked_lm", **SIZE, "pretrain": {"steps": 40, "batch_size": 32}},
    "seq2seq": {"type": "seq2seq", **SIZE, "pretrain": {"steps": 40, "batch_size": 32}},
}


def experiment(folder, generator="masked_lm", **changes):
    data = {
        "task": {
            "type": "text_classification",
            "data": {"type": "parquet", "path": str(folder), **changes.pop("data", {})},
            "max_bytes": 128,
            "vocabulary": 400,
            **changes.pop("task", {}),
        },
        "teacher": {
            "labeler": {"type": "text_transformer", **SIZE, "pretrain": {"steps": 60, "learning_rate": 5e-3}},
            "generator": GENERATORS[generator],
        },
        "student": {"type": "text_transformer", **SIZE},
        "explorer": {"type": "random", "sigma": 0.5},
        "train": {"steps": 24, "batch_size": 16, "learning_rate": 5e-3, "eval_every": 12},
        "pool": {"rows_per_request": 16, "window": 4},
        "fit_check": {"rows": 30, "minimum": 0},
        **changes,
    }
    return validate(Experiment, data)
