"""One request to its synthetic rows: anchors -> explore -> decode -> label. The same code runs in a pool actor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tgt_ray.core.batch import Block, InputRows, Precision, rows_at_once
from tgt_ray.core.fingerprint import digest
from tgt_ray.models.numerics import at_least_float32, autocast, kl_rows
from tgt_ray.teacher.explorers import Explorer, Neighbourhood
from tgt_ray.teacher.module import Teacher
from tgt_ray.teacher.transfer_set import Anchors
from tgt_ray.training.student import Student

#: Texts that are explored together where gradients are needed: each token has a number for each word of the vocabulary.
EXPLORED_AT_ONCE = 64
#: About so many requests of a run, and so many of the first rows of each, come with their anchor's reconstruction.
SHOWN_REQUESTS, SHOWN_ROWS = 16, 16


class Synthesizer:
    """Makes the rows of any request. A request's anchors and noise depend on (seed, request) alone.

    embedding: whether rows carry the labeler's. inputs: of all anchors, for a generator that starts from them
    (`Teacher.contextual`), and for rows that carry their anchor's (with_anchors). documents: whether the task's answers are documents.
    shown_every: requests from one that has reconstructions to the next.
    """

    def __init__(
        self,
        teacher: Teacher,
        anchors: Anchors,
        rows_per_request: int,
        device: str = "cpu",
        precision: Precision = "float32",
        embedding: bool = False,
        inputs: InputRows | None = None,
        with_anchors: bool = False,
        documents: bool = False,
        shown_every: int = 1,
    ):
        self.teacher = teacher
        self.anchors = anchors
        self.rows_per_request = rows_per_request
        self.device, self.precision, self.embedding = device, precision, embedding
        self.latents_NL = torch.from_numpy(anchors.latents.copy()).to(device)
        self.labels_N = torch.from_numpy(anchors.labels.copy())
        self.inputs, self.with_anchors, self.documents = inputs, with_anchors, documents
        self.shown_every = shown_every
        if not teacher.contextual:
            self.scale_L = self.latents_NL.std(dim=0)
            return
        assert inputs is not None, "a contextual generator starts from the anchors' inputs"
        with torch.no_grad():
            self.scale_L = latent_std(teacher, inputs, device)

    def __call__(
        self, request: int, seed: int, explorer: Explorer, student: Student | None = None, version: int = -1
    ) -> Block:
        rng = torch.Generator().manual_seed(int(digest(seed, request), 16) % 2**63)
        chosen = self._draw_anchors(explorer, rng)
        with torch.no_grad(), autocast(self.device, self.precision):
            shown = SHOWN_ROWS if request % self.shown_every == 0 else 0
            inputs, again = self._made(explorer, chosen, student, rng, shown)
            labelled = self._labelled(inputs)
        size = self.rows_per_request
        return {
            "inputs": to_array(inputs),
            **labelled,
            **({"document": self.anchors.labels[chosen.numpy()]} if self.documents else {}),
            **(
                {"anchor_inputs": to_array(self.inputs[chosen])}
                if self.with_anchors and self.inputs is not None
                else {}
            ),
            "reconstructed": to_array(again),
            "anchor": self.anchors.ids[chosen.numpy()],
            "request": np.full(size, request),
            "version": np.full(size, version),
            "explorer": np.full(size, explorer.type),
        }

    def _made(
        self, explorer: Explorer, chosen: Tensor, student: Student | None, rng: torch.Generator, shown: int
    ) -> tuple[Tensor, Tensor]:
        """The rows, and the reconstructions of the first `shown` anchors."""
        if not explorer.decodes:
            assert self.inputs is not None, "an explorer that leaves anchors as they are needs their inputs"
            inputs = self.inputs[chosen].to(self.device)
            return inputs, inputs[:shown]
        start, context = self._start(chosen, rng)
        latents = torch.cat(
            [
                self._explored(
                    explorer, start[rows], context if context is None else context[rows], chosen[rows], student, rng
                )
                for rows in self._explored_at_once(explorer)
            ]
        )
        inputs = self.teacher.decode(latents, rng, context)
        if not shown:
            return inputs, inputs[:0]
        return inputs, self.teacher.decode(start[:shown], rng, context[:shown] if context is not None else None)

    def _explored_at_once(self, explorer: Explorer) -> list[slice]:
        """The rows of a request in parts. Gradients keep what every layer makes of each row, and of texts and documents that is much."""
        size = self.rows_per_request
        if explorer.needs_differentiable and self.teacher.contextual and self.inputs is not None:
            size = rows_at_once(self.inputs[torch.tensor([0])].shape[1:], self.teacher.labeler, most=EXPLORED_AT_ONCE)
        return [slice(first, first + size) for first in range(0, self.rows_per_request, size)]

    def _explored(
        self,
        explorer: Explorer,
        start: Tensor,
        context: Tensor | None,
        chosen: Tensor,
        student: Student | None,
        rng: torch.Generator,
    ) -> Tensor:
        near = Neighbourhood(
            along(self.scale_L, start),
            Disagreement(self.teacher, student, rng, context),
            start if self.teacher.contextual else self.latents_NL,
            self.labels_N,
            self.labels_N[chosen],
            rng,
        )
        return explorer.explore(start, near)

    def _labelled(self, inputs: Tensor) -> dict[str, np.ndarray]:
        """What the labeler says of rows. Scores of all documents are looked at a few rows at a time."""
        labeler, parts = self.teacher.labeler, []
        size = rows_at_once(inputs.shape[1:], labeler) if self.documents else len(inputs)
        for some in inputs.split(size):
            said = labeler(some)
            part = {"teacher_logits": said.logits}
            if self.documents:
                p, first = at_least_float32(said.logits).softmax(dim=1).max(dim=1)
                part = {"teacher_logits": said.logits[:, :0], "teacher_class": first, "teacher_p": p}
            parts.append(part | ({"teacher_embedding": said.embedding} if self.embedding else {}))
        return {name: to_array(torch.cat([part[name] for part in parts])) for name in parts[0]}

    def _start(self, chosen: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Latents of the chosen anchors, and what decoding needs beside them."""
        if self.inputs is None or not self.teacher.contextual:
            return self.latents_NL[chosen.to(self.device)], None
        return self.teacher.encode(self.inputs[chosen].to(self.device), rng)

    def _draw_anchors(self, explorer: Explorer, rng: torch.Generator) -> Tensor:
        probabilities = torch.from_numpy(explorer.anchor_probabilities(self.anchors.labels))
        return torch.multinomial(probabilities, self.rows_per_request, replacement=True, generator=rng)


