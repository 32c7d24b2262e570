"""Settings that nobody means, and texts that look like YAML: used as they are written, or refused in one line."""

import pytest

from tests.helpers.configs import experiment
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import load_yaml, parse_override
from tgt_ray.core.storage import Storage
from tgt_ray.entrypoints import api
from tgt_ray.sweeps.config import SweepConfig


@pytest.mark.parametrize(
    "text",
    [
        "query ",
        " query",
        "/data/run #3",
        "#3",
        "#",
        "&x y",
        "*a",
        "*.txt",
        "|",
        ">",
        "a  b",
        "query: ",
        "it's",
        'say "x" ',
        "~x",
        "1 2",
        "yes",
    ],
)
def test_a_text_of_an_override_stays_as_written(text):
    assert parse_override(f"a.b={text}") == ("a.b", text)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("'query '", "query "),
        ('"a\\tb"', "a\tb"),
        ("'x' # why", "x"),
        ('"5"', "5"),
        ("'*a'", "*a"),
        ("!!str 5", "5"),
        ("5 # five", 5),
        (" 5 ", 5),
        ("1e-3 ", 0.001),
        ("true ", True),
        ("", None),
        (" ", None),
        ("null", None),
        ("~", None),
        ("[a , 'b ', 3]", ["a", "b ", 3]),
        ("{a: b } # c", {"a": "b"}),
        ("- a", ["a"]),
        ("&x [1, 2]", [1, 2]),
        ("[&x 1, *x]", [1, 1]),
        ("|\n a\n b", "a\nb"),
    ],
)
def test_other_values_of_an_override_are_yaml(written, value):
    assert parse_override(f"a.b={written}") == ("a.b", value)


TAGGED = [
    "!!bool maybe",
    "!!bool ''",
    "!!int x",
    "!!int ''",
    "!!float x",
    "!!float ''",
    "!!timestamp 5",
    "!!timestamp 2020-01-01",
    "&a [*a]",
    "&a {b: *a}",
    "&a [[1, *a]]",
    "!!set 5",
    "!!map x",
    "!!binary é",
]


@pytest.mark.parametrize("value", TAGGED)
def test_a_value_that_is_not_what_its_tag_says_is_refused(value, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(f"train: {{steps: {value}}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid YAML") as refused:
        load_yaml(file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [each for each in TAGGED if not each.startswith("&a {")])
def test_such_a_value_of_an_override_is_refused(value):
    with pytest.raises(ConfigError, match="the value is not valid YAML"):
        parse_override(f"train.steps={value}")


def test_tags_that_fit_are_read(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("a: !!bool yes\nb: !!float 3\nc: !!int 0x1f\nd: &d [1]\ne: [*d, *d]\n")
    assert load_yaml(file) == {"a": True, "b": 3.0, "c": 31, "d": [1], "e": [[1], [1]]}


BIG = 9999999999999999999999999


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.steps", BIG),
        ("train.steps", 10**9 + 1),
        ("train.eval_every", BIG),
        pytest.param("train.eval_every", 16**5000, id="digits"),
        ("train.max_failures", -BIG),
        ("train.workers", 2**21),
        ("train.learning_rate", 1e300),
        ("train.weight_decay", 1e300),
        ("pool.window", 10**12),
        ("pool.gpus_per_actor", 1e300),
        ("student.widths", [8, BIG]),
        ("teacher.labeler.pretrain.steps", BIG),
        ("explorer", {"type": "random", "sigma": 1e300}),
        ("explorer", {"type": "gradient", "sigma": 1e300}),
        ("explorer", {"type": "gradient", "step_size": 1e300}),
        ("explorer", {"type": "random-matched", "steps": 10**12}),
        ("objective", {"type": "distillation", "temperature": 1e300}),
        ("objective", {"type": "distillation", "posthoc_adjustment": 1e300}),
        ("objective", {"type": "distillation", "conformal": {"gamma": 1e300}}),
        ("objective", {"type": "lelp", "temperature": 1e300}),
        ("objective", {"type": "consistency", "weight": 1e300}),
        ("objective", {"type": "embed_distill", "temperature": 1e300}),
        ("objective.label_loss", {"type": "logit_adjusted", "tau": 1e300}),
    ],
)
def test_a_number_beyond_all_sense_is_refused(key, value):
    with pytest.raises(ConfigError, match=key.split(".")[0]) as refused:
        experiment((key, value))
    assert "\n" not in str(refused.value) and "got" in str(refused.value)


def test_large_numbers_that_make_sense_are_taken():
    config = experiment(
        ("train.steps", 10**9),
        ("train.eval_every", 10**12),
        ("train.max_failures", 10**9),
        ("explorer", {"type": "random", "sigma": 1e6}),
        ("objective", {"type": "distillation", "temperature": 1e6}),
    )
    assert config.train.steps == 10**9 and config.explorer.sigma == 1e6


def test_a_space_with_integers_beyond_all_sense_is_refused():
    for high in (99999999999999999999, 10**10):
        with pytest.raises(ConfigError, match=r"space\.train\.steps"):
            validate(SweepConfig, {"space": {"train.steps": {"integers": [1, high]}}})


@pytest.mark.parametrize("key", ["student", "teacher.labeler", "teacher.generator"])
def test_widths_that_no_memory_holds_are_refused(key):
    kind = "conv_autoencoder" if key == "teacher.generator" else "conv"
    with pytest.raises(
        ConfigError, match=rf"{key}\.widths: .* are 7\.7e\+10 weights .* 288 GiB; the most is 4\.3e\+09"
    ):
        experiment((key, {"type": kind, "widths": [65536, 65536, 65536]}))
    assert experiment((key, {"type": kind, "widths": [8192, 8192, 16, 65536]}))


def test_a_storage_whose_name_is_not_utf8_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--storage .*a.udce9: the folder's name is not UTF-8"):
        Storage(f"{tmp_path}/a\udce9")
    with pytest.raises(ConfigError, match="--storage "):
        Storage(f"file://{tmp_path}/a\udce9")
    assert Storage(f"{tmp_path}/\u00e9").exists() is False


@pytest.mark.parametrize(
    ("below", "says"), [("", "FILE: is a file; give a folder"), ("/x/y", r"cannot write there \(.*FILE is a file\)")]
)
def test_a_file_in_the_place_of_the_storage_is_named(below, says, tmp_path):
    (tmp_path / "FILE").touch()
    with pytest.raises(ConfigError, match=f"--storage .*{says}"):
        Storage(f"{tmp_path}/FILE{below}").check_writable()
    with pytest.raises(ConfigError, match=f"--storage .*{says}"):
        api.read_data({}, f"{tmp_path}/FILE{below}")


def test_a_storage_that_is_not_there_yet_is_no_fault(tmp_path):
    Storage(tmp_path / "a" / "b").check_folder()
    assert list(tmp_path.iterdir()) == []
