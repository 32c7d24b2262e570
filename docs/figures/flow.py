"""Draws the figures of README.md and docs/rows.md: idea.png, the idea at one glance, and flow.png, the way of rows.

    python docs/figures/flow.py

Places are pixels of a picture that is 800 wide, from the upper left corner. The small pictures of digits are real:
scikit-learn's, and the same ones after noise on their principal components, as `explorer: {type: random}` adds it to
latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
from sklearn.datasets import load_digits

HERE = Path(__file__).resolve().parent
WIDTH, DPI = 800, 200
REAL, MADE, TEACHER, STUDENT, SWEEP = "#2f6db0", "#c8641b", "#6b4ea0", "#2b8250", "#4a4f57"
INK, QUIET, MARK = "#1d2126", "#5b626b", "#b3261e"
#: What a sweep searches, by the number that marks where it acts.
SWEPT = {1: "synthetic ratio", 2: "temperature", 3: "step size"}

mpl.rcParams["font.family"] = "DejaVu Sans"


class Canvas:
    """A white picture of so many pixels, on which boxes, arrows and words are put."""

    def __init__(self, height: int):
        self.figure = plt.figure(figsize=(WIDTH / 100, height / 100), dpi=DPI)
        self.ax = self.figure.add_axes((0, 0, 1, 1))
        self.ax.set(xlim=(0, WIDTH), ylim=(height, 0))
        self.ax.axis("off")

    def words(self, x: float, y: float, text: str, size: float = 9, colour: str = INK, **how: Any) -> None:
        how = {"ha": "center", "va": "center", "linespacing": 1.3, "zorder": 5, **how}
        self.ax.text(x, y, text, fontsize=size, color=colour, **how)

    def zone(self, x: float, y: float, width: float, height: float, colour: str, title: str, **how: Any) -> None:
        """A frame around boxes, with its title in the upper left corner."""
        shape = FancyBboxPatch(
            (x + 6, y + 6), width - 12, height - 12, "round,pad=6,rounding_size=10",
            facecolor=how.get("fill", colour + "12"), edgecolor=colour, linewidth=1.3,
            linestyle=how.get("line", "-"), zorder=how.get("zorder", 1),
        )  # fmt: skip
        self.ax.add_patch(shape)
        self.words(x + 12, y + 16, title, 9.5, colour, ha="left", weight="bold")

    def box(self, x: float, y: float, width: float, height: float, colour: str, text: str, size: float = 9) -> None:
        """A box with words; the first line is bold."""
        shape = FancyBboxPatch(
            (x + 4, y + 4), width - 8, height - 8, "round,pad=4,rounding_size=6",
            facecolor="white", edgecolor=colour, linewidth=1.3, zorder=3,
        )  # fmt: skip
        self.ax.add_patch(shape)
        first, _, rest = text.partition("\n")
        lines = len(rest.splitlines())
        step = size * 1.75
        top = y + height / 2 - step * lines / 2
        self.words(x + width / 2, top, first, size, colour, weight="bold")
        for number, line in enumerate(rest.splitlines(), start=1):
            self.words(x + width / 2, top + step * number, line, size)

    def arrow(self, *points: tuple[float, float], colour: str = QUIET, line: str = "-", width: float = 1.6) -> None:
        """A line through the points, with its head at the last one."""
        xs, ys = zip(*points, strict=True)
        self.ax.plot(xs[:-1], ys[:-1], color=colour, linewidth=width, linestyle=line, zorder=2, solid_joinstyle="round")
        style = {"arrowstyle": "-|>,head_width=0.3,head_length=0.55", "color": colour, "linestyle": line}
        style |= {"linewidth": width, "shrinkA": 0, "shrinkB": 0}
        self.ax.annotate("", xy=points[-1], xytext=points[-2], arrowprops=style, zorder=2)

    def mark(self, x: float, y: float, number: int, words: bool = False) -> None:
        """The number of a swept value, perhaps with its name beside it."""
        self.ax.add_patch(Circle((x, y), 8.5, facecolor=MARK, edgecolor="white", linewidth=1.2, zorder=6))
        self.words(x, y + 0.5, str(number), 8.5, "white", weight="bold", zorder=7)
        if words:
            self.words(x + 13, y, SWEPT[number], 9, MARK, ha="left", weight="bold")

    def swept(self, y: float, x: float) -> None:
        """All swept values in a line, from x on."""
        for number, right in ((1, 0), (2, 144), (3, 268)):
            self.mark(x + right, y, number, words=True)

    def picture(self, x: float, y: float, size: float, pixels: np.ndarray, colour: str) -> None:
        self.ax.imshow(pixels, cmap="gray_r", vmin=0, vmax=1, extent=(x, x + size, y + size, y), zorder=4)
        self.ax.add_patch(Rectangle((x, y), size, size, fill=False, edgecolor=colour, linewidth=1.4, zorder=5))
        self.ax.set(xlim=(0, WIDTH), ylim=self.ax.get_ylim())

    def batch(self, x: float, y: float, marked: float) -> None:
        """A batch as two bars, one upon the other: its synthetic and its real part; marked: where their ratio is."""
        width, height, ratio = 166, 52, 0.5
        for start, part, colour, name in ((0.0, ratio, MADE, "synthetic rows"), (ratio, 1 - ratio, REAL, "real rows")):
            place = (x, y + start * height)
            self.ax.add_patch(Rectangle(place, width, part * height, facecolor=colour, edgecolor="white", zorder=4))
            self.words(x + width / 2, place[1] + part * height / 2, name, 8.5, "white", weight="bold")
        self.mark(marked, y + ratio * height, 1)

    def bars(self, x: float, y: float, width: float, height: float, counts: Sequence[float], colour: str) -> None:
        """Rows of each class, as bars that stand on y."""
        step = width / len(counts)
        for number, count in enumerate(counts):
            tall = height * count / max(counts)
            place = (x + number * step, y - tall)
            self.ax.add_patch(Rectangle(place, 0.7 * step, tall, facecolor=colour, edgecolor="none", zorder=4))


@contextmanager
def drawn(name: str, height: int) -> Iterator[Canvas]:
    canvas = Canvas(height)
    yield canvas
    # Without a date or a version, so that the same drawing gives the same file.
    canvas.figure.savefig(HERE / name, dpi=DPI, facecolor="white", metadata={"Software": None})
    plt.close(canvas.figure)


def digits(classes: Sequence[int], noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Digits (N, 8, 8) in [0, 1] of these classes, and rows near them: noise on 16 principal components."""
    found = load_digits()
    images, rng = found.images.reshape(-1, 64) / 16, np.random.default_rng(5)
    mean = images.mean(axis=0)
    axes = np.linalg.svd(images - mean, full_matrices=False)[2][:16]
    latents = (images - mean) @ axes.T
    anchors = np.array([np.flatnonzero(found.target == each)[3] for each in classes])
    moved = latents[anchors] + noise * latents.std(axis=0) * rng.standard_normal((len(anchors), 16))
    made = (moved @ axes + mean).clip(0, 1)
    return images[anchors].reshape(-1, 8, 8), made.reshape(-1, 8, 8)


