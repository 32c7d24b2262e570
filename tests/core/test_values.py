"""Values of settings, from YAML, from the command line and from Python: right, or refused in one short line."""

import numpy as np
import pytest

from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.core.loading import dump_yaml
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps.config import SweepConfig

LONG = "a" * 5000


def data(**settings: object) -> dict:
    return {"task": {"type": "image_classification", "data": settings}}


@pytest.mark.parametrize(
    "given, says",
    [
        ({"train": {"seed": 10**20}}, "train.seed: Input should be less than or equal to 4294967295"),
        ({"train": {"seed": -1}}, "train.seed: Input should be greater than or equal to 0"),
        ({"teacher": {"labeler": {"type": "residual", "pretrain": {"seed": -1}}}}, "pretrain.seed: Input should be gr"),
        ({"train": {"steps": True}}, "train: 'steps' takes a number (got true)"),
        ({"train": {"steps": float("inf")}}, "train.steps: "),
        ({"student": {"type": LONG}}, "student: unknown type 'aaa"),
        ({LONG: 1}, "unknown key 'aaa"),
        (data(type="folder", path=LONG), "task.data.path: cannot be the path of a file (File name too long)"),
        (data(type="folder", path="a\0b"), "task.data.path: cannot be the path of a file (it has a zero byte)"),
        ({"student": {"type": "timm", "name": LONG}}, "student.name: timm has no model 'aaa"),
        ({"train": {"optimizer": LONG}}, "train.optimizer: "),
        ({"search": {}}, "unknown key 'search'; it belongs to a sweep: use the command sweep"),
        (
            {"task": {"type": "text_classification", "data": {"type": "csv", "path": "x", "text_column": 1}}},
            "task.data.text_column: Input should be a valid string (got 1); put quotes around it",
        ),
    ],
)
def test_a_wrong_value_is_refused_in_a_short_line(given, says):
    with pytest.raises(ConfigError) as refused:
        validate(Experiment, given, "e.yaml")
    said = str(refused.value)
    assert says in said and len(said) < 700 and "\n" not in said


def test_messages_list_a_few_names():
    assert nearest("zzz", map(str, range(1000))).endswith(" and 980 more")
    assert nearest("zzz", ["one", "two"]) == "legal: one, two"
    assert nearest("tow", ["one", "two"]) == "did you mean 'two'?"


def test_numpy_s_numbers_are_numbers():
    train = validate(Experiment, {"train": {"seed": np.int64(3), "steps": np.float32(20)}}).train
    assert (train.seed, train.steps) == (3, 20) and type(train.seed) is int
    for choice in (np.arange(8, 33, 8), list(np.arange(8, 33, 8)), range(8, 33, 8)):
        sweep = validate(SweepConfig, {"space": {"train.batch_size": {"choice": choice}}})
        assert sweep.space["train.batch_size"].choice == [8, 16, 24, 32]
        assert "- 8\n" in dump_yaml(sweep)


def test_choices_are_what_their_key_makes_of_them():
    space = {"train.learning_rate": {"choice": ["1e-2", 0.001]}, "train.augment": {"choice": [None, {"flip": "yes"}]}}
    sweep = validate(SweepConfig, {"space": space})
    assert sweep.space["train.learning_rate"].choice == [0.01, 0.001]
    assert sweep.first_points() == [{"train.learning_rate": 0.01, "train.augment": None}]


@pytest.mark.parametrize(
    "given, says",
    [
        ({"space": {"train.batch_size": {"uniform": [8, 32]}}}, "train.batch_size: Input should be a valid integer"),
        ({"space": {"train.batch_size": {"choice": [8, "many"]}}}, "train.batch_size: Input should be a valid integer"),
        ({"train": {"steps": 5}}, "unknown key 'train'; in a sweep it stands below experiment: experiment.train"),
    ],
)
def test_a_sweep_whose_values_no_trial_can_take_is_refused(given, says):
    with pytest.raises(ConfigError, match=says.replace(".", r"\.")):
        validate(SweepConfig, given)


@pytest.mark.parametrize(
    "given, says",
    [
        ({"train": {"batch_size": 10**12}}, "train.batch_size: Input should be less than or equal to 1048576"),
        ({"student": {"type": "conv", "widths": [0]}}, "student.widths.0: Input should be greater than or equal to 1"),
        ({"student": {"type": "conv", "widths": [10**9]}}, "student.widths.0: Input should be less than or equal to"),
    ],
)
def test_sizes_that_no_machine_holds_are_refused_before_anything_is_trained(given, says):
    with pytest.raises(ConfigError) as refused:
        validate(Experiment, given)
    assert says in str(refused.value)
