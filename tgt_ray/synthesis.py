"""Floor 3: one request to its synthetic rows: anchors -> explore -> decode -> label. No ray; the same code runs in a pool actor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tgt_ray.config import digest
from tgt_ray.experiment import Experiment, Precision
from tgt_ray.explorers import Explorer, Neighbourhood
from tgt_ray.models.criteria import kl_rows
from tgt_ray.prepared import Anchors
from tgt_ray.student import Student, autocast
from tgt_ray.teacher import Teacher

#: One request's rows. inputs (R, ...) float32 or, of texts, uint8; teacher_logits (R, K) float32, and where each row comes from: anchor (R,) row id,
#: request (R,), version (R,) the step of the student that was looked at (-1: none), explorer (R,) its type.
#: reconstructed (M, ...): the first M anchors decoded as they are, to be looked at; M is 0 for most requests.
Block = dict[str, np.ndarray]


#: Every so many requests, so many of the first rows come with their anchor's reconstruction.
SHOWN_EVERY, SHOWN_ROWS = 16, 16


class Synthesizer:
    """Makes the rows of any request. A request's anchors and noise depend on (seed, request) alone."""

    def __init__(
        self,
        teacher: Teacher,
        anchors: Anchors,
        rows_per_request: int,
        device: str = "cpu",
        precision: Precision = "float32",
    ):
        self.teacher = teacher
        self.anchors = anchors
        self.rows_per_request = rows_per_request
        self.device, self.precision = device, precision
        self.latents_NL = torch.from_numpy(anchors.latents.copy()).to(device)
        self.labels_N = torch.from_numpy(anchors.labels.copy())
        self.scale_L = self.latents_NL.std(dim=0)

    def __call__(
        self, request: int, seed: int, explorer: Explorer, student: Student | None = None, version: int = -1
    ) -> Block:
        rng = torch.Generator().manual_seed(int(digest(seed, request), 16) % 2**63)
        chosen = self._draw_anchors(explorer, rng)
        near = Neighbourhood(
            self.scale_L,
            Disagreement(self.teacher, student, rng),
            self.latents_NL,
            self.labels_N,
            self.labels_N[chosen],
            rng,
        )
        with torch.no_grad(), autocast(self.device, self.precision):
            latents = explorer.explore(self.latents_NL[chosen.to(self.device)], near)
            inputs = self.teacher.decode(latents, rng)
            logits = self.teacher.labeler(inputs).logits
            again = inputs[:0]
            if request % SHOWN_EVERY == 0:
                few = self.latents_NL[chosen[:SHOWN_ROWS].to(self.device)]
                again = self.teacher.decode(few, rng)
        size = self.rows_per_request
        return {
            "inputs": _plain(inputs),
            "teacher_logits": logits.float().cpu().numpy(),
            "reconstructed": _plain(again),
            "anchor": self.anchors.ids[chosen.numpy()],
            "request": np.full(size, request),
            "version": np.full(size, version),
            "explorer": np.full(size, explorer.type),
        }

    def _draw_anchors(self, explorer: Explorer, rng: torch.Generator) -> Tensor:
        probabilities = torch.from_numpy(explorer.anchor_probabilities(self.anchors.labels))
        return torch.multinomial(probabilities, self.rows_per_request, replacement=True, generator=rng)


def _plain(inputs: Tensor) -> np.ndarray:
    """As float32 whatever they were computed in; the bytes of texts stay bytes."""
    return (inputs.float() if inputs.is_floating_point() else inputs).cpu().numpy()


@dataclass(frozen=True)
class Disagreement:
    """Latents (B, L) -> KL(labeler || student) of each decoded row (B,), at temperature 1 (our choice)."""

    teacher: Teacher
    student: Student | None
    rng: torch.Generator

    def __call__(self, latents_BL: Tensor) -> Tensor:
        assert self.student is not None, "an explorer that looks at the student says so with on_policy"
        inputs = self.teacher.decode(latents_BL, self.rng)
        return kl_rows(self.teacher.labeler(inputs).logits, self.student.scores(inputs))


def check_block(block: Block) -> None:
    """A row that is not finite must not reach the student; ValueError names the request."""
    for column in ("inputs", "teacher_logits"):
        if not np.isfinite(block[column]).all():
            raise ValueError(
                f"request {block['request'][0]}: the generator or labeler gave values that are not finite in '{column}'"
            )


def inline_blocks(
    synthesizer: Synthesizer, experiment: Experiment, student: Student, first: int, step: Callable[[], int]
) -> Iterator[Block]:
    """Blocks from request `first` on, each made when asked for, with the student as it is then; `step` tells its step."""
    frozen = copy.deepcopy(student).to(synthesizer.device).eval().requires_grad_(False)
    request = first
    while True:
        version = -1
        if experiment.explorer.on_policy:
            frozen.load_state_dict(student.state_dict())
            version = step()
        block = synthesizer(request, experiment.train.seed, experiment.explorer, frozen, version)
        check_block(block)
        yield block
        request += 1
