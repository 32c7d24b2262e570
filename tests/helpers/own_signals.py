"""Signals and an objective as a user adds them, from outside the package: `type: tests.helpers.own_signals:Matching`.

Each signal has another shape: a map of features, the largest few of each place's numbers with their indices, and a
list whose length is another one for each row.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from tgt_ray.core.batch import Loss
from tgt_ray.core.signals.base import Column, Seen, Signal
from tgt_ray.core.signals.of_labeler import EMBEDDING, LOGITS
from tgt_ray.core.signals.values import Ragged
from tgt_ray.models.numerics import kl_rows
from tgt_ray.objectives.base import Objective
from tgt_ray.objectives.criteria.base import Criterion


def maps_of(seen: Seen) -> torch.Tensor:
    """(B, C, h, w): what the labeler's convolutions give, before they are averaged."""
    return seen.labeler.backbone.layers[:-2](seen.inputs() - 0.5)


@dataclass(frozen=True)
class Maps(Signal):
    name: ClassVar[str] = "maps"
    columns: ClassVar[tuple[Column, ...]] = (Column("maps", "float32", "(C, h, w)"),)

    def of(self, seen):
        return {"maps": maps_of(seen)}


@dataclass(frozen=True)
class LargestOfPlaces(Signal):
    """As logits of tokens over words would be kept: of each place the `k` largest numbers and which they are."""

    name: ClassVar[str] = "largest"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("largest_values", "float32", "(places, k)"),
        Column("largest_indices", "int64", "(places, k)"),
    )
    k: int = 3

    def of(self, seen):
        values, indices = maps_of(seen).flatten(2).transpose(1, 2).topk(self.k, dim=2)
        return {"largest_values": values, "largest_indices": indices}


@dataclass(frozen=True)
class Likely(Signal):
    """The classes that aren't ruled out: some rows have one, others many."""

    name: ClassVar[str] = "likely"
    columns: ClassVar[tuple[Column, ...]] = (Column("likely", "int64", "()", ragged=True),)

    def of(self, seen):
        likely = seen.said.logits.softmax(dim=1) > 0.02
        return {"likely": Ragged(likely.nonzero()[:, 1], likely.sum(dim=1))}


class Matching(Objective):
    """KL between classes, and three further terms that each look at one of the signals."""

    type: str = "tests.helpers.own_signals:Matching"
    weight: float = 0.1
    k: int = 3

    @property
    def signals(self):
        return LOGITS, EMBEDDING, Maps(), LargestOfPlaces(self.k), Likely()

    def build(self, dim, facts):
        return MatchingCriterion(dim, facts.num_classes, self.weight)


class MatchingCriterion(Criterion):
    def __init__(self, dim, num_classes, weight):
        super().__init__(nn.Linear(dim, num_classes))
        self.weight = weight
        self.map = nn.Linear(dim, 1)
        self.vector = nn.Linear(dim, 256)

    def scores(self, embedding_BD):
        return self.head(embedding_BD)

    def forward(self, embedding_BD, labels, teacher, further):
        rows, scores = len(embedding_BD), self.scores(embedding_BD)
        assert not further
        assert teacher["maps"].shape[1:] == (64, 2, 2) and teacher["embedding"].shape == (rows, 256)
        assert teacher["largest_values"].shape == teacher["largest_indices"].shape == (rows, 4, 3)
        lists = teacher["likely"].lists()
        assert len(lists) == rows
        # Each signal is of its own row: the first class is a likely one, and the largest are those of the maps.
        first = teacher["logits"].argmax(dim=1).tolist()
        assert all(top in each.tolist() for top, each in zip(first, lists, strict=True))
        places = teacher["maps"].flatten(2).transpose(1, 2)
        torch.testing.assert_close(places.gather(2, teacher["largest_indices"]), teacher["largest_values"])
        kl = kl_rows(teacher["logits"], scores)
        likely = torch.stack([scores[row, each].logsumexp(dim=0) for row, each in enumerate(lists)])
        ruled_out = scores.logsumexp(dim=1) - likely
        maps = (self.map(embedding_BD)[:, 0] - teacher["maps"].mean(dim=(1, 2, 3))).square()
        vector = (self.vector(embedding_BD) - teacher["embedding"]).square().mean(dim=1)
        value = (kl + self.weight * (ruled_out + maps + vector)).mean()
        parts = {"kl": kl, "ruled_out": ruled_out, "maps": maps, "vector": vector}
        return Loss(value, {name: each.mean().detach() for name, each in parts.items()})
