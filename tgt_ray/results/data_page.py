"""Shows a task's data before anything is trained: splits, classes, sizes, what was left out, and the first rows."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console, Group, RenderableType
from rich.table import Table as Drawn
from rich.text import Text

from tgt_ray.core.texts import shown
from tgt_ray.results.pictures import Line, drawable, grid, png
from tgt_ray.tasks import Task, TaskData, inputs_of

if TYPE_CHECKING:
    from tgt_ray.tasks.base import Table

#: Splits in the order in which they are shown, with what people call them.
SPLITS = {
    "train": "train",
    "unlabelled": "rows without labels",
    "validation": "validation",
    "calibration": "calibration",
    "test": "test",
    "documents": "documents",
}
#: First rows of a split that are shown, and characters of a text.
FIRST, BEGINNING = 3, 90
#: Classes that the terminal shows, the most and the least frequent; samples of each on the page; classes with samples.
LISTED, SAMPLES, DRAWN = 20, 6, 50


@dataclass(frozen=True)
class Part:
    """A table for people: a title, and rows with the same keys."""

    title: str
    rows: Sequence[dict[str, Any]]


def parts(task: Task, data: TaskData, all_classes: bool = False) -> Iterator[Part]:
    """Yield the tables on a task's data.

    - all_classes: also those that are neither frequent nor rare
    """
    tables = {name: data.tables[name] for name in SPLITS if name in data.tables}
    yield Part("Splits", [{"split": SPLITS[name], **_sizes(task, name, each)} for name, each in tables.items()])
    if not task.has_documents:
        yield _classes(data, all_classes)
    left = [{"left out": each.what, "count": each.count, "the first": each.first} for each in data.left_out]
    yield Part("Left out", left)
    leaks = {"test": "test rows in train", "validation": "validation rows in train"}
    found = {leaks.get(name, "test rows in validation"): count for name, count in data.leaks.items()}
    yield Part("Leaks between splits", [{"what": name, "rows": count} for name, count in found.items()])
    rows = [{"split": SPLITS[name], **row} for name, each in tables.items() for row in _first(name, each, data)]
    yield Part(f"The first {FIRST} rows of each split", rows)


def _sizes(task: Task, name: str, table: Table) -> dict[str, Any]:
    out: dict[str, Any] = {"rows": len(table)}
    texts = _texts(name, table)
    if texts is not None:
        lengths = np.array([len(text.encode()) for text in texts] or [0])
        most = task.most_bytes(name)
        out |= {"median bytes": int(np.median(lengths)), "longest": int(lengths.max())}
        out |= {"cut": int((lengths > most).sum()), "limit": most} if most is not None else {}
    return out


def _texts(name: str, table: Table) -> list[str] | None:
    """Return texts as the data has them: a task gives them as models read them, without what is cut."""
    column = "document" if name == "documents" else "text"
    there = isinstance(table, pa.Table) and column in table.column_names
    return table[column].to_pylist() if there else None


def _classes(data: TaskData, all_classes: bool) -> Part:
    names = data.class_names or tuple(map(str, range(data.num_classes)))
    counts = {
        name: np.bincount(labels[labels >= 0], minlength=data.num_classes)
        for name in ("train", "validation", "test")
        for labels in [data.labels(name)]
    }
    order = np.argsort(-counts["train"], kind="stable")
    title = f"{data.num_classes} classes, the most frequent first"
    if not all_classes and len(order) > LISTED:
        order = np.concatenate([order[: LISTED // 2], order[-LISTED // 2 :]])
        title = f"The {LISTED // 2} most and the {LISTED // 2} least frequent of {data.num_classes} classes"
    rows = [{"class": names[k], "number": int(k), **{s: int(counts[s][k]) for s in counts}} for k in order]
    return Part(title, rows)


def _first(name: str, table: Table, data: TaskData) -> Iterator[dict[str, Any]]:
    head = table.slice(0, FIRST)
    texts = _texts(name, head)
    labels = head["label"].to_pylist()
    for place in range(min(FIRST, len(table))):
        row: dict[str, Any] = {"row": head["id"][place].as_py()}
        if name != "documents":
            row["label"] = "-" if labels[place] < 0 else (data.class_names or range(data.num_classes))[labels[place]]
        row["content"] = " x ".join(map(str, data.input_shape))
        if texts is not None:
            row["content"] = shown(texts[place])[:BEGINNING]
        yield row


def render(task: Task, data: TaskData) -> RenderableType:
    """Draw the tables for a terminal."""
    drawn: list[RenderableType] = []
    for part in parts(task, data):
        if not part.rows:
            drawn.append(Text(f"{part.title}: nothing\n"))
            continue
        table = Drawn(title=part.title, title_justify="left")
        keys = list(dict.fromkeys(key for row in part.rows for key in row))
        for key in keys:
            number = isinstance(part.rows[0].get(key), int)
            table.add_column(key, justify="right" if number else "left", overflow="fold")
        for row in part.rows:
            # As Text, since what stands in data may look like markup to rich.
            table.add_row(*(Text(str(row.get(key, ""))) for key in keys))
        drawn.append(table)
    return Group(*drawn)


def show(task: Task, data: TaskData) -> None:
    """Print the tables."""
    Console().print(render(task, data))


def page(task: Task, data: TaskData) -> bytes:
    """Write the tables, and samples of each class, as one HTML page, which loads nothing and runs nothing."""
    environment = Environment(
        loader=PackageLoader("tgt_ray.results", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    tables = [(part, list(dict.fromkeys(key for row in part.rows for key in row))) for part in parts(task, data, True)]
    samples = list(_samples(task, data)) if not task.has_documents else []
    return environment.get_template("data.html").render(tables=tables, samples=samples, line=task.said(data)).encode()


def _samples(task: Task, data: TaskData) -> Iterator[dict[str, Any]]:
    """Yield a few train rows of the most and least frequent classes: a picture of them, or their texts."""
    import torch

    labels = data.labels("train")
    names = data.class_names or tuple(map(str, range(data.num_classes)))
    order = np.argsort(-data.class_counts, kind="stable")
    if len(order) > DRAWN:
        order = np.concatenate([order[: DRAWN // 2], order[-DRAWN // 2 :]])
    for k in order:
        places = np.flatnonzero(labels == k)[:SAMPLES]
        rows = data.tables["train"].take(places)
        texts = task.texts("train", rows)
        if texts is not None:
            yield {"name": names[k], "texts": [shown(text) for text in texts[1]]}
            continue
        images = inputs_of(task, rows, data.input_shape)[torch.arange(len(places))].numpy()
        if drawable(images):
            figure = grid([Line("", list(images), [""] * len(images))])
            yield {"name": names[k], "picture": base64.b64encode(png(figure)).decode()}