def idea() -> None:
    """For README: real rows, teacher, synthetic rows, student, and the sweep around them."""
    real, made = digits((3, 0, 7), 0.45)
    with drawn("idea.png", 400) as canvas:
        canvas.zone(6, 6, 788, 388, SWEEP, "Sweep (Ray Tune): tries many values of", line="--")
        canvas.swept(22, 330)

        canvas.zone(22, 84, 140, 292, REAL, "Real rows")
        canvas.words(34, 124, "few labels,\nor a long tail", 8.5, ha="left")
        for number, pixels in enumerate(real):
            canvas.picture(34 + 41 * number, 150, 36, pixels, REAL)
        canvas.bars(42, 330, 112, 100, [60, 38, 24, 15, 9, 6, 4, 3], REAL)
        canvas.words(92, 346, "rows of each class", 8.5)

        canvas.zone(196, 84, 342, 176, TEACHER, "")
        canvas.words(232, 101, "Actor pool (Ray Data): large, frozen teacher", 8.5, TEACHER, ha="left", weight="bold")
        canvas.box(206, 120, 118, 66, TEACHER, "Explorer\nsteps away from\na real row", 8.5)
        canvas.box(340, 120, 92, 66, TEACHER, "Generator\nmakes\nthe new row", 8.5)
        canvas.box(448, 120, 80, 66, TEACHER, "Labeler\nsays what\nit is", 8.5)
        canvas.mark(318, 122, 3)
        canvas.arrow((324, 153), (339, 153))
        canvas.arrow((432, 153), (447, 153))
        canvas.arrow((484, 188), (484, 204), colour=MADE)
        for number, pixels in enumerate(made):
            canvas.picture(386 + 46 * number, 208, 38, pixels, MADE)
        canvas.words(374, 226, "synthetic rows with\nthe teacher's labels", 8.5, MADE, ha="right", weight="bold")

        canvas.box(196, 306, 342, 54, TEACHER, "Teacher cache\nwhat the labeler says of real rows, asked once", 8.5)

        canvas.zone(580, 84, 198, 292, STUDENT, "Student (Ray Train)")
        canvas.words(592, 117, "the compact model", 8.5, ha="left")
        canvas.words(594, 152, "each batch", 8.5, ha="left")
        canvas.batch(594, 164, 760)
        canvas.arrow((677, 218), (677, 246))
        canvas.box(594, 248, 166, 60, STUDENT, "Loss\nagree with the\nteacher's soft labels", 8.5)
        canvas.mark(758, 250, 2)
        canvas.arrow((677, 310), (677, 336))
        canvas.words(677, 350, "next step", 8.5)

        canvas.arrow((162, 153), (205, 153), colour=REAL)
        canvas.arrow((162, 333), (195, 333), colour=REAL)
        canvas.arrow((538, 227), (556, 227), (556, 177), (593, 177), colour=MADE)
        canvas.arrow((538, 333), (568, 333), (568, 203), (593, 203), colour=REAL)
        canvas.arrow((679, 84), (679, 56), (220, 56), (220, 119), line="--")
        canvas.words(450, 68, "where do teacher and student disagree? (explorer: gradient)", 8.5)


