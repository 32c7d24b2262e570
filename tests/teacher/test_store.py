"""What keeps a teacher: pretrained once, found again, and loaded from weights that the user gives."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import safetensors.torch
import torch

from tests.helpers.experiments import tiny
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.tasks import with_calibration
from tgt_ray.teacher.fingerprints import stem, stored_teacher
from tgt_ray.teacher.generators.autoencoders import Autoencoder
from tgt_ray.teacher.labelers.base import Labeler
from tgt_ray.teacher.store import load_teacher, prepare_teacher


def make(config: Experiment, digits, storage: Storage):
    return prepare_teacher(config.teacher, config.task, digits, storage)


@pytest.fixture
def fits(monkeypatch) -> list[str]:
    """The roles that are pretrained during a test."""
    seen = []
    for role, cls in (("labeler", Labeler), ("generator", Autoencoder)):

        def fit(self, *args, role=role, original=cls.fit):
            seen.append(role)
            return original(self, *args)

        monkeypatch.setattr(cls, "fit", fit)
    return seen


def states_equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_teacher_is_pretrained_once_and_reused(digits, own, fits):
    first, record = make(tiny(), digits, own)
    assert fits == ["labeler", "generator"]
    again, second = make(tiny(), digits, own)
    assert fits == ["labeler", "generator"]
    for role in ("labeler", "generator"):
        assert record[role]["reused"] is False and second[role]["reused"] is True
        assert {**second[role], "reused": False} == record[role]
        assert record[role]["pretrained_on"] == "full"
        assert states_equal(getattr(first, role), getattr(again, role))
        assert not any(p.requires_grad for p in getattr(again, role).parameters())
        assert not getattr(again, role).training


def test_of_two_commands_that_need_a_teacher_one_makes_it_and_the_other_waits_and_says_so(
    digits, own, fits, caplog, monkeypatch
):
    caplog.set_level("INFO", "tgt_ray")
    original = Labeler.fit
    begun = threading.Event()

    def slow(self, *args):
        begun.set()
        time.sleep(1.5)
        return original(self, *args)

    monkeypatch.setattr(Labeler, "fit", slow)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(make, tiny(), digits, own)
        assert begun.wait(60)
        second = threads.submit(make, tiny(), digits, own)
        records = [each.result()[1] for each in (first, second)]
    assert fits == ["labeler", "generator"], "once"
    assert records[0]["labeler"]["identity"] == records[1]["labeler"]["identity"]
    assert records[1]["labeler"]["reused"]
    (waits,) = [
        each for each in caplog.messages if each.startswith("labeler: another command makes it already (running")
    ]
    assert waits.endswith("; waits for it")


def test_pretraining_repeats_exactly(digits, tmp_path):
    one, _ = make(tiny(), digits, Storage(tmp_path / "one"))
    torch.manual_seed(77)
    two, _ = make(tiny(), digits, Storage(tmp_path / "two"))
    assert states_equal(one.labeler, two.labeler) and states_equal(one.generator, two.generator)


@pytest.mark.parametrize(
    "change, remade",
    [
        (("teacher.labeler.pretrain.seed", 1), ["labeler", "generator"]),
        (("teacher.labeler.pretrain.steps", 2), ["labeler", "generator"]),
        (("teacher.generator.pretrain.learning_rate", 0.001), ["generator"]),
        (("teacher.generator.latent_dim", 3), ["generator"]),
        (("teacher.generator.pretrain.split", "train"), ["generator"]),
        (("train.seed", 3), []),
        (("explorer.type", "random"), []),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_changed_setting_makes_anew_what_depends_on_it(digits, own, fits, change, remade):
    _, before = make(tiny(), digits, own)
    fits.clear()
    _, after = make(tiny(change), digits, own)
    assert fits == remade
    for role in ("labeler", "generator"):
        assert (before[role]["recipe"] != after[role]["recipe"]) == (role in remade)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_any_number_of_pretraining_steps_will_do(digits, own, steps):
    config = tiny(("teacher.labeler.pretrain.steps", steps), ("teacher.generator.pretrain.steps", steps))
    teacher, _ = make(config, digits, own)
    assert all(torch.isfinite(value).all() for value in teacher.labeler.state_dict().values())


def test_other_data_make_another_teacher(digits, own, fits):
    _, before = make(tiny(), digits, own)
    fits.clear()
    less = {**digits.tables, "full": digits.tables["full"].slice(0, 500)}
    other = type(digits)(less, 10, (1, 8, 8), {**digits.fingerprints, "full": "another"})
    _, after = make(tiny(), other, own)
    assert fits == ["labeler", "generator"]
    assert before["labeler"]["identity"] != after["labeler"]["identity"]
    fits.clear()
    make(tiny(), type(digits)(digits.tables, 10, (1, 8, 8), {**digits.fingerprints, "train": "x"}), own)
    assert fits == [], "the students' split is not what a teacher on `full` depends on"


def test_a_teacher_is_measured_again_on_other_rows_and_not_trained(digits, own, fits):
    _, before = make(tiny(), digits, own)
    tables = {**digits.tables, "test": digits.tables["test"].slice(0, 50)}
    fewer = type(digits)(tables, 10, (1, 8, 8), {**digits.fingerprints, "test": "fewer"})
    fits.clear()
    for _ in range(2):
        _, after = make(tiny(), fewer, own)
        assert after["labeler"]["quality"]["test"] != before["labeler"]["quality"]["test"]
        assert after["labeler"]["quality"]["validation"] == before["labeler"]["quality"]["validation"]
        assert after["generator"] == {**before["generator"], "reused": True}
    assert fits == []
    assert after["labeler"]["identity"] == before["labeler"]["identity"]
    kept = json.loads(own.read("teachers", f"{stem('labeler', after['labeler'])}.json"))
    assert kept["quality"] == after["labeler"]["quality"]
    _, again = make(tiny(), digits, own)
    assert again["labeler"]["quality"] == before["labeler"]["quality"]


def test_a_teacher_that_was_measured_on_other_rows_is_not_ready(digits, own, fits):
    """As where runs with and without calibration rows take turns on one storage."""
    config = tiny()
    fewer = with_calibration(config.task, digits, 9)
    seen = {}
    for data in (digits, fewer):
        seen[id(data)] = make(config, data, own)[1]["labeler"]["quality"]
    fits.clear()
    assert seen[id(digits)]["validation"] != seen[id(fewer)]["validation"]
    for data in (digits, fewer, digits):
        found = stored_teacher(config.teacher, data, own) or make(config, data, own)[1]
        assert found["labeler"]["quality"] == seen[id(data)]
        again = stored_teacher(config.teacher, data, own)
        assert again == found, "measured once, it is found without torch"
    assert fits == []


def test_the_teacher_learns_from_the_named_split(digits, own, monkeypatch):
    sizes = []
    monkeypatch.setattr(Labeler, "fit", lambda self, model, inputs, labels: sizes.append(len(inputs)))
    make(tiny(), digits, own)
    make(tiny(("teacher.labeler.pretrain.split", "train")), digits, own)
    assert sizes == [digits.tables["full"].num_rows, digits.tables["train"].num_rows]


def test_the_record_says_how_good_the_teacher_is(prepared):
    teacher = prepared.prepared.teacher
    assert teacher["labeler"]["quality"]["test"]["balanced_accuracy"] > 90
    assert teacher["generator"]["quality"]["validation"]["labeler_agreement"] > 60
    assert 0 < teacher["generator"]["quality"]["validation"]["reconstruction_mse"] < 0.06
    assert teacher["labeler"]["seconds"] > 0 and "packages" in teacher["labeler"]["environment"]


def test_a_teacher_loads_without_its_data(digits, own):
    made, record = make(tiny(), digits, own)
    loaded = load_teacher(tiny().teacher, record, InputSpec((1, 8, 8)), 10, own)
    assert states_equal(made.labeler, loaded.labeler) and states_equal(made.generator, loaded.generator)
    assert not any(p.requires_grad for p in loaded.labeler.parameters()) and not loaded.generator.training


def weights_file(folder, widths=(4, 4), change=lambda state: state):
    torch.manual_seed(5)
    config = tiny(("teacher.labeler.widths", list(widths))).teacher.labeler
    state = config.build(InputSpec((1, 8, 8)), 10).state_dict()
    file = folder / "labeler.safetensors"
    safetensors.torch.save_file(change({k: v.contiguous() for k, v in state.items()}), file)
    return file, state


def test_given_weights_are_loaded_and_not_pretrained(digits, own, fits, tmp_path):
    file, state = weights_file(tmp_path)
    config = tiny(("teacher.labeler.weights", str(file)))
    teacher, record = make(config, digits, own)
    assert fits == ["generator"]
    assert all(torch.equal(value, teacher.labeler.state_dict()[key]) for key, value in state.items())
    assert record["labeler"]["weights"] == str(file) and "pretrained_on" not in record["labeler"]
    loaded = load_teacher(config.teacher, record, InputSpec((1, 8, 8)), 10, own)
    assert states_equal(loaded.labeler, teacher.labeler)


def test_other_weights_have_another_fingerprint(digits, own, tmp_path):
    file, _ = weights_file(tmp_path)
    config = tiny(("teacher.labeler.weights", str(file)))
    _, one = make(config, digits, own)
    weights_file(tmp_path, change=lambda state: {k: v + 1 for k, v in state.items()})
    _, two = make(config, digits, own)
    assert one["labeler"]["identity"] != two["labeler"]["identity"]


def without_last(state):
    *kept, _ = state
    return {key: state[key] for key in kept}


@pytest.mark.parametrize(
    "widths, change, expected",
    [
        ((4, 6), lambda s: s, "first difference at 'backbone.layers.4.weight': [6, 4, 3, 3], expected [4, 4, 3, 3]"),
        ((4, 4), without_last, "first difference at 'head.bias': absent, expected [10]"),
        ((4, 4), lambda s: {**s, "more": torch.ones(2)}, "first difference at 'more': [2], expected absent"),
    ],
)
def test_weights_of_another_architecture_are_refused_with_the_first_difference(
    digits, own, tmp_path, widths, change, expected
):
    file, _ = weights_file(tmp_path, widths, change)
    with pytest.raises(ConfigError) as refused:
        make(tiny(("teacher.labeler.weights", str(file))), digits, own)
    assert str(refused.value).startswith(f"teacher.labeler.weights: {file}: ")
    assert expected in str(refused.value)
    assert not own.exists("teachers"), "nothing is stored"


@pytest.mark.parametrize("keep", [0, 5, 60, -10])
def test_truncated_weights_are_refused(digits, own, tmp_path, keep):
    file, _ = weights_file(tmp_path)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=r"not a whole safetensors file|is empty") as refused:
        make(tiny(("teacher.labeler.weights", str(file))), digits, own)
    assert str(file) in str(refused.value) and "\n" not in str(refused.value)


def test_absent_weights_are_refused(digits, own):
    with pytest.raises(ConfigError, match=r"teacher\.labeler\.weights: cannot read /nowhere/w\.safetensors"):
        make(tiny(("teacher.labeler.weights", "/nowhere/w.safetensors")), digits, own)


def test_a_truncated_file_in_the_store_is_named_and_made_again(digits, own, caplog):
    teacher, record = make(tiny(), digits, own)
    name = f"{stem('labeler', record['labeler'])}.safetensors"
    own.write(own.read("teachers", name)[:-30], "teachers", name)
    again, made = make(tiny(), digits, own)
    assert f"{own.where('teachers', name)}: is damaged (" in caplog.text and "made again" in caplog.text
    assert not made["labeler"]["reused"] and made["generator"]["reused"]
    before, after = (each.labeler.state_dict() for each in (teacher, again))
    assert all(torch.equal(before[key], after[key]) for key in before)
