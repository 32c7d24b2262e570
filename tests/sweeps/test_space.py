"""Spaces that can't be searched."""

import pytest

from tests.helpers.configs import refusal
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.sweeps.config import SweepConfig


@pytest.mark.parametrize(
    "space, expected",
    [
        ({"uniform": [0, 1], "choice": [1]}, "exactly one of"),
        ({}, "exactly one of"),
        ({"uniform": [0.9, 0.1]}, "0.9 is not below the high end 0.1"),
        ({"loguniform": [0, 1]}, "must be above 0"),
        ({"uniform": [0.1]}, ""),
    ],
)
def test_a_malformed_distribution_is_refused_with_its_path(space, expected):
    message = refusal(SweepConfig, {"space": {"train.synthetic_ratio": space}})
    assert message.startswith("space.train.synthetic_ratio")
    assert expected in message


@pytest.mark.parametrize(
    "space, message",
    [
        ({"task.long_tail.head": {"choice": [40, 80]}}, "space.task.long_tail.head: the trials of a sweep share task"),
        (
            {"explorer.type": {"choice": ["random", "gradient"]}, "explorer.step_size": {"uniform": [0.1, 1]}},
            "step_size",
        ),
        ({"train.batch_size": {"uniform": [32, 129]}}, "space.train.batch_size = 62.876"),
    ],
)
def test_a_space_whose_values_do_not_fit_together_is_refused(space, message):
    with pytest.raises(ConfigError) as refused:
        validate(SweepConfig, {"space": space})
    assert message in str(refused.value)