def once(canvas: Canvas) -> None:
    """The part of flow.png that happens once for each data and teacher."""
    canvas.zone(6, 6, 788, 128, QUIET, "Once for each data and teacher")
    canvas.box(18, 34, 146, 88, REAL, "Real rows\nwith labels,\nand without", 8.5)
    canvas.box(
        212,
        34,
        246,
        88,
        TEACHER,
        "Teacher pass (Ray Data)\nlabeler: signals of each row\ngenerator: latents of anchors",
        8.5,
    )
    canvas.box(
        506, 34, 276, 88, TEACHER, "Teacher cache\none file a split and signal,\nfound again by fingerprints", 8.5
    )
    canvas.arrow((164, 78), (211, 78), colour=REAL)
    canvas.arrow((458, 78), (505, 78), colour=REAL)


def pool(canvas: Canvas) -> None:
    """The actor pool of flow.png: how a request becomes a block of rows."""
    canvas.zone(18, 186, 452, 190, TEACHER, "Actor pool (Ray Data): generator processes")
    steps = (
        (30, 218, "1. Request n\nseed and n say all\nthat is random"),
        (178, 218, "2. Draw anchors\nreal rows, by class"),
        (326, 218, "3. Explore\nmove the latents"),
        (326, 300, "4. Decode\ngenerator: latents\nto new rows"),
        (178, 300, "5. Label\nlabeler: signals\nof the new rows"),
        (30, 300, "6. Send\none Arrow row\na request"),
    )
    for x, y, text in steps:
        canvas.box(x, y, 130, 64, TEACHER, text, 8.5)
    for start, end, y in ((160, 177, 250), (308, 325, 250), (326, 309, 332), (178, 161, 332)):
        canvas.arrow((start, y), (end, y))
    canvas.arrow((391, 282), (391, 299))
    canvas.mark(452, 220, 3)


