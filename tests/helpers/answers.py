"""Data whose tables have the answers of a teacher in further columns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tests.helpers.text_runs import SIZE, sentences_of
from tgt_ray.core.config import validate
from tgt_ray.experiment.experiment import Experiment

NAMES = ("bad", "good")


def logits_of(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Logits (N, 2) that are mostly right."""
    rng = np.random.default_rng(seed)
    return np.where(np.arange(2) == labels[:, None], 1.5, -0.5) + rng.normal(size=(len(labels), 2))


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def table(split: str, rows: int) -> tuple[pa.Table, np.ndarray]:
    """A split with texts that all differ, labels as names, logits and probabilities; and its logits."""
    seed = {"train": 0, "validation": 1, "test": 2, "unlabelled": 3}[split]
    texts, labels = sentences_of(np.random.default_rng(seed), rows)
    logits = logits_of(labels, seed)
    p = softmax(logits)
    columns = {
        "text": [f"{text} {split} {row}" for row, text in enumerate(texts)],
        "label": [NAMES[each] for each in labels],
        "said": logits.tolist(),
        **{f"p_{name}": p[:, place] for place, name in enumerate(NAMES)},
    }
    return pa.table(columns), logits


def write(folder: Path, kind: str = "parquet", splits: tuple[str, ...] = ("train", "validation", "test")) -> np.ndarray:
    """Write the splits; return the logits of train."""
    folder.mkdir(exist_ok=True)
    said = {}
    for split in splits:
        rows, said[split] = table(split, {"train": 96, "validation": 24, "test": 24, "unlabelled": 30}[split])
        put(rows, folder, split, kind)
    return said["train"]


def put(rows: pa.Table, folder: Path, split: str, kind: str = "parquet") -> None:
    if kind == "parquet":
        pq.write_table(rows, folder / f"{split}.parquet")
    elif kind == "csv":
        texts = [None if each is None else json.dumps(each) for each in rows["said"].to_pylist()]
        place = rows.column_names.index("said")
        pyarrow.csv.write_csv(rows.set_column(place, "said", pa.array(texts)), folder / f"{split}.csv")
    else:
        lines = "".join(f"{json.dumps(row)}\n" for row in rows.to_pylist())
        (folder / f"{split}.jsonl").write_text(lines)


def stored(folder: Path, kind: str = "parquet", **changes: Any) -> Experiment:
    """An experiment of plain distillation from these columns."""
    data = {"type": kind, "path": str(folder), "label_names": list(NAMES), **changes.pop("data", {})}
    labeler = {"type": "stored", "column": "said", "values": "logits", **changes.pop("labeler", {})}
    return validate(
        Experiment,
        {
            "task": {
                "type": "text_classification", "data": data, "max_bytes": 128, "vocabulary": 400,
                **changes.pop("task", {}),
            },
            "teacher": {"labeler": labeler, "generator": {"type": "masked_lm"}},
            "student": {"type": "text_transformer", **SIZE},
            "explorer": {"type": "none"},
            "train": {"steps": 12, "batch_size": 16, "learning_rate": 5e-3, "eval_every": 6},
            "pool": {"rows_per_request": 16},
            **changes,
        },
    )  # fmt: skip
