import json
from pathlib import Path
from typing import Literal

import jsonschema
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import Field

from tgt_ray.core.config import Config, validate
from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.loading import dump_yaml, load_yaml, override, parse_override, with_overrides
from tgt_ray.experiment.controls import control
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.experiment.train import TrainConfig
from tgt_ray.sweeps.config import SweepConfig, default_sweep
from tgt_ray.sweeps.space import lookup
from tgt_ray.teacher.explorers import Explorer
from tgt_ray.teacher.generators import Generator

ROOT = Path(__file__).parent.parent.parent
EXPLORERS = ("none", "random", "gradient", "random-matched", "interpolation")
SWEEP_FILES = [ROOT / "tgt_ray" / "default_sweep.yaml", *sorted((ROOT / "sweeps").glob("*.yaml"))]


class Swirl(Explorer):
    """A user's own explorer, with a key of its own."""

    turns: float = Field(1.0, gt=0)

    def explore(self, latents_BL, near):
        return latents_BL


class Unfinished(Explorer):
    """Lacks `explore`."""


class NotAnExplorer(Config):
    type: str = "x"


def experiment(*sets: tuple[str, object]) -> Experiment:
    return validate(Experiment, with_overrides(Experiment().model_dump(mode="json"), list(sets)))


def again(config: Config, folder: Path) -> Config:
    file = folder / "config.yaml"
    file.write_text(dump_yaml(config))
    return validate(type(config), load_yaml(file), str(file))


def refusal(cls: type[Config], data: object, where: str = "") -> str:
    with pytest.raises(ConfigError) as refused:
        validate(cls, data, where)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# Round trips


@pytest.mark.parametrize("kind", EXPLORERS)
def test_an_experiment_with_each_explorer_survives_yaml(kind, tmp_path):
    config = experiment(("explorer.type", kind), ("explorer.anchors", 0.25), ("train.learning_rate", 0.003))
    assert again(config, tmp_path) == config
    assert again(config, tmp_path).fingerprint() == config.fingerprint()


@pytest.mark.parametrize(
    "sets",
    [
        [("student", {"type": "timm", "name": "resnet18"})],
        [("task.data", {"type": "parquet", "path": "some/folder", "image_shape": [3, 4, 5]})],
        [("teacher.labeler", {"type": "residual", "weights": "w.safetensors"})],
        [("teacher.generator", {"type": "conv_autoencoder", "widths": [4]})],
        [("task.long_tail", None)],
        [("pool.actor_resources", {"generator": 0.5})],
    ],
    ids=lambda sets: sets[0][0],
)
def test_other_components_survive_yaml(sets, tmp_path):
    config = experiment(*sets)
    assert again(config, tmp_path) == config


def test_a_sweep_survives_yaml(tmp_path):
    config = validate(
        SweepConfig,
        {
            "space": {
                "explorer.step_size": {"loguniform": [0.1, 1]},
                "train.synthetic_ratio": {"uniform": [0, 1]},
                "explorer.steps": {"integers": [1, 3]},
                "explorer.anchors": {"choice": ["natural", "balanced", 0.5]},
            },
            "search": {"algorithm": "random", "trials": 3, "concurrent": 2, "controls": ["one_hot"]},
        },
    )
    assert again(config, tmp_path) == config
    assert again(SweepConfig(), tmp_path) == SweepConfig()


@pytest.mark.parametrize("file", SWEEP_FILES, ids=lambda file: file.name)
def test_shipped_sweeps_are_valid(file, tmp_path):
    config = validate(SweepConfig, load_yaml(file), str(file))
    assert again(config, tmp_path) == config
    assert file.read_text().startswith("#"), "the header says the command, runtime and score"


def test_shipped_experiments_are_valid(tmp_path):
    config = validate(Experiment, load_yaml(ROOT / "benchmarks" / "fashion_mnist_lt.yaml"))
    assert again(config, tmp_path) == config


def test_the_default_sweep_is_the_shipped_file():
    assert default_sweep() == yaml.safe_load(SWEEP_FILES[0].read_text())