def student(canvas: Canvas) -> None:
    """The student worker of flow.png: how blocks become batches."""
    canvas.zone(552, 186, 230, 300, STUDENT, "Student worker (Ray Train)")
    canvas.box(566, 214, 202, 50, STUDENT, "Stream\nblocks in the order of requests", 8.5)
    canvas.arrow((667, 264), (667, 288), colour=MADE)
    canvas.batch(584, 290, 584)
    canvas.arrow((667, 344), (667, 366))
    canvas.box(566, 368, 202, 46, STUDENT, "Loss (objective, criterion)\nand optimizer step", 8.5)
    canvas.mark(764, 370, 2)
    canvas.arrow((667, 414), (667, 434))
    canvas.box(566, 436, 202, 40, STUDENT, "Report and checkpoint\nat each evaluation", 8.5)


def flow() -> None:
    """For docs/rows.md: all that a row meets, and who asks whom."""
    with drawn("flow.png", 640) as canvas:
        once(canvas)
        canvas.zone(6, 150, 788, 348, SWEEP, "Lane: trains one run after another")
        pool(canvas)
        student(canvas)
        canvas.box(
            120,
            410,
            250,
            68,
            STUDENT,
            "Coordinator\ngrants requests within the window,\nhands on snapshots of the student",
            8.5,
        )
        main_arrows(canvas)
        canvas.zone(6, 514, 788, 120, SWEEP, "Sweep (Ray Tune): tries many values of", line="--")
        canvas.swept(530, 330)
        canvas.box(
            18,
            548,
            210,
            74,
            SWEEP,
            "Search and early stopping\nchoose values, compare trials\non the validation split",
            8.5,
        )
        canvas.box(292, 548, 210, 74, SWEEP, "Trial\nan experiment with its values,\nwaits for reports", 8.5)
        canvas.box(566, 548, 210, 74, SWEEP, "Board\nqueue of runs: gives each\nto a lane that is free", 8.5)
        canvas.arrow((228, 585), (291, 585))
        canvas.arrow((502, 585), (565, 585))


def main_arrows(canvas: Canvas) -> None:
    """What passes between the parts of a lane, and into it."""
    canvas.arrow((600, 122), (600, 170), (391, 170), (391, 217), colour=REAL)
    canvas.words(494, 162, "latents of anchors", 8.5, REAL)
    canvas.arrow((776, 122), (776, 329), (751, 329), colour=REAL)
    canvas.words(768, 170, "real rows and their signals", 8.5, REAL, ha="right")
    canvas.arrow((95, 364), (95, 392), (510, 392), (510, 239), (565, 239), colour=MADE)
    canvas.words(300, 384, "synthetic rows and their signals", 8.5, MADE)
    canvas.arrow((566, 445), (371, 445), line="--")
    canvas.words(460, 430, "used up, snapshots", 8.5)
    canvas.arrow((120, 445), (12, 445), (12, 250), (29, 250), line="--")
    canvas.words(66, 468, "next request,\nsnapshot", 8.5)
    canvas.arrow((700, 548), (700, 488))
    canvas.words(692, 506, "runs", 8.5, ha="right")
    canvas.words(764, 506, "reports", 8.5, ha="right")
    canvas.arrow((772, 488), (772, 546), line="--")


def main() -> None:
    idea()
    flow()


if __name__ == "__main__":
    main()
