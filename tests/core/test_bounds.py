"""Each number that users set for a teacher, a model or an objective has a lower and an upper bound."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any, get_args

import pytest

import tgt_ray.objectives
import tgt_ray.teacher
from tgt_ray.core.config import Config, validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models import backbones, students
from tgt_ray.objectives import LELP, Consistency, Distillation, EmbedDistill
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.teacher.generators import (
    CausalLMGenerator,
    Doc2QueryGenerator,
    ImageVariationGenerator,
    MaskedLMGenerator,
    SpanGenerator,
)
from tgt_ray.teacher.labelers.dual_encoder import DualEncoderLabeler
from tgt_ray.teacher.labelers.image import TransformersLabeler


def configs() -> Iterator[type[Config]]:
    modules = [students, backbones]
    for package in (tgt_ray.teacher, tgt_ray.objectives):
        names = [each.name for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
        modules += [importlib.import_module(name) for name in names if "criteria" not in name]
    for module in modules:
        for found in vars(module).values():
            if isinstance(found, type) and issubclass(found, Config) and found.__module__ == module.__name__:
                yield found


def parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for each in (*get_args(annotation), *getattr(annotation, "metadata", ())):
        yield from parts(each)


@pytest.mark.parametrize("config", sorted(set(configs()), key=str), ids=lambda config: config.__name__)
def test_each_number_has_two_bounds(config):
    for name, field in config.model_fields.items():
        inside = [*parts(field.annotation), *(each for part in field.metadata for each in parts(part))]
        if int not in inside and float not in inside:
            continue
        bounds = {bound for each in inside for bound in ("ge", "gt", "le", "lt") if hasattr(each, bound)}
        assert bounds & {"ge", "gt"} and bounds & {"le", "lt"}, f"{config.__name__}.{name}"


@pytest.mark.parametrize(
    "config, settings, says",
    [
        (CausalLMGenerator, {"path": "a", "temperature": 1e300}, "temperature: Input should be less than or equal to"),
        (CausalLMGenerator, {"path": "a", "temperature": 1e-300}, "temperature: Input should be greater than or equal"),
        (CausalLMGenerator, {"path": "a", "top_p": 0}, "top_p: Input should be greater than 0"),
        (Doc2QueryGenerator, {"path": "a", "top_k": 2**40}, "top_k: Input should be less than or equal to"),
        (Doc2QueryGenerator, {"path": "a", "temperature": 0}, "temperature: Input should be greater than or equal to"),
        (MaskedLMGenerator, {"temperature": 1e-300}, "is below 1e-06; give 0 for the most likely token"),
        (SpanGenerator, {"most_words": 2**40}, "most_words: Input should be less than or equal to"),
        (ImageVariationGenerator, {"path": "a", "guidance": 1e300}, "guidance: Input should be less than or equal to"),
        (DualEncoderLabeler, {"path": "a", "temperature": 1e300}, "temperature: Input should be less than or equal to"),
        (TransformersLabeler, {"path": "a", "classes": [0, -1]}, "classes.1: Input should be greater than or equal to"),
        (Distillation, {"temperature": 1e-300}, "temperature: Input should be greater than or equal to"),
        (EmbedDistill, {"student_temperature": 1e-300}, "student_temperature: Input should be greater than or equal"),
        (LELP, {"beta": 1e-300}, "beta: Input should be greater than or equal to"),
        (Consistency, {"sharpening": 1e-300}, "sharpening: Input should be greater than or equal to"),
    ],
)
def test_a_number_outside_of_them_is_refused(config, settings, says):
    with pytest.raises(ConfigError) as refused:
        validate(config, settings)
    assert says in str(refused.value)


def test_what_is_at_them_is_taken():
    assert validate(MaskedLMGenerator, {"temperature": 0}).temperature == 0
    assert validate(MaskedLMGenerator, {"temperature": 1e-6}).temperature == 1e-6
    assert validate(CausalLMGenerator, {"path": "a", "temperature": 1e6, "top_p": 1}).top_p == 1
    assert validate(DualEncoderLabeler, {"path": "a", "temperature": 1}).to_fingerprint()["temperature"] == 1.0
    space = {"objective.temperature": {"loguniform": [1e-3, 1e3]}}
    assert validate(SweepConfig, {"space": space}).space["objective.temperature"].ends() == [1e-3, 1e3]
    with pytest.raises(ConfigError, match=r"objective\.temperature"):
        validate(SweepConfig, {"space": {"objective.temperature": {"loguniform": [1e-9, 1e3]}}})


def test_bounds_change_no_fingerprint():
    assert Experiment().fingerprint() == "fdff47101a9d8340"
    assert MaskedLMGenerator().fingerprint() == "b0ecf397f6c34bbe"
