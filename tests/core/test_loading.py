"""Configs in YAML, and overrides of their values."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.helpers.configs import EXPLORERS, again, experiment
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import kept_by_new_types, load_yaml, override, parse_override, with_overrides
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps.space import lookup


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


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"a: [1", "not valid YAML"),
        (b"- 1\n- 2\n", "expected a mapping"),
        (b"\xff\xfea", "not valid YAML"),
        (b"a: \xe9", "not valid YAML"),
        (b"[" * 20_000, "too many levels"),
        (b"a: " + b"9" * 6000, "not valid YAML"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"train: {}\nstudent: {}\ntrain: {}", "the key 'train' is given twice, in lines 1 and 3"),
        (b"train:\n  steps: 1\n  steps: 1", "the key 'steps' is given twice, in lines 2 and 3"),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_refused(content, expected, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=expected) as refused:
        load_yaml(file)
    assert str(refused.value).startswith(str(file)) and "\n" not in str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_of_any_editor_are_read(encoding, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes("# é\ntrain: {steps: 2}\n".encode(encoding))
    assert load_yaml(file) == {"train": {"steps": 2}}
    file.write_text("# nothing but a comment\n")
    assert load_yaml(file) == {}


def test_what_is_merged_in_may_be_set_again(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("a: &base {b: 1, c: 2}\nd:\n  <<: *base\n  b: 3\n")
    assert load_yaml(file)["d"] == {"b": 3, "c": 2}


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        load_yaml(tmp_path / "none.yaml")


def test_yaml_cannot_run_code(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("train: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_yaml(file)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("train.steps=500", ("train.steps", 500)),
        ("a.b=[1, 2]", ("a.b", [1, 2])),
        ("a=null", ("a", None)),
        ("a=x=y", ("a", "x=y")),
        ("a={type: random}", ("a", {"type": "random"})),
        ("a=1e-3", ("a", 0.001)),
        ("a=[1e-3, -2E4, .5, 1_000, 0x1f, 010]", ("a", [0.001, -20000.0, 0.5, 1000, 31, 10])),
        ("a=[yes, no, on, 2020-01-01, 1:30, true]", ("a", ["yes", "no", "on", "2020-01-01", "1:30", True])),
        ("a=query: ", ("a", "query: ")),
        ("a={query: x}", ("a", {"query": "x"})),
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


@pytest.mark.parametrize(
    ("written", "sets", "kept", "left_out"),
    [
        (
            {"task": {"type": "image_classification", "data": {"type": "folder", "path": "a", "size": 32, "seed": 4}}},
            [("task.data.type", "parquet")],
            {"task.data.path", "task.data.seed"},
            {"task.data.type": ["size"]},
        ),
        (
            {"explorer": {"type": "gradient", "sigma": 0.5, "anchors": "balanced", "step_size": 0.3}},
            [("explorer.type", "random")],
            {"explorer.sigma", "explorer.anchors"},
            {"explorer.type": ["step_size"]},
        ),
        ({"explorer": {"type": "random", "sigma": 0.5}}, [("explorer.type", "gradient")], {"explorer.sigma"}, {}),
        ({"explorer": {"type": "random", "sigma": 0.5}}, [("explorer.type", "random")], set(), {}),
        ({"explorer": {"type": "random", "sigma": 0.5}}, [("explorer.type", "nothing-such")], set(), {}),
        ({"explorer": {"type": "random", "sigma": 0.5}}, [("explorer.type", "no.module:Class")], set(), {}),
        ({}, [("explorer.type", "random"), ("train.steps", 3)], set(), {}),
    ],
)
def test_keys_that_a_new_type_knows_stay_and_others_are_named(written, sets, kept, left_out):
    found, lost = kept_by_new_types(validate(Experiment, written), written, sets)
    assert {key for key, _ in found} == kept and lost == left_out
