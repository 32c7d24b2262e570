"""Configs: what is refused and how that is said, a user's own components, and their schema."""

import json

import jsonschema
import pytest
from pydantic import Field

from tests.helpers.configs import EXPLORERS, again, refusal
from tgt_ray.core.config import Config, validate
from tgt_ray.core.errors import NAMED, nearest
from tgt_ray.core.loading import with_overrides
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.experiment.pool import PoolConfig
from tgt_ray.experiment.train import TrainConfig
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.teacher.explorers import Explorer


class Swirl(Explorer):
    """A user's own explorer, with a key of its own."""

    turns: float = Field(1.0, gt=0)

    def explore(self, latents_BL, near):
        return latents_BL


class Unfinished(Explorer):
    """Lacks `explore`."""


class NotAnExplorer(Config):
    type: str = "x"


@pytest.mark.parametrize(
    "data, path, wrong, right",
    [
        ({"trian": {}}, "", "trian", "train"),
        ({"train": {"step": 5}}, "train: ", "step", "steps"),
        ({"pool": {"windows": 5}}, "pool: ", "windows", "window"),
        ({"explorer": {"type": "gradient", "stepsize": 1}}, "explorer: ", "stepsize", "step_size"),
        (
            {"teacher": {"labeler": {"type": "conv", "pretrain": {"stpes": 1}}}},
            "teacher.labeler.pretrain: ",
            "stpes",
            "steps",
        ),
        (
            {"task": {"type": "image_classification", "long_tail": {"head": 5, "imbalanc": 2}}},
            "task.long_tail: ",
            "imbalanc",
            "imbalance",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unknown_key_is_refused_with_path_and_nearest_name(data, path, wrong, right):
    assert refusal(Experiment, data) == f"{path}unknown key '{wrong}'; did you mean '{right}'?"


def test_an_unknown_key_like_no_other_is_refused_with_the_legal_names():
    legal = sorted(PoolConfig.model_fields)
    assert refusal(Experiment, {"pool": {"qqqq": 1}}) == f"pool: unknown key 'qqqq'; legal: {', '.join(legal)}"
    many = sorted(TrainConfig.model_fields)
    assert refusal(Experiment, {"train": {"qqqq": 1}}) == (
        f"train: unknown key 'qqqq'; legal: {', '.join(many[:NAMED])} and {len(many) - NAMED} more"
    )


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("train.steps", "many", "integer"),
        ("train.steps", 0.5, "integer"),
        ("train.steps", [1], "integer"),
        ("train.synthetic_ratio", "half", "number"),
        ("train.synthetic_ratio", 1.5, "less than or equal to 1"),
        ("train.synthetic_ratio", -0.1, "greater than or equal to 0"),
        ("train.synthetic_ratio", float("nan"), "finite"),
        ("train.learning_rate", float("inf"), "finite"),
        ("train.optimizer", "adam", "'adamw' or 'sgd'"),
        ("train", 5, "TrainConfig"),
        ("objective.temperature", 0, "greater than or equal to 0.000001"),
        ("objective.scale_by_t2", "perhaps", "boolean"),
        ("explorer.sigma", -1, "greater than or equal to 0"),
        ("explorer.anchors", "both", "natural"),
        ("explorer.anchors", 2, "1"),
        ("student.widths", [], "at least 1 item"),
        ("task.long_tail.head", "x", "integer"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_the_value_and_what_is_right(key, value, expected):
    data = with_overrides(Experiment().model_dump(mode="json"), [(key, value)])
    message = refusal(Experiment, data, "mine.yaml")
    assert message.startswith(f"mine.yaml: {key}: ")
    assert expected in message
    assert repr(value) in message


@pytest.mark.parametrize("key", ["train.seed", "task.long_tail.seed", "task.data.seed", "search.seed"])
def test_a_negative_seed_is_refused(key):
    if key == "search.seed":
        assert refusal(SweepConfig, {"search": {"seed": -1}}).startswith("search.seed: ")
        return
    base = Experiment().model_dump(mode="json")
    if key == "task.data.seed":
        base = with_overrides(base, [("task.data", {"type": "parquet", "path": "folder"})])
    assert refusal(Experiment, with_overrides(base, [(key, -1)])).startswith(f"{key}: ")


@pytest.mark.parametrize(
    "block, right",
    [
        ({"explorer": {"type": "gradientt"}}, "gradient"),
        ({"objective": {"type": "distilation"}}, "distillation"),
        ({"student": {"type": "tim"}}, "timm"),
        ({"task": {"type": "image_classification", "data": {"type": "parket"}}}, "parquet"),
        ({"teacher": {"generator": {"type": "mlp_autoencodr"}}}, "mlp_autoencoder"),
    ],
)
def test_an_unknown_type_is_refused_with_the_nearest(block, right):
    message = refusal(Experiment, block)
    assert f"did you mean '{right}'?" in message
    assert "package.module:Class" in message


def test_a_component_without_type_is_refused_with_the_legal_types():
    message = refusal(Experiment, {"explorer": {"sigma": 1}})
    assert message.startswith("explorer: ")
    assert all(kind in message for kind in EXPLORERS)
    assert refusal(Experiment, {"explorer": "random"}).startswith("explorer: needs a mapping")


def test_a_users_own_component_is_found_by_module_and_class(tmp_path):
    config = validate(
        Experiment, {"explorer": {"type": "tests.core.test_config:Swirl", "turns": 3, "anchors": "balanced"}}
    )
    assert type(config.explorer) is Swirl
    assert config.explorer.turns == 3 and config.explorer.anchors == "balanced"
    assert again(config, tmp_path) == config
    assert config.model_dump()["explorer"]["turns"] == 3


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("tests.core.test_config:NotAnExplorer", "not a subclass of tgt_ray.teacher.explorers.base.Explorer"),
        ("tgt_ray.models.students:ConvStudent", "not a subclass of"),
        ("tgt_ray.core.config:nearest", "not a subclass of"),
        ("tests.core.test_config:Absent", "cannot import 'tests.core.test_config:Absent'"),
        ("no_such_module_at_all:X", "cannot import 'no_such_module_at_all:X'"),
        (".relative:X", "relative"),
        (":X", ""),
        ("tests.core.test_config:Unfinished", "abstract"),
    ],
)
def test_a_component_that_is_none_is_refused(kind, expected):
    message = refusal(Experiment, {"explorer": {"type": kind}})
    assert message.startswith("explorer: ")
    assert expected in message


def test_mistakes_in_a_users_own_component_keep_key_and_value():
    message = refusal(Experiment, {"explorer": {"type": "tests.core.test_config:Swirl", "turns": -2}})
    assert message.startswith("explorer: turns: ") and "-2" in message
    message = refusal(Experiment, {"explorer": {"type": "tests.core.test_config:Swirl", "turn": 2}})
    assert "did you mean 'turns'?" in message


@pytest.mark.parametrize("cls", [Experiment, SweepConfig])
def test_the_json_schema_is_one_and_accepts_the_defaults(cls):
    schema = json.loads(json.dumps(cls.model_json_schema()))
    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    validator.check_schema(schema)
    check = validator(schema)
    assert list(check.iter_errors(cls().model_dump(mode="json"))) == []
    assert list(check.iter_errors({"no_such_key": 1}))


def test_the_json_schema_of_an_experiment_knows_types_and_a_users_own():
    check = jsonschema.Draft202012Validator(Experiment.model_json_schema())
    assert check.is_valid({"explorer": {"type": "package.module:Class", "own_key": 1}})
    assert not check.is_valid({"explorer": {"type": "gradientt"}})
    assert not check.is_valid({"train": {"synthetic_ratio": 2}})


def test_nearest_names_something_legal():
    assert nearest("tempreature", ["temperature", "alpha"]) == "did you mean 'temperature'?"
    assert nearest("zzz", ["b", "a"]) == "legal: a, b"


def test_configs_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        Experiment().train.steps = 3
