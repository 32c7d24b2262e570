"""Makes the synthetic rows of a request: draws anchors, explores, decodes and labels. Pool actors run the same code."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tgt_ray.core.batch import Block, InputRows, Outputs, Precision, Scorer, rows_at_once
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.signals.base import Seen, Signal, say
from tgt_ray.core.signals.of_labeler import LOGITS, TOP
from tgt_ray.core.signals.values import Columns, concat_columns, not_finite, take, to_numpy
from tgt_ray.models.numerics import autocast, kl_rows, on_pixels
from tgt_ray.teacher.explorers import Around, Explorer, Neighbourhood
from tgt_ray.teacher.module import Teacher
from tgt_ray.teacher.transfer_set import Anchors

#: The largest number of texts that are explored together where gradients are needed: a soft token has a number for each
#: word of the vocabulary.
EXPLORED_AT_ONCE = 64
#: What a labeler says of no rows.
NOTHING_SAID = Outputs(torch.empty(0, 1), torch.empty(0, 1))
#: How many of a request's first rows come with their anchor's reconstruction, to be looked at.
SHOWN_ROWS = 16


@dataclass(frozen=True)
class Recipe:
    """Says how rows are made, whatever the explorer.

    - rows: rows of one request
    - signals: the signals that the rows carry
    - precision: precision of the teacher's computations
    - pixels: whether inputs are images, which are rounded to 8 bits before they are labelled
    """

    rows: int
    signals: tuple[Signal, ...] = (LOGITS,)
    precision: Precision = "float32"
    pixels: bool = False


class Synthesizer:
    """Makes the rows of any request; the anchors and noise of a request depend on (seed, request) alone.

    - inputs: the inputs of all anchors, needed where the generator starts from them (`Teacher.contextual`), a signal
      looks at them, or the explorer leaves them unchanged; otherwise None
    - device: the teacher's device
    """

    def __init__(
        self, teacher: Teacher, anchors: Anchors, recipe: Recipe, inputs: InputRows | None = None, device: str = "cpu"
    ):
        self.teacher, self.anchors, self.recipe = teacher, anchors, recipe
        self.inputs, self.device = inputs, device
        self.latents_NL = torch.from_numpy(anchors.latents.copy()).to(device)
        self.labels_N = torch.from_numpy(anchors.labels.copy())
        if not teacher.contextual:
            # Without a generator there are no latents.
            self.scale_L = self.latents_NL.std(dim=0) if self.latents_NL.shape[1] else self.latents_NL[0]
            return
        assert inputs is not None, "a contextual generator needs the anchors' inputs"
        with torch.no_grad():
            self.scale_L = latent_std(teacher, inputs, device)

    def __call__(
        self,
        request: int,
        seed: int,
        explorer: Explorer,
        student: Scorer | None = None,
        version: int = -1,
        shown: int = SHOWN_ROWS,
    ) -> Block:
        """Make the rows of a request.

        - request: the number of the request
        - student: the student that on-policy explorers look at
        - version: the student's step; -1 without a student
        - shown: how many of the first rows come with what people look at, such as reconstructions
        """
        rng = torch.Generator().manual_seed(int(digest(seed, request), 16) % 2**63)
        chosen = self._draw_anchors(explorer, rng)
        with torch.no_grad(), autocast(self.device, self.recipe.precision):
            inputs, again = self._made(explorer, chosen, student, rng, shown)
            if self.recipe.pixels:
                inputs = on_pixels(inputs.float())
            known = self._known(explorer)
            columns, seen = self._labelled(inputs, chosen.numpy(), shown, known)
        return Block(
            inputs=np.asarray(to_numpy(inputs)),
            anchor=self.anchors.ids[chosen.numpy()],
            columns=columns,
            shown={"reconstructed": to_numpy(again), **seen},
            request=request,
            version=version,
            explorer=explorer.type,
        )

    def _made(
        self, explorer: Explorer, chosen: Tensor, student: Scorer | None, rng: torch.Generator, shown: int
    ) -> tuple[Tensor, Tensor]:
        """Make the rows' inputs, and the reconstructions of the first `shown` anchors."""
        if not explorer.decodes:
            assert self.inputs is not None, "an explorer that leaves anchors unchanged needs their inputs"
            inputs = self.inputs[chosen].to(self.device)
            return explorer.change(inputs, Around(lambda: self._others(explorer, rng), rng)), inputs[:shown]
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
        inputs = explorer.change(inputs, Around(partial(shuffled, inputs, rng), rng))
        if not shown:
            return inputs, inputs[:0]
        return inputs, self.teacher.decode(start[:shown], rng, context[:shown] if context is not None else None)

    def _explored_at_once(self, explorer: Explorer) -> list[slice]:
        """Split the rows of a request into parts that are explored together.

        Gradients keep the activations of every layer for each row, which take much memory for texts and documents.
        """
        size = self.recipe.rows
        if explorer.needs_differentiable and self.teacher.contextual and self.inputs is not None:
            size = rows_at_once(self.inputs[torch.tensor([0])].shape[1:], self.teacher.labeler, most=EXPLORED_AT_ONCE)
        return [slice(first, first + size) for first in range(0, self.recipe.rows, size)]

    def _explored(
        self,
        explorer: Explorer,
        start: Tensor,
        context: Tensor | None,
        chosen: Tensor,
        student: Scorer | None,
        rng: torch.Generator,
    ) -> Tensor:
        near = Neighbourhood(
            along(self.scale_L, start),
            Disagreement(self.teacher, student, rng, context),
            start if self.teacher.contextual else self.latents_NL,
            self.labels_N,
            self.labels_N[chosen],
            rng,
            chosen,
            self.teacher.present(start, context),
        )
        return explorer.explore(start, near)

    def _others(self, explorer: Explorer, rng: torch.Generator) -> Tensor:
        """Draw as many anchors again, and return their inputs."""
        assert self.inputs is not None
        return self.inputs[self._draw_anchors(explorer, rng)].to(self.device)

    def _known(self, explorer: Explorer) -> Columns:
        """Return the columns of all anchors that rows take over; empty where the labeler must be asked.

        Unchanged anchors have what the teacher cache says of them. It helps where that is all that the labeler is asked
        for.
        """
        asked = [each.name for signal in self.recipe.signals if signal.by == "labeler" for each in signal.columns]
        there = self.anchors.columns
        known = explorer.unchanged and all(name in there for name in asked)
        return {name: there[name] for name in asked} if known else {}

    def _labelled(
        self, inputs: Tensor, chosen: np.ndarray, shown: int, known: Columns | None = None
    ) -> tuple[Columns, Columns]:
        """Compute the signals of all rows, and the class that the labeler predicts for the first `shown` rows.

        - known: columns of all anchors that needn't be computed again
        """
        if known:
            signals = tuple(signal for signal in self.recipe.signals if signal.by != "labeler")
            rest = say(signals, self._seen(inputs, chosen, None), len(inputs))
            few = min(shown, len(inputs))
            # What people look at is asked for, since the cache may not have it.
            looked = self.teacher.say(inputs[:few]) if few else NOTHING_SAID
            seen = say((TOP,), self._seen(inputs[:few], chosen[:few], looked), few)
            return {**take(known, chosen), **rest}, seen
        labeler, signals, total = self.teacher.labeler, self.recipe.signals, len(inputs)
        # Where logits aren't among the signals there may be very many classes, so the labeler gets a few rows at a
        # time.
        size = total if LOGITS in signals else rows_at_once(inputs.shape[1:], labeler, most=total)
        said, looked_at = [], []
        for first in range(0, total, size):
            rows = slice(first, min(first + size, total))
            outputs = self.teacher.say(inputs[rows])
            said.append(say(signals, self._seen(inputs[rows], chosen[rows], outputs), rows.stop - first))
            few = max(0, min(shown, rows.stop) - first)
            top = Outputs(outputs.logits[:few], outputs.embedding[:few])
            looked_at.append(say((TOP,), self._seen(inputs[rows][:few], chosen[rows][:few], top), few))
        return concat_columns(said), concat_columns(looked_at)

    def _seen(self, inputs: Tensor, chosen: np.ndarray, outputs: Outputs | None) -> Seen:
        def anchor_inputs() -> Tensor:
            assert self.inputs is not None, "a signal that looks at anchors must set looks_at_anchors"
            return self.inputs[torch.from_numpy(chosen)]

        return Seen(self.anchors.labels[chosen], lambda: inputs, anchor_inputs, outputs, self.teacher.labeler)

    def _start(self, chosen: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return the latents of the chosen anchors, and what decoding needs in addition."""
        if self.inputs is None or not self.teacher.contextual:
            return self.latents_NL[chosen.to(self.device)], None
        return self.teacher.encode(self.inputs[chosen].to(self.device), rng)

    def _draw_anchors(self, explorer: Explorer, rng: torch.Generator) -> Tensor:
        probabilities = torch.from_numpy(explorer.anchor_probabilities(self.anchors.labels))
        return torch.multinomial(probabilities, self.recipe.rows, replacement=True, generator=rng)


@dataclass(frozen=True)
class Disagreement:
    """Maps latents (B, L) to KL(labeler || student) of each decoded row (B,), at temperature 1 (our choice)."""

    teacher: Teacher
    student: Scorer | None
    rng: torch.Generator
    context: Tensor | None = None

    def __call__(self, latents_BL: Tensor) -> Tensor:
        assert self.student is not None, "an explorer that looks at the student must set on_policy"
        inputs = self.teacher.relax(latents_BL, self.rng, self.context)
        return kl_rows(self.teacher.labeler(inputs).logits, self.student.scores(inputs))


#: The number of anchors that the scale of a contextual generator's latents is measured on.
SCALE_ROWS = 256


def latent_std(teacher: Teacher, inputs: InputRows, device: str) -> Tensor:
    """Measure the standard deviation of each dimension of a contextual generator's latents, (H,), on some anchors."""
    some = torch.linspace(0, len(inputs) - 1, min(SCALE_ROWS, len(inputs))).round().long()
    rng = torch.Generator().manual_seed(0)
    scale: Tensor = teacher.generator.latent_std(inputs[some].to(device), rng)
    return scale


def along(scale: Tensor, latents_BL: Tensor) -> Tensor:
    """Repeat a scale of H dimensions for latents whose size is a multiple of H."""
    return scale.repeat(latents_BL.shape[1] // len(scale)) if len(scale) else scale


def shuffled(inputs: Tensor, rng: torch.Generator) -> Tensor:
    """Return rows (B, ...) in random order: a request's rows are drawn independently, so each is as any other."""
    return inputs[torch.randperm(len(inputs), generator=rng).to(inputs.device)]


def check_block(block: Block) -> None:
    """Raise ValueError where a row has values that are not finite: such rows must not reach the student."""
    for column in not_finite({"inputs": block.inputs, **block.columns}):
        raise ValueError(
            f"request {block.request}: the generator or labeler gave values that are not finite in '{column}'"
        )
