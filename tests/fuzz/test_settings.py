"""Settings of all kinds, good and bad: good ones are taken as they stand, bad ones are refused in one short line."""

import copy

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.runs import fuzzed
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import dump_yaml, load_yaml, parse_override, parse_yaml, with_overrides
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps.config import SweepConfig, default_sweep

PLAIN = Experiment().model_dump(mode="json")
LONGEST = 1200
#: Values that every experiment takes at these keys.
GOOD = {
    "train.steps": st.integers(1, 10**6),
    "train.seed": st.integers(0, 2**32 - 1),
    "train.synthetic_ratio": st.floats(0, 1),
    "train.learning_rate": st.floats(1e-8, 10),
    "train.optimizer": st.sampled_from(["adamw", "sgd"]),
    "train.sampling": st.sampled_from(["natural", "square_root", "balanced"]),
    "train.augment": st.none() | st.fixed_dictionaries({"shift": st.integers(0, 4), "flip": st.booleans()}),
    "objective.temperature": st.floats(0.1, 100),
    "explorer.step_size": st.floats(0, 10),
    "pool.rows_per_request": st.integers(1, 10_000),
    "fit_check.minimum": st.floats(0, 100),
}


def keys(data: dict, above: str = "") -> list[str]:
    out = []
    for key, value in data.items():
        out.append(f"{above}{key}")
        if isinstance(value, dict):
            out += keys(value, f"{above}{key}.")
    return out


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=True),
    st.text(max_size=30),
    st.sampled_from(["", "\0", "a" * 6000, "../..", "~nobody", "1e-3", "$(x)", "[/b]", "é", "\ud83d", "yes", "null"]),
    st.lists(st.integers(-5, 5), max_size=4),
    st.dictionaries(st.text(max_size=8), st.integers(), max_size=3),
    st.recursive(st.integers(), lambda inner: st.lists(inner, max_size=2), max_leaves=20),
)


def one_line(err: ConfigError) -> None:
    said = str(err)
    assert said and len(said.splitlines()) == 1 and len(said) < LONGEST, said


@fuzzed()
@given(st.data())
def test_good_values_are_taken_as_they_stand(data):
    chosen = data.draw(st.lists(st.sampled_from(sorted(GOOD)), min_size=1, max_size=5, unique=True))
    sets = [(key, data.draw(GOOD[key], label=key)) for key in chosen]
    config = validate(Experiment, with_overrides(copy.deepcopy(PLAIN), sets))
    taken = config.model_dump(mode="json")
    for key, value in sets:
        found = taken
        for part in key.split("."):
            found = found[part]
        assert found == value or (isinstance(value, dict) and value.items() <= found.items()), key
    again = validate(Experiment, parse_yaml(dump_yaml(config).encode(), "again"))
    assert again == config and again.fingerprint() == config.fingerprint()


@fuzzed()
@given(st.sampled_from(sorted(keys(PLAIN))), ODD)
def test_any_value_is_taken_or_refused_in_a_line(key, value):
    try:
        config = validate(Experiment, with_overrides(copy.deepcopy(PLAIN), [(key, value)]), "e.yaml")
    except ConfigError as err:
        one_line(err)
    else:
        dump_yaml(config)
        config.fingerprint()


@fuzzed()
@given(st.sampled_from(sorted(keys(PLAIN))), st.sampled_from(["choice", "uniform", "loguniform", "integers"]), ODD, ODD)
def test_any_space_is_taken_or_refused_in_a_line(key, kind, low, high):
    plain = default_sweep()
    plain["space"] = {key: {kind: [low, high]}}
    try:
        sweep = validate(SweepConfig, plain, "s.yaml")
    except ConfigError as err:
        one_line(err)
    else:
        assert sweep.num_trials > 0
        for point in sweep.first_points():
            sweep.trial_experiment(point)


@fuzzed()
@given(st.data())
def test_any_bytes_are_read_or_refused_in_a_line(data):
    content = bytearray(yaml.safe_dump(PLAIN).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        how = data.draw(st.sampled_from(["change", "cut", "insert", "repeat"]))
        if how == "change":
            content[place] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del content[place : place + data.draw(st.integers(1, 40))]
        elif how == "insert":
            content[place:place] = data.draw(st.binary(max_size=5))
        else:
            content[place:place] = content[place : place + 60]
        if not content:
            break
    try:
        validate(Experiment, parse_yaml(bytes(content), "e.yaml"), "e.yaml")
    except ConfigError as err:
        one_line(err)


@fuzzed()
@given(st.text(max_size=40))
def test_any_option_is_read_or_refused_in_a_line(text):
    try:
        key, value = parse_override(text)
        validate(Experiment, with_overrides(copy.deepcopy(PLAIN), [(key, value)]), "--set")
    except ConfigError as err:
        one_line(err)


@pytest.mark.parametrize(
    "content", [b"\x00", b"\xff\xfe", b"a: &a [*a]", b"? [1]: 2", b"!!int x", b"- - - -", b"%YAML 9"]
)
def test_files_that_have_failed(content, tmp_path):
    file = tmp_path / "e.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        validate(Experiment, load_yaml(file), str(file))
    one_line(refused.value)
