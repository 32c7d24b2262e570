"""Whether the labeler takes the generator's rows for what they were made from: its agreement with itself, measured on held-out rows."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tgt_ray.core.batch import Scorer
from tgt_ray.core.texts import are_texts, to_texts
from tgt_ray.tasks.metrics.generated_texts import distinct_n, exact_copy_rate
from tgt_ray.teacher.explorers import Explorer, Neighbourhood
from tgt_ray.teacher.module import Teacher, check_decoded
from tgt_ray.teacher.synthesizer import Disagreement, along, latent_std

KINDS = ("real", "reconstructed", "explored")


@dataclass(frozen=True)
class HeldOut:
    """Rows that explorers start from.

    inputs: (N, ...), on the teacher's device
    labels: (N,) their classes
    """

    inputs: Tensor
    labels: Tensor


@dataclass
class Measured:
    """What was seen of the first M rows, by kind of row.

    rows: inputs (M, ...) on the CPU
    first: the labeler's first class of each, and its share, (M, 2)
    labels: (M,) classes of the real rows
    timed: seconds that exploring took, and for how many rows
    """

    rows: dict[str, Tensor]
    first: dict[str, Tensor]
    labels: Tensor
    timed: list[tuple[float, int]]

    @property
    def rows_per_second(self) -> float:
        usual = self.timed[1:] or self.timed  # the first batch warms up
        return sum(rows for _, rows in usual) / max(sum(seconds for seconds, _ in usual), 1e-9)

    def result(self, explorer: Explorer, longest: int | None) -> dict[str, Any]:
        """Accuracy and agreement in percent, and how much rows are like those that they were made from.

        longest: tokens that the generator gives a text, see `exact_copy_rate`
        """
        says = {name: pairs[:, 1].long() for name, pairs in self.first.items()}
        out: dict[str, Any] = {
            "rows": len(self.labels),
            "explorer": explorer.type,
            "accuracy": _share(says["real"] == self.labels),
            **_likeness({name: values.numpy() for name, values in self.rows.items()}, longest),
            "rows_per_second": self.rows_per_second,
        }
        for name in ("reconstructed", "explored"):
            out[f"agreement_{name}"] = _share(says[name] == says["real"])
            out[f"accuracy_{name}"] = _share(says[name] == self.labels)
        return out


@dataclass
class _Seen:
    """What is gathered batch by batch."""

    rows: dict[str, list[Tensor]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    first: dict[str, list[Tensor]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def add(self, kind: str, inputs: Tensor, p: Tensor) -> None:
        """p: (B, K) the labeler's shares. Of each row the first class and its share are kept: of all classes there may be too many."""
        self.rows[kind].append(inputs.cpu())
        self.first[kind].append(torch.stack(p.max(dim=1), dim=1))


@torch.no_grad()
def measure(
    teacher: Teacher,
    explorer: Explorer,
    student: Scorer,
    held_out: HeldOut,
    size: int,
    seconds: float,
    device: str = "cpu",
) -> Measured:
    """Reconstruct and explore held-out rows, and ask the labeler about them.

    student: what an explorer that looks at one looks at
    size: rows at once
    seconds: after so long no more rows are taken
    device: where the teacher is
    """
    rng, seen = torch.Generator().manual_seed(0), _Seen()
    timed: list[tuple[float, int]] = []
    until = time.perf_counter() + seconds
    latents_NL: Tensor | None = None
    if teacher.contextual:
        scale_L = latent_std(teacher, held_out.inputs, device)
    else:
        latents_NL = torch.cat([teacher.encode(part, rng)[0] for part in held_out.inputs.split(size)])
        scale_L = latents_NL.std(dim=0)
    parts = zip(held_out.inputs.split(size), held_out.labels.split(size), strict=True)
    for number, (part, classes) in enumerate(parts):
        # Of a contextual generator with what it masks: as rows are made, but for the explorer.
        latents, context = (
            (latents_NL[number * size :][:size], None) if latents_NL is not None else teacher.encode(part, rng)
        )
        again = teacher.decode(latents, rng, context).cpu()  # not before the device has made it
        check_decoded(again, part)
        started = time.perf_counter()
        others = latents if latents_NL is None else latents_NL
        disagreement = Disagreement(teacher, student, rng, context)
        near = Neighbourhood(along(scale_L, latents), disagreement, others, held_out.labels, classes, rng)
        explored = teacher.decode(explorer.explore(latents, near), rng, context) if explorer.decodes else part
        p = teacher.labeler(explored).logits.softmax(dim=1).cpu()
        timed.append((time.perf_counter() - started, len(part)))
        for kind, inputs in (("real", part), ("reconstructed", again)):
            seen.add(kind, inputs, teacher.labeler(inputs.to(device)).logits.softmax(dim=1).cpu())
        seen.add("explored", explored, p)
        if time.perf_counter() > until:
            break
    rows = {kind: torch.cat(each) for kind, each in seen.rows.items()}
    first = {kind: torch.cat(each).double() for kind, each in seen.first.items()}
    return Measured(rows, first, held_out.labels[: len(rows["real"])], timed)


def _share(hits: Tensor) -> float:
    return 100 * float(hits.float().mean())


def _likeness(rows: dict[str, np.ndarray], longest: int | None) -> dict[str, float]:
    """Squared error of reconstructions; of texts, which share is the same, and how much explored ones are of many words."""
    if not are_texts(rows["real"]):
        return {"reconstruction_mse": float(np.square(rows["reconstructed"] - rows["real"]).mean())}
    texts = {name: to_texts(values) for name, values in rows.items()}
    return {
        "exact_copy_reconstructed": exact_copy_rate(texts["real"], texts["reconstructed"], longest),
        "exact_copy_explored": exact_copy_rate(texts["real"], texts["explored"], longest),
        "distinct_2_explored": distinct_n(texts["explored"], 2),
    }
