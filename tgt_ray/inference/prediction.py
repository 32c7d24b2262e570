"""Predicts for files and tables, and measures students on them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tgt_ray.core.errors import ConfigError, RunFailed
from tgt_ray.core.progress import progress
from tgt_ray.inference import evaluating
from tgt_ray.inference.predictions import written
from tgt_ray.inference.sources import Inputs, Source, Wanted, open_source
from tgt_ray.inference.students import LoadedRetriever, LoadedStudent
from tgt_ray.tasks.classification import Classification

log = logging.getLogger(__name__)

#: The most classes whose confusion is shown as a table.
CONFUSED = 20

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


def wanted(
    student: Student, column: str | None, pair: str | None, label: str | None = None, labelled: bool = False
) -> Wanted:
    """Say which columns a student needs of a table: those given, or those of its own data.

    - labelled: whether the column of classes is needed
    """
    task = student.about["experiment"]["task"]
    data = task.get("data") or {}
    own_pair = data.get("pair_column")
    if pair is not None and own_pair is None:
        raise ConfigError(f"--pair-column {pair}: the student was trained on single texts")
    trained_on = tuple(data[name] for name in ("text_column", "image_column") if isinstance(data.get(name), str))
    if student.modality != "image" and not trained_on:
        trained_on = ("query",) if isinstance(student, LoadedRetriever) else ()
    return Wanted(
        student.modality,
        column,
        pair or own_pair,
        trained_on,
        (label or data.get("label_column") or "label") if labelled else None,
    )


def predict(student: Student, path: str, columns: Wanted, asked: Asked, out: Path | None) -> None:
    """Write predictions of all inputs that can be used.

    - out: None is standard output
    - raises RunFailed: where none can be used
    """
    source = open_source(path, columns)
    say_left_out(path, source)
    inputs, done = Inputs(source, asked.strict), 0
    with written(out) as writer, progress("predicting", source.total, "rows") as phase:
        for table in tables(student, inputs, asked):
            writer.write(table)
            done += len(table)
            phase.to(done + inputs.bad)
        if not done:
            raise RunFailed(f"{path}: none of {inputs.bad:,} inputs can be used")
    left_out = f"; {inputs.bad:,} can't be used and are left out" if inputs.bad else ""
    log.info("%s%s%s", f"{done:,} rows predicted", left_out, f"; {out}" if out is not None else "")


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


def say_left_out(path: str, source: Source) -> None:
    """Say which files of a folder are no images."""
    if source.left_out:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in source.left_out.items())
        log.warning("%s: files that are no images are left out: %s", path, kinds)


def evaluate(student: Student, path: str, columns: Wanted, batch_size: int | None, strict: bool) -> dict[str, Any]:
    """Measure a student on labelled rows, and return what is found as plain data."""
    if isinstance(student, LoadedRetriever) or not isinstance(student.experiment.task, Classification):
        raise ConfigError(f"{student.folder}: its student sorts nothing into classes; evaluate measures those that do")
    source = open_source(path, columns)
    say_left_out(path, source)
    inputs = Inputs(source, strict, labelled=True)
    found = evaluating.evaluate(student, student.experiment.task, inputs, batch_size)
    found["left_out"] = inputs.bad
    found["confusion"] = found["confusion"].tolist()
    found["per_class"] = found["per_class"].astype(object).where(found["per_class"].notna(), None).to_dict("records")
    return {"student": student.folder, "data": path, "classes": list(student.classes), **found}


def show(found: dict[str, Any]) -> None:
    """Print what `evaluate` has found."""
    console = Console(soft_wrap=True, highlight=False)
    left_out = f", {found['left_out']:,} left out" if found["left_out"] else ""
    console.print(f"{found['data']}: {found['rows']:,} rows{left_out}", markup=False)
    for name, value in found["metrics"].items():
        console.print(f"  {name:<22} {value:6.2f}")
    about = found["calibration"]
    console.print(
        f"  expected calibration error {about['expected_calibration_error']:.2f} % (without the student's temperature"
        f" {about['temperature']:.2f}: {about['uncalibrated_error']:.2f} %)"
    )
    console.print(_table(pd.DataFrame(found["per_class"])))
    if len(found["classes"]) <= CONFUSED:
        counts = pd.DataFrame(found["confusion"], columns=found["classes"])
        console.print("rows: true classes, columns: predicted ones")
        console.print(_table(pd.concat([pd.Series(found["classes"], name=""), counts], axis=1)))


def _table(frame: pd.DataFrame) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[name])
        table.add_column(Text(str(name)), justify="right" if numeric else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(Text(f"{value:.2f}" if isinstance(value, float) else str(value)) for value in row))
    return table
