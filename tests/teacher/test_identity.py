"""The two names of a teacher's part: its recipe, by which it is found, and its identity, by which all else goes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.helpers.experiments import tiny
from tests.helpers.places import ROOT
from tgt_ray.core import formats, records
from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import Damaged
from tgt_ray.entrypoints import api
from tgt_ray.teacher import fingerprints
from tgt_ray.teacher.fingerprints import Shelf, check_same, stem, stored_teacher
from tgt_ray.teacher.labelers.base import Labeler
from tgt_ray.teacher.pretraining.config import Probe
from tgt_ray.teacher.pretraining.labelers import fit_linear_head
from tgt_ray.teacher.store import load_teacher, prepare_teacher

ROLES = ("labeler", "generator")
FIXTURES = ROOT / "tests/fixtures"


def made(digits, storage: Storage, *sets: tuple[str, object]) -> dict:
    config = tiny(*sets)
    return prepare_teacher(config.teacher, config.task, digits, storage)[1]


def weights(storage: Storage, record: dict, role: str = "labeler") -> Path:
    return Path(storage.path("teachers", f"{stem(role, record[role])}.safetensors"))


@pytest.fixture
def elsewhere(monkeypatch):
    """After a call of it, training gives other last digits, as another processor does."""

    def begin(also=lambda: None):
        def fit(self, model, *args, original=Labeler.fit):
            original(self, model, *args)
            with torch.no_grad():
                model.head.bias += 1e-6
            also()

        monkeypatch.setattr(Labeler, "fit", fit)

    return begin


def test_one_recipe_gives_one_identity(digits, own, tmp_path):
    first, second = made(digits, own), made(digits, Storage(tmp_path / "other"))
    for role in ROLES:
        assert first[role]["recipe"] == second[role]["recipe"]
        assert first[role]["identity"] == second[role]["identity"]
        assert first[role]["threads"] == 1


def test_lost_weights_become_the_same_again(digits, own, caplog):
    first = made(digits, own)
    weights(own, first).unlink()
    again = made(digits, own)
    assert not again["labeler"]["reused"] and again["generator"]["reused"]
    same = ("identity", "environment", "recipe")
    assert {key: again["labeler"][key] for key in same} == {key: first["labeler"][key] for key in same}
    assert "is missing; made again" in caplog.text and "by the same recipe" not in caplog.text
    assert stored_teacher(tiny().teacher, digits, own)


def test_another_identity_is_said_and_lies_beside_the_first(digits, own, elsewhere, caplog):
    first = made(digits, own)
    kept = weights(own, first).read_bytes()
    weights(own, first).unlink()
    elsewhere()
    other = made(digits, own)
    (line,) = [line for line in caplog.messages if "by the same recipe" in line]
    before, now = (each["labeler"]["identity"] for each in (first, other))
    assert (
        line.startswith(f"labeler: was {before} and is {now} now") and "can't go on until its weights are back" in line
    )
    assert other["labeler"]["recipe"] == first["labeler"]["recipe"]
    assert other["generator"]["recipe"] != first["generator"]["recipe"], "it was trained with another labeler"
    caplog.clear()
    third = made(digits, own)
    assert third["labeler"]["identity"] == now and third["labeler"]["reused"]
    assert f"{weights(own, first)}: is missing; labeler {now} is used" in caplog.messages
    weights(own, first).write_bytes(kept)
    assert [made(digits, own)[role]["identity"] for role in ROLES] == [first[role]["identity"] for role in ROLES]


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_of_parts_made_in_one_second_the_same_is_always_first(own, monkeypatch, names):
    recipe = fingerprints.Recipe("labeler", "k" * 16)
    for name in names:
        record = {"recipe": recipe.key, "identity": name * 16, "environment": {"created": "2026-01-01T00:00:00+00:00"}}
        records.write_json(own, formats.stamped("teacher", record), f"labeler-{recipe.key}-{name * 16}.json")
    shelf = Shelf(own, recipe, SimpleNamespace(stored=False))
    # Files come from a set, whose order differs between processes.
    monkeypatch.setattr(
        records,
        "find",
        lambda *args, find=records.find, names=list(names): find(
            *args[:2], f"labeler-{recipe.key}-{names.pop(0) * 16}.json"
        ),
    )
    assert shelf.find()[0]["identity"] == "a" * 16


def test_what_another_process_has_stored_meanwhile_is_used(digits, own, elsewhere, tmp_path, caplog):
    there = Storage(tmp_path / "there")
    first = made(digits, there)
    elsewhere(lambda: shutil.copytree(there.path("teachers"), own.path("teachers"), dirs_exist_ok=True))
    second = made(digits, own)
    assert [second[role]["identity"] for role in ROLES] == [first[role]["identity"] for role in ROLES]
    assert f"labeler: {first['labeler']['identity']} was stored meanwhile by the same recipe" in caplog.text
    assert sorted(Path(own.path("teachers")).iterdir()) == [
        Path(own.path("teachers", each.name)) for each in sorted(Path(there.path("teachers")).iterdir())
    ]


def test_whole_weights_of_another_teacher_are_found_and_made_again(digits, own, caplog):
    first, other = made(digits, own), made(digits, own, ("teacher.labeler.pretrain.seed", 1))
    # Written under the first one's name, with a checksum that fits.
    own.write(weights(own, other).read_bytes(), "teachers", weights(own, first).name)
    with pytest.raises(Damaged, match=f"it has the weights of {other['labeler']['identity']}, not of"):
        load_teacher(tiny().teacher, first, InputSpec((1, 8, 8)), 10, own)
    assert stored_teacher(tiny().teacher, digits, own) is None
    again = made(digits, own)
    assert sum("it has the weights of" in line and "made again" in line for line in caplog.messages) == 1
    assert again["labeler"]["identity"] == first["labeler"]["identity"]


def test_another_version_is_another_recipe_with_perhaps_the_same_identity(digits, own, monkeypatch):
    first = made(digits, own)
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "version", lambda package: "99.0")
        second = made(digits, own)
    for role in ROLES:
        assert second[role]["recipe"] != first[role]["recipe"]
        assert second[role]["identity"] == first[role]["identity"]


def test_settings_that_change_what_is_said_are_part_of_the_identity(digits, own):
    part = tiny(("teacher.labeler.pretrain.steps", 2)).teacher.labeler
    other = tiny(("teacher.labeler.widths", [4, 5])).teacher.labeler
    one, more_steps, wider = (
        fingerprints.identity_of(each, "labeler", "weights") for each in (tiny().teacher.labeler, part, other)
    )
    assert one == more_steps != wider


@pytest.mark.parametrize("before", [1, 2])
def test_the_machine_s_threads_do_not_count(digits, own, tmp_path, monkeypatch, before):
    seen = []

    def fit(self, *args, original=Labeler.fit):
        seen.append(torch.get_num_threads())
        original(self, *args)

    monkeypatch.setattr(Labeler, "fit", fit)
    expected = made(digits, own)
    usual = torch.get_num_threads()
    torch.set_num_threads(before)
    try:
        there = made(digits, Storage(tmp_path / "there"))
        assert torch.get_num_threads() == before
        two = made(digits, own, ("teacher.labeler.pretrain.threads", 2))
    finally:
        torch.set_num_threads(usual)
    assert seen == [1, 1, 2]
    assert [there[role]["identity"] for role in ROLES] == [expected[role]["identity"] for role in ROLES]
    assert two["labeler"]["recipe"] != expected["labeler"]["recipe"] and two["labeler"]["threads"] == 2


def test_a_process_with_other_threads_makes_the_same_teacher(digits, own, tmp_path):
    code = (
        "import sys, torch; from tests.helpers.experiments import tiny; from tgt_ray.core.storage import Storage\n"
        "from tgt_ray.teacher.store import prepare_teacher\n"
        "torch.set_num_threads(2); config = tiny()\n"
        "made = prepare_teacher(config.teacher, config.task, config.task.load(), Storage(sys.argv[1]))[1]\n"
        "print(made['labeler']['identity'], made['generator']['identity'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "there")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240, cwd=ROOT)
    record = made(digits, own)
    assert done.stdout.split() == [record[role]["identity"] for role in ROLES]


@pytest.fixture
def old(tmp_path) -> Storage:
    shutil.copytree(FIXTURES / "format_1", tmp_path / "storage")
    return Storage(tmp_path / "storage")


def test_a_teacher_of_an_older_version_gets_an_identity_once(old, caplog):
    experiment = records.read_json(old, "old-run", "record.json")["experiment"]
    first, second = (api.run(experiment, storage=old.root, name=name, local=True).record for name in "ab")
    for role in ROLES:
        (file,) = Path(old.path("teachers")).glob(f"{role}-*.json")
        stored = json.loads(file.read_text())
        assert stored["format"] == 2 and stored["identity"] == first["fingerprints"][role]
        assert file.stem == f"{role}-{stored['fingerprint']}" and "recipe" not in stored
        assert first["teacher"][role]["reused"] and "threads" not in first["teacher"][role]
    assert second["fingerprints"] == first["fingerprints"]


def test_records_of_older_versions_are_recognised_or_refused_with_their_version(old):
    record = records.read_json(old, "old-run", "record.json")
    prepared = api.run(record["experiment"], storage=old.root, name="a", local=True).record
    check_same(record, prepared["fingerprints"], prepared["teacher"], "run")
    for file in Path(old.path("teachers")).glob("labeler-*"):
        file.unlink()
    with pytest.raises(ConfigError) as refused:
        api.run(storage=old.root, name="old-run", local=True, resume=True)
    assert str(refused.value).startswith(
        "--resume: labeler has changed since the run was started; its record has format 1, written by tgt-ray 0.1.0"
    )
    assert records.read_json(old, "old-run", "record.json") == record, "it is left as it was"


def test_a_fitted_head_does_not_depend_on_the_machine_s_threads():
    torch.manual_seed(0)
    inputs, labels = torch.randn(3000, 96), torch.arange(3000) % 7
    usual, heads = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            model = torch.nn.Module()
            model.backbone, model.head = torch.nn.Identity(), torch.nn.Linear(96, 7)
            fit_linear_head(model, inputs, labels, Probe())
            heads.append(model.head.weight.detach())
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(usual)
    assert torch.equal(*heads)
