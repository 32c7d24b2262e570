"""Makes tables of predictions of inputs that come one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from tgt_ray.core.errors import ConfigError
from tgt_ray.inference.sources import Inputs
from tgt_ray.inference.students import LoadedRetriever, LoadedStudent

Student = LoadedStudent | LoadedRetriever


@dataclass(frozen=True)
class Asked:
    """What to write of each input.

    - top: how many classes, or documents
    - probabilities: of each class as well
    - embedding: as well
    - batch_size: inputs at once; None: as many as a moderate amount of memory holds
    - strict: whether the first input that can't be used is an error
    """

    top: int = 1
    probabilities: bool = False
    embedding: bool = False
    batch_size: int | None = None
    strict: bool = False


def tables(student: Student, inputs: Inputs, asked: Asked) -> Iterator[pd.DataFrame]:
    """Yield a table for each batch of inputs: which ones they are, and what the student says of them."""
    if isinstance(student, LoadedRetriever):
        yield from _found(student, inputs, asked)
        return
    for places, embeddings, scores in student.outputs(inputs.items(), asked.batch_size, inputs.refuse, cut=inputs.cut):
        table = student.table(
            scores.numpy(), embeddings.numpy() if asked.embedding else None, asked.top, asked.probabilities
        )
        yield pd.concat([pd.DataFrame(inputs.named(places)), table], axis=1)


def _found(student: LoadedRetriever, inputs: Inputs, asked: Asked) -> Iterator[pd.DataFrame]:
    if asked.probabilities:
        raise ConfigError("--probabilities: a student of retrieval has none; --top says how many documents to name")
    for places, embedded in student.encoded(inputs.items(), asked.batch_size, inputs.refuse, cut=inputs.cut):
        table = student.nearest(embedded, asked.top)
        named = pd.DataFrame(inputs.named(places)).iloc[table.pop("query")].reset_index(drop=True)
        if asked.embedding:
            table["embedding"] = [embedded[place // asked.top] for place in range(len(table))]
        yield pd.concat([named, table], axis=1)
