"""Configs written to YAML and read again, and what is said of those that are refused."""

from pathlib import Path

import pytest

from tests.helpers.experiments import changed
from tgt_ray.core.config import Config, validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import dump_yaml, load_yaml
from tgt_ray.experiment.experiment import Experiment

EXPLORERS = ("none", "random", "gradient", "random-matched", "interpolation")


def experiment(*sets: tuple[str, object]) -> Experiment:
    return changed(Experiment(), dict(sets))


def again(config: Config, folder: Path) -> Config:
    file = folder / "config.yaml"
    file.write_text(dump_yaml(config))
    return validate(type(config), load_yaml(file), str(file))


def refusal(cls: type[Config], data: object, where: str = "") -> str:
    with pytest.raises(ConfigError) as refused:
        validate(cls, data, where)
    assert "\n" not in str(refused.value)
    return str(refused.value)
