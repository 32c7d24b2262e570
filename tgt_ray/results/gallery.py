"""Keep a few synthetic rows that a run has trained on, and show them."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tgt_ray.core import formats
from tgt_ray.core.texts import are_texts, shown, to_texts, visible
from tgt_ray.results.pictures import Line, drawable, grid, png
from tgt_ray.results.text_page import page
from tgt_ray.tasks.metrics.generated_texts import distinct_n, empty_rate, exact_copy_rate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tgt_ray.core.batch import Block

#: Files of a checkpoint after the last step: the rows with the predictions for them, and a picture or a page of texts.
ROWS_FILE, PICTURE_FILE, PAGE_FILE = "gallery.parquet", "gallery.png", "gallery.html"
#: Rows kept of each class (as the teacher predicts it), rows kept in all, and classes in the picture.
PER_CLASS, IN_ALL, SHOWN = 3, 300, 10
#: Largest size of a gallery in bytes; fewer rows are kept of large images.
MOST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Sample:
    """Hold one synthetic row of the gallery.

    - anchor: its anchor's id
    - reconstructed: the anchor as the generator decodes it, (C, H, W) or (bytes,)
    - explored: the synthetic row, of the same shape
    - teacher_class, teacher_p: the teacher's most likely class of the row, and its probability
    - step: the step at which the student used the row
    - version: the step of the student snapshot that the explorer looked at; -1: none
    - origin: the run whose student that was, where a bank has the row; otherwise empty
    """

    anchor: int
    reconstructed: np.ndarray
    explored: np.ndarray
    teacher_class: int
    teacher_p: float
    step: int
    version: int
    origin: str = ""


class Gallery:
    """Keep the newest rows of each class, from the blocks that carry reconstructions."""

    def __init__(self) -> None:
        self.by_class: dict[int, OrderedDict[int, Sample]] = {}

    def look_at(self, block: Block, step: int) -> None:
        """Keep rows of a block that the student uses from `step` on."""
        shown = {name: np.asarray(values) for name, values in block.shown.items()}
        for row, reconstructed in enumerate(shown.get("reconstructed", ())):
            seen, p, anchor = int(shown["top_class"][row]), float(shown["top_share"][row]), int(block.anchor[row])
            most = min(IN_ALL, MOST_BYTES // (2 * reconstructed.nbytes))
            if seen not in self.by_class and len(self) >= most:
                continue
            kept = self.by_class.setdefault(seen, OrderedDict())
            # Copies, so that keeping a few rows doesn't keep the whole block in memory.
            kept[anchor] = Sample(
                anchor,
                reconstructed.copy(),
                block.inputs[row].copy(),
                seen,
                p,
                step,
                block.version,
                block.origin,
            )
            kept.move_to_end(anchor)
            if len(kept) > PER_CLASS or (len(kept) > 1 and len(self) > most):
                kept.popitem(last=False)

    def state(self) -> dict[str, Any]:
        """Give the rows as plain values and numpy arrays, for a checkpoint; `of` makes the gallery again."""
        samples = [sample for kept in self.by_class.values() for sample in kept.values()]
        if not samples:
            return {}
        plain = ("anchor", "teacher_class", "teacher_p", "step", "version", "origin")
        stacked = {name: np.stack([getattr(each, name) for each in samples]) for name in ("reconstructed", "explored")}
        return {**{name: [getattr(each, name) for each in samples] for name in plain}, **stacked}

    @classmethod
    def of(cls, state: dict[str, Any]) -> Gallery:
        """Make the gallery that `state` was taken of."""
        out = cls()
        for row in zip(*state.values(), strict=True):
            sample = Sample(**dict(zip(state, row, strict=True)))
            out.by_class.setdefault(sample.teacher_class, OrderedDict())[sample.anchor] = sample
        return out

    def __len__(self) -> int:
        return sum(len(kept) for kept in self.by_class.values())

    @property
    def samples(self) -> list[Sample]:
        """List the rows by class, newest first."""
        return [sample for _, kept in sorted(self.by_class.items()) for sample in reversed(kept.values())]


def rows_table(samples: list[Sample], student_scores_NK: np.ndarray, anchor_labels_N: np.ndarray) -> pa.Table:
    """Make a table of the rows with the predictions of teacher and student.

    Images are float32 bytes in C, H, W order, with their shape in a column of its own. Texts are strings; the sentences
    of a pair have `texts.SEPARATOR` between them.

    - student_scores_NK: (N, K), the student's scores of all classes
    - anchor_labels_N: (N,) classes of the anchors; -1: no label
    """
    student = softmax(student_scores_NK)
    return pa.table(
        {
            "anchor": [sample.anchor for sample in samples],
            "anchor_class": pa.array(anchor_labels_N, mask=anchor_labels_N < 0),
            "teacher_class": [sample.teacher_class for sample in samples],
            "teacher_p": [sample.teacher_p for sample in samples],
            "student_class": student.argmax(axis=1),
            "student_p": student.max(axis=1),
            "step": [sample.step for sample in samples],
            "lag": [sample.step - sample.version if sample.version >= 0 else None for sample in samples],
            "explored_for": pa.array([sample.origin or None for sample in samples], pa.string()),
            **_inputs(samples),
        }
    )


def _inputs(samples: list[Sample]) -> dict[str, list[Any]]:
    kinds = {name: np.stack([getattr(sample, name) for sample in samples]) for name in ("reconstructed", "explored")}
    if are_texts(kinds["explored"]):
        return {name: to_texts(rows) for name, rows in kinds.items()}
    flat = {name: [row.astype(np.float32).tobytes() for row in rows] for name, rows in kinds.items()}
    return {"shape": [list(kinds["explored"].shape[1:])] * len(samples), **flat}


def files(
    samples: list[Sample],
    table: pa.Table,
    anchors: np.ndarray,
    class_names: Sequence[str] = (),
    longest: int | None = None,
) -> dict[str, bytes]:
    """Make the gallery's files.

    - table: of `rows_table`
    - anchors: real inputs of the samples' anchors, (N, C, H, W) or (N, bytes)
    - class_names: empty where classes have none
    - longest: most tokens of a text that the generator makes
    - returns: content by file name: the table, and a picture of images or a page of texts; other inputs have neither
    """
    out = {}
    if are_texts(anchors):
        table = table.append_column("anchor_text", pa.array(to_texts(anchors)))
        out[PAGE_FILE] = text_page(table, class_names, longest)
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(formats.metadata("table")), sink, compression="zstd")
    out[ROWS_FILE] = sink.getvalue()
    if drawable(anchors):
        out[PICTURE_FILE] = png(draw(samples, table, anchors, class_names))
    return out


def draw(samples: list[Sample], table: pa.Table, anchors: np.ndarray, class_names: Sequence[str] = ()) -> Figure:
    """Draw a column for each class that the teacher predicts.

    It shows the anchor, its reconstruction, and the explored image with the predictions of teacher (T) and student (S),
    and its lag in student steps.
    """
    rows = table.to_pylist()
    first = list({row["teacher_class"]: index for index, row in reversed(list(enumerate(rows)))}.items())
    columns = [index for _, index in sorted(first)][:SHOWN]
    name = partial(class_label, class_names=class_names)
    seen = [_seen(rows[index], name) for index in columns]
    return grid(
        [
            Line("anchor", [anchors[index] for index in columns], [name(rows[i]["anchor_class"]) for i in columns]),
            Line("reconstruction", [samples[index].reconstructed for index in columns], [""] * len(columns)),
            Line("explored", [samples[index].explored for index in columns], seen),
        ]
    )


def _seen(row: dict[str, Any], name: Callable[[int], str]) -> str:
    """Say what teacher and student predict for an explored row."""
    lag = "" if row["lag"] is None else f"\nlag {row['lag']}"
    said = (
        f"{who[0].upper()} {name(row[f'{who}_class'])}: {100 * row[f'{who}_p']:.0f} %" for who in ("teacher", "student")
    )
    return "\n".join(said) + lag


def text_page(table: pa.Table, class_names: Sequence[str] = (), longest: int | None = None) -> bytes:
    """Make a page of all rows of a gallery of texts, grouped by the class that the teacher predicts.

    - table: of `rows_table`, with the column anchor_text
    - longest: see `exact_copy_rate`
    """
    anchors, again, explored = (table[name].to_pylist() for name in ("anchor_text", "reconstructed", "explored"))
    facts = [
        f"{len(anchors)} synthetic rows. {say_texts(anchors, explored, 'explored rows', longest)}",
        say_texts(anchors, again, "reconstructions", longest),
    ]
    name = partial(class_label, class_names=class_names, most=None)
    groups: dict[int, list[list[str]]] = {}
    for row in table.to_pylist():
        groups.setdefault(row["teacher_class"], []).append(
            [
                f"{shown(row['anchor_text'])} [{name(row['anchor_class'])}]",
                *(shown(row[each]) for each in ("reconstructed", "explored")),
                *(f"{name(row[f'{who}_class'])}: {100 * row[f'{who}_p']:.0f} %" for who in ("teacher", "student")),
                "" if row["lag"] is None else str(row["lag"]),
            ]
        )
    columns = ("anchor [class]", "reconstruction", "explored", "teacher", "student", "lag")
    found = [(f"teacher: {name(seen)}", rows) for seen, rows in sorted(groups.items())]
    return page("Synthetic rows that the student was trained on", facts, columns, found)


def say_texts(anchors: Sequence[str], texts: Sequence[str], what: str, longest: int | None = None) -> str:
    """Describe in one sentence how much texts copy their anchors and how varied they are.

    - anchors, texts: the anchors, and the texts made from them in the same order
    - what: what the texts are called in the sentence
    - longest: see `exact_copy_rate`
    """
    return (
        f"Of the {what} {exact_copy_rate(anchors, texts, longest):.1f} % are exact copies of their anchors"
        f" and {empty_rate(texts):.1f} % are empty;"
        f" distinct-1 {distinct_n(texts, 1):.3f}, distinct-2 {distinct_n(texts, 2):.3f}."
    )


def class_label(number: int | None, class_names: Sequence[str], most: int | None = 14) -> str:
    """Name a class for people: its name, or its number where classes have no names.

    - number: None for a row without a label
    - most: characters to which names are cut, so that they fit above a picture; None: names are not cut
    """
    if number is None:
        return "unlabelled"
    if not class_names:
        return str(number)
    name = " ".join(visible(class_names[number]).split())
    return name if most is None or len(name) <= most else f"{name[: most - 1]}…"


def softmax(scores_NK: np.ndarray) -> np.ndarray:
    """Compute the softmax over the last axis of (N, K)."""
    shifted = np.exp(scores_NK - scores_NK.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
