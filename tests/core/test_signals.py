"""Signals: mistakes in their code."""

import numpy as np
import pytest
import torch

from tests.helpers import own_signals
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.signals.base import Column, Seen, Signal, say, unique
from tgt_ray.core.signals.of_labeler import LOGITS, Logits
from tgt_ray.core.signals.values import Ragged
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives import Objective
from tgt_ray.teacher.transfer_set import needs


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


class Nowhere(Objective):
    type: str = "tests.core.test_signals:Nowhere"
    real: bool = True

    @property
    def signals(self):
        return (LOGITS, RealAlone() if self.real else SyntheticAlone())

    def build(self, dim, facts):
        raise NotImplementedError


class RealAlone(Lying):
    synthetic = False


class SyntheticAlone(Lying):
    real = False


@pytest.mark.parametrize(
    "real, explorer, says",
    [
        (True, "random", "its signal 'lying' has no values for synthetic rows; give explorer.type none"),
        (False, "random", "its signal 'lying' has no values for real rows, and what synthetic rows have alone"),
        (False, "none", "its signal 'lying' has no values for real rows"),
        (True, "none", None),
    ],
)
def test_a_signal_that_some_rows_of_a_batch_lack_is_refused(real, explorer, says):
    given = {"objective": {"type": Nowhere.model_fields["type"].default, "real": real}, "explorer": {"type": explorer}}
    if says is None:
        validate(Experiment, given)
        return
    with pytest.raises(ConfigError, match=says):
        validate(Experiment, given)


def test_objectives_of_a_sweep_whose_signals_differ_under_one_name_are_refused():
    several = [own_signals.Matching(k=2), own_signals.Matching(k=3)]
    assert needs(several[:1])[1] == {}
    with pytest.raises(ConfigError, match="two signals that differ are called 'largest'; let its name say"):
        needs(several)


def test_two_signals_of_one_name_are_refused():
    assert unique([LOGITS, Logits()]) == (LOGITS,)
    with pytest.raises(ValueError, match="two signals that differ are called 'largest'"):
        unique([own_signals.LargestOfPlaces(2), own_signals.LargestOfPlaces(3)])
