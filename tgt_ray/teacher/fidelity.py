"""Measures on held-out rows whether the labeler predicts for generated rows what it predicts for their originals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tgt_ray.core.batch import Scorer
from tgt_ray.core.progress import counted
from tgt_ray.core.texts import are_texts, to_texts
from tgt_ray.models.numerics import on_pixels
from tgt_ray.tasks.metrics.generated_texts import distinct_n, exact_copy_rate
from tgt_ray.teacher.explorers import Around, Explorer, Neighbourhood
from tgt_ray.teacher.module import Teacher, check_decoded
from tgt_ray.teacher.synthesizer import Disagreement, along, latent_std, shuffled

#: Kinds of rows; where no generator makes them, there are none that are reconstructed.
KINDS = ("real", "reconstructed", "explored")


@dataclass(frozen=True)
class HeldOut:
    """Holds the rows that explorers start from.

    - inputs: (N, ...), on the teacher's device
    - labels: (N,) their classes
    - pixels: whether inputs are images, of which 8 bits are kept
    """

    inputs: Tensor
    labels: Tensor
    pixels: bool = False


@dataclass
class Measured:
    """Holds what was measured on the first M rows, by kind of row (see `KINDS`).

    - rows: inputs (M, ...) on the CPU
    - first: the class that the labeler predicts for each row, and its probability, (M, 2)
    - labels: (M,) classes of the real rows
    - timed: for each batch, the seconds that exploring took and its number of rows
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
        """Summarise accuracy and agreement, in percent, and how similar rows are to those they were made from.

        - longest: the largest number of tokens that the generator gives a text, see `exact_copy_rate`
        """
        says = {name: pairs[:, 1].long() for name, pairs in self.first.items()}
        out: dict[str, Any] = {
            "rows": len(self.labels),
            "explorer": explorer.type,
            "accuracy": _share(says["real"] == self.labels),
            **_likeness({name: values.numpy() for name, values in self.rows.items()}, longest),
            "rows_per_second": self.rows_per_second,
        }
        for name in KINDS[1:] if "reconstructed" in says else KINDS[2:]:
            out[f"agreement_{name}"] = _share(says[name] == says["real"])
            out[f"accuracy_{name}"] = _share(says[name] == self.labels)
        return out


@dataclass
class _Seen:
    """Gathers results batch by batch."""

    rows: dict[str, list[Tensor]] = field(default_factory=dict)
    first: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, kind: str, inputs: Tensor, p: Tensor) -> None:
        """Add a batch; p has the labeler's probabilities (B, K).

        Only the predicted class and its probability are kept, since there may be very many classes.
        """
        self.rows.setdefault(kind, []).append(inputs.cpu())
        self.first.setdefault(kind, []).append(torch.stack(p.max(dim=1), dim=1))


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

    - student: the student that on-policy explorers look at
    - size: rows of a batch
    - seconds: no further batch is started after this time
    - device: the teacher's device
    """
    rng, seen = torch.Generator().manual_seed(0), _Seen()
    timed: list[tuple[float, int]] = []
    until = time.perf_counter() + seconds
    if explorer.decodes:
        batches = _decoded(teacher, explorer, student, held_out, size, rng, device)
    else:
        batches = _changed(explorer, held_out, size, rng)
    parts = counted(held_out.inputs.split(size), "measuring the teacher's fit", len(held_out.inputs), "rows")
    for part, (again, explore) in zip(parts, batches, strict=True):
        started = time.perf_counter()
        explored = explore()
        explored = on_pixels(explored) if held_out.pixels else explored
        p = teacher.labeler(explored).logits.softmax(dim=1).cpu()
        timed.append((time.perf_counter() - started, len(part)))
        for kind, inputs in (("real", part), ("reconstructed", again)):
            if inputs is not None:
                seen.add(kind, inputs, teacher.labeler(inputs.to(device)).logits.softmax(dim=1).cpu())
        seen.add("explored", explored, p)
        if time.perf_counter() > until:
            break
    rows = {kind: torch.cat(seen.rows[kind]) for kind in KINDS if kind in seen.rows}
    first = {kind: torch.cat(seen.first[kind]).double() for kind in rows}
    return Measured(rows, first, held_out.labels[: len(rows["real"])], timed)


#: What a batch gives: its rows reconstructed (None: nothing decodes them), and a call that explores them.
_Batches = Iterator[tuple[Tensor | None, Callable[[], Tensor]]]


def _changed(explorer: Explorer, held_out: HeldOut, size: int, rng: torch.Generator) -> _Batches:
    """Yield the batches of an explorer that changes the rows themselves."""
    for part in held_out.inputs.split(size):
        around = Around(partial(_drawn, held_out.inputs, len(part), rng), rng)
        yield None, partial(explorer.change, part, around)


def _decoded(
    teacher: Teacher,
    explorer: Explorer,
    student: Scorer,
    held_out: HeldOut,
    size: int,
    rng: torch.Generator,
    device: str,
) -> _Batches:
    """Yield the batches of an explorer whose rows are decoded."""
    latents_NL: Tensor | None = None
    if teacher.contextual:
        scale_L = latent_std(teacher, held_out.inputs, device)
    else:
        latents_NL = torch.cat([teacher.encode(part, rng)[0] for part in held_out.inputs.split(size)])
        scale_L = latents_NL.std(dim=0)
    for number, part in enumerate(held_out.inputs.split(size)):
        # A contextual generator draws its masks here, as it does when rows are made for training.
        latents, context = (
            (latents_NL[number * size :][:size], None) if latents_NL is not None else teacher.encode(part, rng)
        )
        again = teacher.decode(latents, rng, context).cpu()  # waits for the device before the clock starts
        check_decoded(again, part)
        near = Neighbourhood(
            along(scale_L, latents),
            Disagreement(teacher, student, rng, context),
            latents if latents_NL is None else latents_NL,
            held_out.labels,
            held_out.labels[number * size :][:size],
            rng,
            number * size + torch.arange(len(part)),
            teacher.present(latents, context),
        )
        yield again, partial(_explored, teacher, explorer, latents, near, context)


def _explored(
    teacher: Teacher, explorer: Explorer, latents: Tensor, near: Neighbourhood, context: Tensor | None
) -> Tensor:
    inputs = teacher.decode(explorer.explore(latents, near), near.rng, context)
    return explorer.change(inputs, Around(partial(shuffled, inputs, near.rng), near.rng))


def _drawn(inputs: Tensor, count: int, rng: torch.Generator) -> Tensor:
    return inputs[torch.randint(len(inputs), (count,), generator=rng).to(inputs.device)]


def _share(hits: Tensor) -> float:
    return 100 * float(hits.float().mean())


def _likeness(rows: dict[str, np.ndarray], longest: int | None) -> dict[str, float]:
    """Measure the squared error of reconstructions; for texts, the rate of copies and the variety of explored ones.

    - returns: empty for images that nothing reconstructs
    """
    if not are_texts(rows["real"]):
        again = rows.get("reconstructed")
        return {} if again is None else {"reconstruction_mse": float(np.square(again - rows["real"]).mean())}
    texts = {name: to_texts(values) for name, values in rows.items()}
    copies = {
        f"exact_copy_{name}": exact_copy_rate(texts["real"], made, longest)
        for name, made in texts.items()
        if name != "real"
    }
    return {**copies, "distinct_2_explored": distinct_n(texts["explored"], 2)}