@dataclass(frozen=True)
class Disagreement:
    """Latents (B, L) -> KL(labeler || student) of each decoded row (B,), at temperature 1 (our choice)."""

    teacher: Teacher
    student: Student | None
    rng: torch.Generator
    context: Tensor | None = None

    def __call__(self, latents_BL: Tensor) -> Tensor:
        assert self.student is not None, "an explorer that looks at the student says so with on_policy"
        inputs = self.teacher.relax(latents_BL, self.rng, self.context)
        return kl_rows(self.teacher.labeler(inputs).logits, self.student.scores(inputs))


#: Anchors that the scale of a contextual generator's latents is measured on.
SCALE_ROWS = 256


def latent_std(teacher: Teacher, inputs: InputRows, device: str) -> Tensor:
    """(H,): the standard deviation of each dimension of a contextual generator's latents, over some of the anchors."""
    some = torch.linspace(0, len(inputs) - 1, min(SCALE_ROWS, len(inputs))).round().long()
    rng = torch.Generator().manual_seed(0)
    return teacher.generator.latent_std(inputs[some].to(device), rng)  # type: ignore[operator]


def along(scale: Tensor, latents_BL: Tensor) -> Tensor:
    """A scale of H dimensions for latents of as many times H."""
    return scale.repeat(latents_BL.shape[1] // len(scale)) if len(scale) else scale


def to_array(values: Tensor) -> np.ndarray:
    """float32, or whole numbers as they are."""
    return (values.float() if values.is_floating_point() else values).cpu().numpy()


def check_block(block: Block) -> None:
    """A row that is not finite must not reach the student; ValueError names the request."""
    for column in ("inputs", "teacher_logits", "teacher_embedding", "anchor_inputs"):
        if column in block and not np.isfinite(block[column]).all():
            raise ValueError(
                f"request {block['request'][0]}: the generator or labeler gave values that are not finite in '{column}'"
            )
