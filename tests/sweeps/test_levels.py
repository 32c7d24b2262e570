"""Levels: a range of which only some values are tried, so that trials share them."""

import pytest

from tests.helpers.configs import refusal
from tests.helpers.trials import search_of
from tgt_ray.core.storage import Storage
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.search import first_values
from tgt_ray.sweeps.space import Distribution, from_optuna, to_optuna


@pytest.mark.parametrize(
    "settings, values",
    [
        ({"uniform": [0.1, 0.9], "levels": 5}, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ({"loguniform": [0.05, 0.8], "levels": 5}, [0.05, 0.1, 0.2, 0.4, 0.8]),
        ({"loguniform": [0.1, 1], "levels": 3}, [0.1, 0.316228, 1]),
        ({"integers": [1, 9], "levels": 3}, [1, 5, 9]),
        ({"integers": [1, 3], "levels": 3}, [1, 2, 3]),
    ],
)
def test_levels_are_spaced_on_the_distribution_s_own_scale(settings, values):
    distribution = Distribution(**settings)
    assert distribution.all_values() == values
    assert [distribution.level(value) for value in values] == list(range(len(values)))
    assert all(distribution.contains(value) and distribution.as_tried(value) == value for value in values)
    assert distribution.probes()[0] == values[0] and set(distribution.probes()) <= set(values)


def test_other_values_become_those_of_the_nearest_level():
    log = Distribution(loguniform=(0.05, 0.8), levels=5)
    assert [log.as_tried(value) for value in (0.06, 0.15, 0.3, 0.79)] == [0.05, 0.2, 0.4, 0.8]
    assert Distribution(uniform=(0, 1)).as_tried(0.123) == 0.123


@pytest.mark.parametrize(
    "space, expected",
    [
        ({"choice": [1, 2], "levels": 2}, "a choice has its values already"),
        ({"integers": [1, 3], "levels": 4}, "from 1 to 3 there are only 3 integers"),
        ({"uniform": [0.1, 0.9], "levels": 1}, "levels"),
        ({"levels": 4}, "exactly one of uniform, loguniform, integers, choice (got none)"),
    ],
)
def test_levels_that_make_no_sense_are_refused(space, expected):
    assert expected in refusal(SweepConfig, {"space": {"train.synthetic_ratio": space}})


def sweep(**search) -> SweepConfig:
    space = {
        "explorer.step_size": {"loguniform": [0.05, 1.0], "levels": 6},
        "train.synthetic_ratio": {"uniform": [0.1, 0.9], "levels": 5},
        "objective.temperature": {"loguniform": [1, 8]},
    }
    return SweepConfig.model_validate({"space": space, "search": search})


def test_optuna_gets_numbers_of_levels_and_trials_get_values():
    space = sweep().space
    values = {"explorer.step_size": 1.0, "train.synthetic_ratio": 0.5, "objective.temperature": 3.3}
    known = to_optuna(space, values)
    assert known == {"explorer.step_size": 5, "train.synthetic_ratio": 2, "objective.temperature": 3.3}
    assert from_optuna(space, known) == values


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_trials_have_values_of_levels_only(tmp_path, algorithm):
    own = sweep(trials=9, algorithm=algorithm, controls=[])
    search = search_of(Storage(tmp_path), own)
    tried = [search.journal.of(search.suggest(str(number))["trial"]).values for number in range(9)]
    assert {each["explorer.step_size"] for each in tried} <= set(own.space["explorer.step_size"].all_values())
    assert {each["train.synthetic_ratio"] for each in tried} <= {0.1, 0.3, 0.5, 0.7, 0.9}
    assert len({each["objective.temperature"] for each in tried}) == 9
    assert all(own.trial_experiment(each) for each in tried)
    first = first_values(own)
    assert first == tried[: len(first)]  # what a dry run shows
    study = search.study
    for trial, values in zip(study.get_trials(), tried, strict=True):
        assert trial.user_attrs["explorer.step_size"] == values["explorer.step_size"]
        assert 0 <= trial.params["explorer.step_size"] < 6


def test_the_experiment_s_own_values_move_to_levels_and_it_is_said():
    own = sweep()
    (point,) = own.first_points()
    assert point["explorer.step_size"] == own.space["explorer.step_size"].as_tried(0.25) != 0.25
    assert point["train.synthetic_ratio"] == 0.5
    (said,) = own.moved_to_levels()
    assert said.startswith("explorer.step_size: 0.25 is tried as 0.3017") and said.endswith("nearest of 6 levels")


def test_grid_searches_levels():
    space = {
        "train.synthetic_ratio": {"uniform": [0.1, 0.9], "levels": 3},
        "explorer.type": {"choice": ["random", "interpolation"]},
    }
    experiment = {"explorer": {"type": "random"}}
    own = SweepConfig.model_validate(
        {"experiment": experiment, "space": space, "search": {"algorithm": "grid", "controls": []}}
    )
    assert own.num_trials == 6 and len(own.first_points()) == 6
    assert {each["train.synthetic_ratio"] for each in own.first_points()} == {0.1, 0.5, 0.9}
    assert own.moved_to_levels() == []
