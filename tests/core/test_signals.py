"""Signals: mistakes in their code."""

import numpy as np
import pytest
import torch

from tests.helpers import own_signals
from tgt_ray.core.signals.base import Column, Seen, Signal, say, unique
from tgt_ray.core.signals.of_labeler import LOGITS, Logits
from tgt_ray.core.signals.values import Ragged


class Lying(Signal):
    name = "lying"
    columns = (Column("lying", "float32", "()"),)

    def of(self, seen):
        return {"lying": seen.inputs()}


@pytest.mark.parametrize(
    "given, says",
    [
        (torch.zeros(3, dtype=torch.int64), "column 'lying' is int64 of 3 rows, declared is float32 of 3 rows"),
        (torch.zeros(2), "column 'lying' is float32 of 2 rows, declared is float32 of 3 rows"),
        (Ragged(torch.zeros(4), torch.tensor([1, 1, 2])), "is ragged float32 of 3 rows, declared is float32 of 3"),
    ],
)
def test_a_signal_that_gives_what_it_has_not_declared_is_a_mistake_in_its_code(given, says):
    with pytest.raises(ValueError, match=f"signal 'lying': .*{says}"):
        say([Lying()], Seen(np.zeros(3), lambda: given, lambda: given), 3)


def test_two_signals_of_one_name_are_refused():
    assert unique([LOGITS, Logits()]) == (LOGITS,)
    with pytest.raises(ValueError, match="two signals that differ are called 'largest'"):
        unique([own_signals.LargestOfPlaces(2), own_signals.LargestOfPlaces(3)])