# Refusals


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
    assert refusal(Experiment, {"train": {"qqqq": 1}}) == "train: unknown key 'qqqq'; legal: " + ", ".join(
        sorted(TrainConfig.model_fields)
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
        ("objective.temperature", 0, "greater than 0"),
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


@pytest.mark.parametrize("value", ["several", 1.5])
def test_a_wrong_value_of_a_key_that_takes_two_kinds_is_refused_with_its_own_path(value):
    message = refusal(SweepConfig, {"search": {"concurrent": value}})
    assert message.startswith("search.concurrent: ")
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


def test_parts_that_do_not_fit_together_are_refused():
    assert "window 1 is below actors 3" in refusal(Experiment, {"pool": {"actors": 3, "window": 1}})
    assert "batch_size 64 is not a multiple of workers 3" in refusal(Experiment, {"train": {"workers": 3}})


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


def test_a_grid_needs_choices():
    message = refusal(
        SweepConfig, {"search": {"algorithm": "grid"}, "space": {"train.synthetic_ratio": {"uniform": [0, 1]}}}
    )
    assert "space.train.synthetic_ratio: grid search needs a choice" in message


def test_unknown_metric_and_control_are_refused_with_the_nearest():
    assert "did you mean 'accuracy'?" in refusal(SweepConfig, {"search": {"metric": "acuracy"}})
    assert "did you mean 'one_hot'?" in refusal(SweepConfig, {"search": {"controls": ["onehot"]}})


@pytest.mark.parametrize(
    "content, expected",
    [(b"a: [1", "not valid YAML"), (b"- 1\n- 2\n", "expected a mapping"), (b"\xff\xfe\x00a", "not valid YAML")],
)
def test_a_file_that_is_no_yaml_mapping_is_refused(content, expected, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=expected) as refused:
        load_yaml(file)
    assert str(refused.value).startswith(str(file)) and "\n" not in str(refused.value)


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        load_yaml(tmp_path / "none.yaml")


def test_yaml_cannot_run_code(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("train: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_yaml(file)


# A user's own components


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


# Overrides


@pytest.mark.parametrize(
    "text, expected",
    [
        ("train.steps=500", ("train.steps", 500)),
        ("a.b=[1, 2]", ("a.b", [1, 2])),
        ("a=null", ("a", None)),
        ("a=x=y", ("a", "x=y")),
        ("a={type: random}", ("a", {"type": "random"})),
        ("a=1e-3", ("a", "1e-3")),  # YAML 1.1; pydantic reads it as a number all the same
    ],
)
def test_overrides_are_parsed_as_yaml(text, expected):
    assert parse_override(text) == expected


def test_a_number_in_scientific_notation_is_a_number():
    assert experiment(parse_override("train.learning_rate=1e-3")).train.learning_rate == 1e-3


@pytest.mark.parametrize("text", ["steps", "=5", "a..b=1", ".a=1", "a.=1", "a=[1"])
def test_a_malformed_override_is_refused(text):
    with pytest.raises(ConfigError) as refused:
        parse_override(text)
    assert str(refused.value).startswith(f"--set {text}: ")


def test_setting_another_type_starts_the_block_anew():
    config = experiment(("explorer.type", "interpolation"))
    assert config.explorer.type == "interpolation"
    assert "step_size" not in config.explorer.model_dump()
    kept = experiment(("explorer.step_size", 0.7), ("explorer.type", "gradient"))
    assert kept.explorer.step_size == 0.7, "the same type changes nothing else"


def test_an_override_below_a_value_is_refused():
    with pytest.raises(ConfigError, match=r"train\.steps\.more: "):
        with_overrides({"train": {"steps": 5}}, [("train.steps.more", 1)])


def test_an_override_leaves_the_original_alone():
    data = {"train": {"steps": 5}}
    assert override(data, "train.steps", 6) == {"train": {"steps": 6}}
    assert data == {"train": {"steps": 5}}


keys = st.text("abcde", min_size=1, max_size=3)
trees = st.recursive(st.integers(), lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=8)


@given(st.dictionaries(keys, trees, max_size=3), st.lists(keys, min_size=1, max_size=3), st.integers())
def test_what_is_overridden_is_found_there_and_nothing_else_changes(data, path, value):
    key = ".".join(path)
    try:
        out = override(data, key, value)
    except ConfigError:
        assert len(path) > 1  # some part of the way holds a number
        assume(False)
    assert lookup(out, key) == value
    before, after = {k: v for k, v in data.items() if k != path[0]}, {k: v for k, v in out.items() if k != path[0]}
    assert before == after


# Sweeps


def test_a_trial_gets_all_values_of_its_point():
    sweep = SweepConfig()
    trial = sweep.trial_experiment(
        {"train.synthetic_ratio": 0.25, "objective.temperature": 3.0, "explorer.step_size": 0.5}
    )
    assert (trial.train.synthetic_ratio, trial.objective.temperature, trial.explorer.step_size) == (0.25, 3.0, 0.5)
    assert trial.task == sweep.experiment.task


def test_a_trial_of_another_type_keeps_the_other_values_of_its_block():
    sweep = validate(
        SweepConfig,
        {
            "space": {
                "explorer.type": {"choice": ["gradient", "random-matched"]},
                "explorer.step_size": {"uniform": [0.1, 0.9]},
            }
        },
    )
    trial = sweep.trial_experiment({"explorer.type": "random-matched", "explorer.step_size": 0.123})
    assert trial.explorer.type == "random-matched"
    assert trial.explorer.step_size == 0.123


def test_a_grid_has_all_points():
    sweep = validate(
        SweepConfig,
        {
            "space": {
                "objective.temperature": {"choice": [1, 2, 4]},
                "explorer.type": {"choice": ["random", "gradient"]},
            },
            "search": {"algorithm": "grid", "controls": ["distillation"]},
        },
    )
    assert sweep.num_trials == 3 * 2 + 1
    points = {(p["objective.temperature"], p["explorer.type"]) for p in sweep.first_points()}
    assert points == {(t, e) for t in (1, 2, 4) for e in ("random", "gradient")}


def test_the_experiment_as_written_is_tried_first_where_the_space_holds_it():
    assert SweepConfig().first_points() == [
        {"train.synthetic_ratio": 0.5, "objective.temperature": 4.0, "explorer.step_size": 0.25}
    ]
    outside = validate(SweepConfig, {"space": {"train.synthetic_ratio": {"uniform": [0.6, 0.9]}}})
    assert outside.first_points() == []


def test_controls_make_no_rows_and_one_hot_has_no_teacher():
    for name in ("one_hot", "distillation"):
        assert not control(Experiment(), name).streams
        assert control(Experiment(), name).synthetic_ratio == 0
    assert control(Experiment(), "one_hot").objective.alpha == 0
    assert control(Experiment(), "distillation").objective == Experiment().objective
    with pytest.raises(ConfigError, match="legal are"):
        control(Experiment(), "other")


def test_where_anchors_have_no_labels_a_control_takes_them_as_they_are():
    task = {"type": "text_classification", "data": {"type": "parquet", "path": "x"}, "labelled": {"rows": 9}}
    text = {"type": "text_transformer"}
    teacher = {"labeler": text, "generator": {"type": "masked_lm"}}
    base = {"task": task, "teacher": teacher, "student": text, "explorer": {"type": "random", "anchors": "balanced"}}

    def controls(search=None, **changes):
        space = {"objective.temperature": {"uniform": [1, 2]}}
        return validate(SweepConfig, {"experiment": {**base, **changes}, "space": space, "search": search or {}})

    sweep = controls()
    assert sweep.search.controls == ["one_hot", "distillation", "anchors"] and sweep.num_trials == 15
    made = sweep.trial_experiment({"control": "anchors"})
    assert made.streams and made.explorer.type == "identity" and made.explorer.anchors == "balanced"
    assert made.objective == sweep.experiment.objective and made.teacher == sweep.experiment.teacher
    assert controls({"controls": ["one_hot"]}).search.controls == ["one_hot"]
    for other in ({"task": {**task, "unlabelled": "ignore"}}, {"explorer": {"type": "none"}}):
        assert controls(**other).search.controls == ["one_hot", "distillation"]
    assert SweepConfig().search.controls == ["one_hot", "distillation"]


# JSON Schema


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


# Fingerprints


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from(["train.steps", "train.seed", "train.warmup"]))
@settings(max_examples=30, deadline=None)
def test_fingerprints_are_equal_exactly_for_equal_content(a, b, key):
    scale = 1e-7 if key == "train.warmup" else 1
    first, second = experiment((key, a * scale)), experiment((key, b * scale))
    assert (first.fingerprint() == second.fingerprint()) == (a == b)
    assert first.fingerprint() == experiment((key, a * scale)).fingerprint()


def test_order_of_keys_does_not_change_a_fingerprint():
    one = validate(Experiment, {"train": {"steps": 5, "seed": 1}, "explorer": {"type": "random", "sigma": 1}})
    two = validate(Experiment, {"explorer": {"sigma": 1, "type": "random"}, "train": {"seed": 1, "steps": 5}})
    assert one.fingerprint() == two.fingerprint()


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_digests_keep_parts_apart(a, b):
    assume(not any(b"\0" in part for part in a + b))
    assert (digest(*a) == digest(*b)) == (a == b)


def test_nearest_names_something_legal():
    assert nearest("tempreature", ["temperature", "alpha"]) == "did you mean 'temperature'?"
    assert nearest("zzz", ["b", "a"]) == "legal: a, b"


def test_configs_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        Experiment().train.steps = 3


def test_generators_are_not_differentiable_unless_they_say_so():
    assert Generator.differentiable is False
    kinds = Literal["mlp_autoencoder", "conv_autoencoder"].__args__
    assert all(experiment(("teacher.generator.type", kind)).teacher.generator.differentiable for kind in kinds)


@pytest.mark.parametrize(
    "space, message",
    [
        ({"task.long_tail.head": {"choice": [40, 80]}}, "space.task.long_tail.head: the trials of a sweep share task"),
        (
            {"explorer.type": {"choice": ["random", "gradient"]}, "explorer.step_size": {"uniform": [0.1, 1]}},
            "step_size",
        ),
        ({"train.batch_size": {"uniform": [32, 129]}}, "space.train.batch_size = 80.5"),
    ],
)
def test_a_space_whose_values_do_not_fit_together_is_refused(space, message):
    with pytest.raises(ConfigError) as refused:
        validate(SweepConfig, {"space": space})
    assert message in str(refused.value)
