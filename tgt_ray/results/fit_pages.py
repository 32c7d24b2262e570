"""Pictures and pages of the fit check."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tgt_ray.core.texts import shown
from tgt_ray.results.gallery import class_label, say_texts
from tgt_ray.results.text_page import page

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def text_gallery(
    texts: dict[str, list[str]],
    few: list[int],
    labels: list[int],
    seen: dict[str, list[tuple[int, float]]],
    class_names: Sequence[str] = (),
    longest: int | None = None,
) -> bytes:
    """A page with a few of each kind of texts side by side below their class. few: which; labels, seen: of these, the classes, and the
    labeler's first one of each kind with its share; longest: see `exact_copy_rate`."""
    name = partial(class_label, class_names=class_names, most=None)
    groups = []
    for place, (row, label) in enumerate(zip(few, labels, strict=True)):
        said = {kind: pairs[place] for kind, pairs in seen.items()}
        cells = [
            f"{shown(rows[row])} [{name(said[kind][0])}: {100 * said[kind][1]:.0f} %]" for kind, rows in texts.items()
        ]
        groups.append((name(label), [cells]))
    facts = [
        say_texts(texts["real"], texts[kind], what, longest)
        for kind, what in (("reconstructed", "reconstructions"), ("explored", "explored rows"))
    ]
    return page("Does the teacher fit?", facts, [f"{kind} [labeler]" for kind in texts], groups)


def gallery(
    images: dict[str, np.ndarray], seen: dict[str, list[tuple[int, float]]], class_names: Sequence[str] = ()
) -> Figure:
    """A line for each kind of row, (N, C, H, W) in [0, 1], with the labeler's first class and its share."""
    from matplotlib.figure import Figure

    columns = len(next(iter(images.values())))
    figure = Figure(figsize=(1.3 * columns + 1, 1.6 * len(images) + 0.3), layout="constrained")
    axes = figure.subplots(len(images), columns, squeeze=False)
    for line, (name, rows) in zip(axes, images.items(), strict=True):
        for place, image, (number, share) in zip(line, rows, seen[name], strict=True):
            place.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1)
            place.set_title(f"{class_label(number, class_names)}: {100 * share:.0f} %", fontsize=8)
            place.set_xticks([])
            place.set_yticks([])
        line[0].set_ylabel(name, fontsize=9)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
