"""A grid of small images with a few words above each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tgt_ray.core.texts import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Inches of an image's width, of the names of lines beside them, and of a line of words.
WIDE, BESIDE, WORDS = 1.3, 0.4, 0.14


@dataclass(frozen=True)
class Line:
    """One line of a grid.

    - name: what stands beside it
    - images: each (C, H, W) in [0, 1], grey or RGB
    - titles: what stands above each image; may have several lines
    """

    name: str
    images: Sequence[np.ndarray]
    titles: Sequence[str]

    @property
    def above(self) -> float:
        """Inches that the titles need."""
        return WORDS * (1.5 + max(title.count("\n") for title in self.titles)) if any(self.titles) else WORDS / 2


def drawable(inputs: np.ndarray) -> bool:
    """Tell whether inputs (N, ...) are grey or RGB images."""
    return inputs.ndim == 4 and inputs.shape[1] in (1, 3)


def grid(lines: Sequence[Line]) -> Figure:
    """Draw lines of the same number of images."""
    from matplotlib.figure import Figure

    columns = len(lines[0].images)
    _, height, width = lines[0].images[0].shape
    tall = WIDE * height / width
    size = (BESIDE + WIDE * columns + 0.1, sum(line.above + tall for line in lines) + 0.1)
    figure, top = Figure(figsize=size), size[1]
    for line in lines:
        top -= line.above + tall
        # One pair of axes for a line: a pair for each image takes several times as long.
        axes = figure.add_axes((BESIDE / size[0], top / size[1], WIDE * columns / size[0], tall / size[1]))
        for place, (image, title) in enumerate(zip(line.images, line.titles, strict=True)):
            shown = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            where = (place, place + 0.94, 0, 1)
            axes.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=where, aspect="auto")
            axes.text(place + 0.47, 1.02, visible(title), fontsize=8, ha="center", va="bottom", parse_math=False)
        axes.text(-0.08, 0.5, line.name, fontsize=9, rotation=90, ha="center", va="center", parse_math=False)
        axes.set(xlim=(0, columns), ylim=(0, 1))
        axes.set_axis_off()
    return figure


def png(figure: Figure) -> bytes:
    """Render a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
