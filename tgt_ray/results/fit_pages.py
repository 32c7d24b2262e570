"""Draw the pictures and pages of the fit check."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tgt_ray.core.texts import are_texts, shown, to_texts
from tgt_ray.results.gallery import class_label, say_texts
from tgt_ray.results.pictures import Line, drawable, grid, png
from tgt_ray.results.text_page import page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: File names of a check's gallery in a run's folder: a picture, or a page of texts.
PICTURE_FILE, PAGE_FILE = "fit_check.png", "fit_check.html"
#: Largest number of rows in the gallery, which shows one of each class.
SHOWN = 10


def files(
    rows: dict[str, Any],
    first: dict[str, Any],
    labels: np.ndarray,
    class_names: Sequence[str] = (),
    longest: int | None = None,
) -> dict[str, bytes]:
    """Make the gallery of a check.

    - rows: by kind (real, reconstructed, explored), inputs (N, ...); a kind may be missing
    - first: by kind, (N, 2), the labeler's most likely class and its probability
    - labels: (N,)
    - class_names: empty where classes have none
    - longest: most tokens of a text that the generator makes
    - returns: content by file name; empty where rows are neither images nor texts
    """
    few = [int((labels == c).nonzero()[0][0]) for c in np.unique(labels)[:SHOWN]]
    seen = {kind: [(int(c), float(p)) for p, c in pairs[few].tolist()] for kind, pairs in first.items()}
    if are_texts(rows["real"]):
        texts = {kind: to_texts(values) for kind, values in rows.items()}
        return {PAGE_FILE: text_gallery(texts, few, labels[few].tolist(), seen, class_names, longest)}
    images = {kind: values[few] for kind, values in rows.items()}
    return {PICTURE_FILE: png(gallery(images, seen, class_names))} if drawable(images["real"]) else {}


def text_gallery(
    texts: dict[str, list[str]],
    few: list[int],
    labels: list[int],
    seen: dict[str, list[tuple[int, float]]],
    class_names: Sequence[str] = (),
    longest: int | None = None,
) -> bytes:
    """Make a page that shows a few texts of each kind side by side below their class.

    - few: places of the texts to show
    - labels: the classes of these
    - seen: by kind, the labeler's most likely class of each of these and its probability
    - longest: see `exact_copy_rate`
    """
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
        if kind in texts
    ]
    return page("Does the teacher fit?", facts, [f"{kind} [labeler]" for kind in texts], groups)


def gallery(
    images: dict[str, np.ndarray], seen: dict[str, list[tuple[int, float]]], class_names: Sequence[str] = ()
) -> Figure:
    """Draw one line of images for each kind of row.

    - images: by kind, (N, C, H, W) in [0, 1]
    - seen: by kind, the labeler's most likely class of each image and its probability
    """
    titles = {
        kind: [f"{class_label(number, class_names)}: {100 * share:.0f} %" for number, share in pairs]
        for kind, pairs in seen.items()
    }
    return grid([Line(kind, list(rows), titles[kind]) for kind, rows in images.items()])
