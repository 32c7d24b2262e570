"""Classified texts as files of each kind, and the task that reads them."""

import csv
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from tgt_ray.core.config import validate
from tgt_ray.tasks import TextClassification

CLASSES = ["bad", "fair", "good"]
COUNTS = {"train": 24, "test": 9, "validation": 6}


def rows_of(split: str, count: int) -> dict[str, list]:
    """Texts with what separators of files look like, and the number zero written as a text."""
    texts = [f'{split} "{n}", naïve\n{CLASSES[n % 3]}\t2020-01-0{1 + n % 9}' for n in range(count)]
    return {
        "text": ["NA", "2020-01-01", *texts[2:]],
        "more": [f"2021-01-0{1 + n % 9}" for n in range(count)],
        "label": [n % 3 for n in range(count)],
        "id": list(range(count)),
    }


def write(folder, kind: str, splits: dict[str, dict[str, list]]) -> dict:
    """The splits as a source of this kind, and its config."""
    folder.mkdir(exist_ok=True)
    if kind == "huggingface":
        sets = {split: datasets.Dataset.from_dict(columns) for split, columns in splits.items()}
        datasets.DatasetDict(sets).save_to_disk(folder / "hf")
        more = {"validation": "validation"} if "validation" in splits else {}
        return {"type": kind, "path": str(folder / "hf"), **more}
    for split, columns in splits.items():
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        if kind == "parquet":
            pq.write_table(pa.table(columns), folder / f"{split}.parquet", row_group_size=5)
        elif kind == "jsonl":
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            with open(folder / f"{split}.{kind}", "w", newline="") as file:
                writer = csv.DictWriter(file, list(columns), delimiter="\t" if kind == "tsv" else ",")
                writer.writeheader()
                writer.writerows(rows)
    return {"type": "csv" if kind == "tsv" else kind, "path": str(folder)}


KINDS = ["parquet", "csv", "tsv", "jsonl", "huggingface"]


def task(source: dict, **more) -> TextClassification:
    return validate(TextClassification, {"type": "text_classification", "data": source, **more})
