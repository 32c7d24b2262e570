"""Measures what explored rows add to their anchors, as the labeler sees them, before any student is trained.

Rows are made as those of a run, from the rows that a run starts from. What they are held against are unseen rows: a
student can gain where explored rows cover what anchors don't (diversity), and look like what is real (fidelity).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tgt_ray.core.batch import Block, Outputs
from tgt_ray.core.signals.of_labeler import EMBEDDING, LOGITS
from tgt_ray.tasks.metrics.neighbours import (
    NEIGHBOURS,
    class_distances,
    coverage,
    density,
    distances,
    doubt,
    inside,
    mean_of_classes,
    precision,
    vendi,
)
from tgt_ray.teacher.explorers import Explorer
from tgt_ray.teacher.module import Teacher
from tgt_ray.teacher.synthesizer import Recipe, Synthesizer
from tgt_ray.teacher.transfer_set import Anchors

#: Kinds of rows: explored, the anchors that these were made from, those decoded without being moved, and unseen ones.
KINDS = ("explored", "anchors", "reconstructed", "held_out")


@dataclass(frozen=True)
class Rows:
    """Holds real rows in memory.

    - inputs: (N, ...), on the CPU
    - labels: (N,) their classes; -1 where a row has none
    """

    inputs: Tensor
    labels: np.ndarray

    def first(self, count: int) -> Rows:
        """Return the first rows alone."""
        return Rows(self.inputs[:count], self.labels[:count])


@dataclass(frozen=True)
class Said:
    """Holds what the labeler says of N rows.

    - places_NE: where they lie: their embeddings, or their probabilities where the labeler has no embedding
    - p_NK: probabilities of classes
    """

    places_NE: np.ndarray
    p_NK: np.ndarray

    @classmethod
    def of(cls, logits_NK: np.ndarray, embedding_NE: np.ndarray) -> Said:
        """Take over what a labeler has said."""
        p_NK = torch.from_numpy(logits_NK).double().softmax(dim=1).numpy()
        return cls(embedding_NE.astype(float) if embedding_NE.shape[1] else p_NK, p_NK)

    def __getitem__(self, rows: slice | np.ndarray) -> Said:
        return Said(self.places_NE[rows], self.p_NK[rows])

    @property
    def classes(self) -> np.ndarray:
        """The likeliest class of each row, (N,)."""
        found: np.ndarray = self.p_NK.argmax(axis=1)
        return found


@torch.no_grad()
def measure(
    teacher: Teacher,
    explorer: Explorer,
    anchors: Rows,
    held_out: Rows,
    size: int,
    seconds: float,
    pixels: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """Explore as many rows as are held out, and measure what they add.

    - explorer: explorers that look at a student are measured by what stands in for them
    - anchors: what rows are made from
    - size: rows that are made at once
    - seconds: no further rows are asked about or made after this time; of held-out rows and of anchors none after a
      quarter of it each
    - pixels: whether inputs are images, of which 8 bits are kept
    - device: the teacher's device
    - returns: see `summary`; empty where the explorer needs a student, there are too few held-out rows, or the labeler
      says what is no number
    """
    stand_in = explorer.off_policy
    if stand_in is None or len(held_out.labels) <= NEIGHBOURS:
        return {}

    began = time.perf_counter()

    def asked(inputs: Tensor, share: float = math.inf) -> Said:
        """Ask about rows in parts, until a share of the time has passed."""
        parts: list[Outputs] = []
        for part in inputs.split(size):
            parts.append(teacher.say(part.to(device)))
            if time.perf_counter() > began + share * seconds:
                break
        whole = Outputs(torch.cat([each.logits for each in parts]), torch.cat([each.embedding for each in parts]))
        return Said.of(whole.logits.float().numpy(force=True), whole.embedding.float().numpy(force=True))

    unseen = asked(held_out.inputs, 0.25)
    held_out = held_out.first(len(unseen.p_NK))
    if len(held_out.labels) <= NEIGHBOURS:
        return {}
    real = asked(anchors.inputs, 0.5)
    anchors = anchors.first(len(real.p_NK))
    labels = np.where(anchors.labels < 0, real.classes, anchors.labels)
    recipe = Recipe(size, (LOGITS, EMBEDDING), pixels=pixels)
    synthesizer = _synthesizer(teacher, Rows(anchors.inputs, labels), recipe, stand_in, device)
    until = began + seconds
    blocks = list(_made(lambda number: synthesizer(number, 0, stand_in, shown=size), len(held_out.labels), until))
    count = min(len(held_out.labels), size * len(blocks))
    logits, embedding = (np.concatenate([each.columns[name] for each in blocks]) for name in ("logits", "embedding"))
    drawn = np.concatenate([each.anchor for each in blocks])[:count]
    kinds = {"explored": Said.of(logits, embedding)[:count], "anchors": real[drawn], "held_out": unseen}
    if stand_in.decodes:
        again = np.concatenate([each.shown["reconstructed"] for each in blocks])[:count]
        kinds["reconstructed"] = asked(torch.from_numpy(again))
    if not all(np.isfinite(said.places_NE).all() for said in kinds.values()):
        return {}
    found = summary(kinds, np.where(held_out.labels < 0, unseen.classes, held_out.labels))
    return {"explored_rows": count, "explored_by": stand_in.within.type, **found}


def _synthesizer(teacher: Teacher, anchors: Rows, recipe: Recipe, explorer: Explorer, device: str) -> Synthesizer:
    """Build what makes rows, as a run has it."""
    latents = np.empty((len(anchors.labels), 0), np.float32)
    if explorer.decodes and not teacher.contextual:
        rng = torch.Generator().manual_seed(0)
        parts = [teacher.encode(part.to(device), rng)[0] for part in anchors.inputs.split(recipe.rows)]
        latents = torch.cat(parts).numpy(force=True)
    start = Anchors(np.arange(len(anchors.labels)), anchors.labels, latents)
    return Synthesizer(teacher, start, recipe, anchors.inputs, device)


def _made(make: Callable[[int], Block], count: int, until: float) -> Iterator[Block]:
    """Yield requests of at least `count` rows together, fewer where that takes longer than `until`."""
    there = 0
    for request in itertools.count():
        block = make(request)
        there += len(block)
        yield block
        if there >= count or time.perf_counter() > until:
            return


def summary(kinds: dict[str, Said], labels_M: np.ndarray) -> dict[str, Any]:
    """Compute the measures; all but the labeler's doubt are of distances in its embedding.

    - kinds: what the labeler says of each kind of row, see `KINDS`; N explored rows, as many anchors (the anchor of
      each), perhaps as many reconstructions, and M held-out rows
    - labels_M: classes of the held-out rows
    - returns: fidelity (`precision`, `density`), diversity (`coverage`, `nearest`, `variety`), novelty (`novelty`,
      `moved`, `fresh`) and doubt, each followed by `_` and the kind of row
    """
    unseen, anchors = kinds["held_out"], kinds["anchors"]
    within, between = class_distances(unseen.places_NE, labels_M)
    within = within or math.nan  # where all rows of a class lie at one place, distances have no unit
    out: dict[str, Any] = {"class_distance": between / within}
    for kind in KINDS[:3]:
        if kind not in kinds:
            continue
        made = kinds[kind].places_NE
        balls = inside(unseen.places_NE, made)
        apart_MN = distances(unseen.places_NE, made)
        new_N = apart_MN.min(axis=0) < distances(anchors.places_NE, made).min(axis=0)
        out |= {
            f"precision_{kind}": precision(balls),
            f"density_{kind}": density(balls),
            f"coverage_{kind}": coverage(balls, labels_M),
            f"nearest_{kind}": mean_of_classes(apart_MN.min(axis=1), labels_M) / within,
            f"novelty_{kind}": _mean_distance(made, anchors.places_NE) / within,
            f"fresh_{kind}": 100 * float((balls.any(axis=0) & new_N).mean()),
        }
    origin = kinds.get("reconstructed", anchors)
    out["moved_explored"] = _mean_distance(kinds["explored"].places_NE, origin.places_NE) / within
    out["coverage_gain"] = out["coverage_explored"] - out["coverage_anchors"]
    count = len(anchors.p_NK)
    for kind in (kind for kind in KINDS if kind in kinds):
        said = kinds[kind]
        out |= {
            f"variety_{kind}": vendi(said.places_NE[:count]),
            f"doubt_{kind}": float(doubt(said.p_NK).mean()),
            f"confidence_{kind}": 100 * float(said.p_NK.max(axis=1).mean()),
        }
    return {name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in out.items()}


def _mean_distance(rows_ND: np.ndarray, others_ND: np.ndarray) -> float:
    """Compute the mean distance of each row to the other one at its place."""
    return float(np.linalg.norm(rows_ND - others_ND, axis=1).mean())
