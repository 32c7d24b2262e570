"""Two identities of one recipe lie in the storage: what goes on keeps to the one that it began with."""

import io
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from tests.helpers.experiments import changed, short, tiny
from tests.helpers.owners import held
from tests.helpers.pretrained import NAME, labeler, timm_file
from tests.helpers.stops import interrupted
from tgt_ray.core import environment, records
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.distributed import teacher_tasks
from tgt_ray.entrypoints import api
from tgt_ray.sweeps import driver
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.journal import Journal
from tgt_ray.teacher import fingerprints
from tgt_ray.teacher.fingerprints import ROLES, Begun
from tgt_ray.teacher.labelers.base import Labeler
from tgt_ray.teacher.store import LabelerMaker, prepare_teacher
from tgt_ray.teacher.transfer_set import rows_of_students
from tgt_ray.training.local import prepare_local

EXPERIMENT = short(tiny(("explorer.type", "random"), ("fit_check.rows", 16)))


@pytest.fixture
def trained(monkeypatch) -> SimpleNamespace:
    """Counts trainings of labelers; with `shift` they give other last digits, as another processor does."""
    out = SimpleNamespace(count=0, shift=0.0)

    def fit(self, model, *args, original=Labeler.fit):
        original(self, model, *args)
        with torch.no_grad():
            model.head.bias += out.shift
        out.count += 1

    monkeypatch.setattr(Labeler, "fit", fit)
    return out


def identities(record: dict) -> list[str]:
    return [record["teacher"][role]["identity"] for role in ROLES]


def files(storage: Storage, identity: str) -> list[Path]:
    found = sorted(Path(storage.path("teachers")).glob(f"*-{identity}.*"))
    assert found
    return found


@contextmanager
def away(storage: Storage, identity: str, kinds: tuple[str, ...] = (".json", ".safetensors")):
    """Take the files of a part away for a while."""
    kept = {file: file.read_bytes() for file in files(storage, identity) if file.suffix in kinds}
    for file in kept:
        file.unlink()
    yield
    for file, content in kept.items():
        file.write_bytes(content)


def run(storage: Storage, name: str, **how) -> dict:
    given = () if how.get("resume") else (EXPERIMENT,)
    return api.run(*given, storage=storage.root, name=name, local=True, **how).record


def stopped(storage: Storage, name: str, monkeypatch) -> None:
    """Begin a run, and interrupt it at its first report."""
    with monkeypatch.context() as patch:
        patch.setattr(api, "_log_report", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(storage, name)


@pytest.fixture
def two(own, trained, monkeypatch) -> SimpleNamespace:
    """A storage with two teachers of one recipe: run "a" has the first; "b" and "c", which was stopped, the second."""
    first = identities(run(own, "a"))
    trained.shift = 1e-6
    with away(own, first[0], (".safetensors",)):
        second = identities(run(own, "b"))
        stopped(own, "c", monkeypatch)
    assert first[0] != second[0]
    trained.count = 0
    return SimpleNamespace(first=first, second=second)


def test_a_run_goes_on_with_the_teacher_that_it_began_with(own, two, trained):
    assert identities(run(own, "new")) == two.first
    assert [identities(run(own, name, resume=True)) for name in "abc"] == [two.first, two.second, two.second]
    assert trained.count == 0


@pytest.mark.parametrize("name", ["b", "c"])
def test_where_its_teacher_is_gone_a_run_is_refused_before_another_is_trained(own, two, trained, name):
    before = {file: file.read_bytes() for file in Path(own.path(name)).rglob("*") if file.is_file()}
    with away(own, two.second[0]):
        there = sorted(Path(own.path("teachers")).iterdir())
        with pytest.raises(ConfigError) as refused:
            run(own, name, resume=True)
        assert sorted(Path(own.path("teachers")).iterdir()) == there
    assert str(refused.value) == (
        f"--resume: the run was begun with labeler {two.second[0]}, whose weights are not whole in"
        f" {own.where('teachers')}; {two.first[0]}, which is there, is another one; restore its files there, or start"
        " a new run"
    )
    assert trained.count == 0
    assert {file: file.read_bytes() for file in Path(own.path(name)).rglob("*") if file.is_file()} == before
    assert identities(run(own, name, resume=True)) == two.second, "its files are back"


@pytest.mark.parametrize("role", ROLES)
def test_a_teacher_that_is_made_from_the_same_here_is_made_again(own, trained, role, monkeypatch):
    stopped(own, "a", monkeypatch)
    (record,) = [records.read_json(own, "teachers", file.name) for file in _records(own, role)]
    with away(own, record["identity"], (".safetensors",)):
        assert record["identity"] in identities(run(own, "a", resume=True))


def _records(storage: Storage, role: str) -> list[Path]:
    return list(Path(storage.path("teachers")).glob(f"{role}-*.json"))


@pytest.mark.parametrize("kinds", [(".safetensors",), (".json", ".safetensors")])
def test_one_of_another_processor_is_not_made_again(digits, own, trained, monkeypatch, kinds):
    config = tiny()
    record = prepare_teacher(config.teacher, config.task, digits, own)[1]
    before = {"fingerprints": {role: record[role]["identity"] for role in ROLES}, "teacher": record}
    monkeypatch.setattr(fingerprints, "cpu_model", lambda: "Another 9000")
    with away(own, record["labeler"]["identity"], kinds):
        with pytest.raises(ConfigError, match=rf"it was made on another processor \({environment.cpu_model()}\); rest"):
            prepare_teacher(config.teacher, config.task, digits, own, begun=Begun.of(before, "sweep"))
        assert trained.count == 1
        if ".json" in kinds:  # of a run that has no record yet, nobody knows where its teacher was made
            begun = Begun("run", before["fingerprints"])
            again = prepare_teacher(config.teacher, config.task, digits, own, begun=begun)[1]
            assert again["labeler"]["identity"] == record["labeler"]["identity"]
    assert prepare_teacher(config.teacher, config.task, digits, own, begun=Begun.of(before, "sweep"))


def test_after_a_change_of_versions_its_teacher_is_used_and_never_another_one_made(digits, own, trained, monkeypatch):
    config = tiny()
    record = prepare_teacher(config.teacher, config.task, digits, own)[1]
    begun = Begun("run", {role: record[role]["identity"] for role in ROLES})
    monkeypatch.setattr(fingerprints, "version", lambda package: "99.0")
    found = fingerprints.stored_teacher(config.teacher, digits, own, begun=begun)
    again = prepare_teacher(config.teacher, config.task, digits, own, begun=begun)[1]
    for role in ROLES:
        assert found[role]["identity"] == again[role]["identity"] == record[role]["identity"] and again[role]["reused"]
    with away(own, record["labeler"]["identity"], (".safetensors",)):
        for call in (
            lambda: fingerprints.stored_teacher(config.teacher, digits, own, begun=begun),
            lambda: prepare_teacher(config.teacher, config.task, digits, own, begun=begun),
            lambda: LabelerMaker(config.teacher.labeler, config.task, digits, own, "cpu", begun).check_begun(),
        ):
            with pytest.raises(ConfigError, match=r"\(settings, data, versions of libraries\) was not what is here"):
                call()
    assert trained.count == 1 and len(_records(own, "labeler")) == 1


def test_other_rows_are_refused_before_a_teacher_is_made(own, trained, monkeypatch):
    stopped(own, "a", monkeypatch)
    for file in Path(own.path("teachers")).iterdir():
        file.unlink()
    checkpoints, content = own.within("a", "checkpoint"), io.BytesIO()
    state = torch.load(io.BytesIO(checkpoints.read("state.pt")), weights_only=True)
    torch.save({**state, "data": {**state["data"], "train": "other rows"}}, content)
    checkpoints.write(content.getvalue(), "state.pt")
    trained.count = 0
    with pytest.raises(ConfigError, match="the rows of train have changed since the run was begun"):
        run(own, "a", resume=True)
    assert trained.count == 0 and not list(Path(own.path("teachers")).iterdir())


def test_a_finished_run_with_other_data_is_refused_before_a_teacher_is_made(own, trained):
    record = run(own, "a")
    for file in Path(own.path("teachers")).iterdir():
        file.unlink()
    record["fingerprints"]["data"] = {**record["fingerprints"]["data"], "test": "other rows"}
    records.write_json(own.within("a"), record, "record.json")
    trained.count = 0
    with pytest.raises(ConfigError, match="data has changed since the run was started"):
        run(own, "a", resume=True)
    assert trained.count == 0


def test_a_labeler_from_elsewhere_with_other_weights_is_refused_before_its_head_is_fitted(
    digits, tmp_path, monkeypatch
):
    file, model = timm_file(tmp_path, 7)
    how = {"type": "timm", "name": NAME, "weights": str(file), "head": "fit"}
    begun, storage, experiment = labeler(tmp_path / "s", digits, **how)
    begun = Begun.of({"fingerprints": begun.fingerprints, "teacher": begun.teacher}, "run")
    assert prepare_local(experiment, digits, storage, begun=begun).fingerprints["labeler"] == begun.names["labeler"]
    changed_weights = {
        name: value + 0.1 if value.is_floating_point() else value for name, value in model.state_dict().items()
    }
    safetensors.torch.save_file(changed_weights, file)
    monkeypatch.setattr(type(experiment.teacher.labeler), "fit_head", lambda *args: pytest.fail("it was fitted"))
    with pytest.raises(ConfigError, match="what it was made from"):
        prepare_local(experiment, digits, storage, begun=begun)


def test_a_labeler_from_elsewhere_with_a_head_of_its_own_comes_again_on_every_processor(digits, tmp_path, monkeypatch):
    file, _ = timm_file(tmp_path, 10)
    begun, storage, experiment = labeler(tmp_path / "s", digits, type="timm", name=NAME, weights=str(file))
    begun = Begun.of({"fingerprints": begun.fingerprints, "teacher": begun.teacher}, "run")
    monkeypatch.setattr(fingerprints, "cpu_model", lambda: "Another 9000")
    with away(storage, begun.names["labeler"]):
        again = prepare_local(experiment, digits, storage, begun=begun)
        assert again.fingerprints["labeler"] == begun.names["labeler"]


# ---- on Ray, as far as it goes without Ray


def test_on_ray_the_teacher_of_what_goes_on_is_found_in_the_storage(digits, own, trained):
    first = prepare_local(EXPERIMENT, digits, own)
    trained.shift = 1e-6
    with away(own, first.fingerprints["labeler"], (".safetensors",)):
        second = prepare_local(EXPERIMENT, digits, own)
    found = [
        teacher_tasks.teacher_on_ray(EXPERIMENT, digits, own, begun)
        for begun in (None, *(Begun("sweep", each.fingerprints) for each in (first, second)))
    ]
    names = [{role: each[role]["identity"] for role in ROLES} for each in found]
    wanted = [{role: each.fingerprints[role] for role in ROLES} for each in (first, first, second)]
    assert names == wanted
    with (
        away(own, second.fingerprints["labeler"]),
        pytest.raises(ConfigError, match="the sweep was begun with labeler"),
    ):
        teacher_tasks.teacher_on_ray(EXPERIMENT, digits, own, Begun("sweep", second.fingerprints))


def test_the_task_that_looks_at_a_checkpoint_names_its_teacher_or_refuses(digits, own, two):
    checkpoints, rows = own.within("c", "checkpoint"), rows_of_students(digits)
    assert teacher_tasks._begun(EXPERIMENT, checkpoints, rows) == Begun(
        "run", dict(zip(ROLES, two.second, strict=True))
    )
    for experiment, other, why in [
        (changed(EXPERIMENT, {"train.seed": 3}), rows, "belongs to experiment"),
        (EXPERIMENT, {**rows, "train": "other rows"}, "the rows of train have changed"),
    ]:
        with pytest.raises(ConfigError, match=why):
            teacher_tasks._begun(experiment, checkpoints, other)
    assert teacher_tasks.begun_on_ray(EXPERIMENT, digits, own.within("new")) is None, "without a look by Ray"


def test_a_sweep_asks_for_the_teacher_of_its_record(digits, own, monkeypatch):
    asked: list[Begun | None] = []

    class Enough(Exception):
        pass

    def opened(*args, begun=None, **others):
        asked.append(begun)
        raise Enough

    monkeypatch.setattr(driver, "check_concurrency", lambda sweep: 2)
    monkeypatch.setattr(driver.lanes, "open_prepared_lanes", opened)
    named = {"labeler": "l" * 16, "generator": "g" * 16}
    before = {"concurrent": 2, "fingerprints": {"data": digits.fingerprints, **named}, "teacher": {"labeler": {}}}

    def start(resume: bool, **changes):
        journal = Journal.read(own.within("s"))
        journal.record = {**before, **changes} if resume else None
        driver.start(SweepConfig(), digits, own, held(own.within("s")), journal)

    for resume in (False, True):
        with pytest.raises(Enough):
            start(resume)
    assert asked == [None, Begun("sweep", named, {"labeler": {}})]
    with pytest.raises(ConfigError, match="data has changed since the sweep was started"):
        start(True, fingerprints={**before["fingerprints"], "data": {}})
    with pytest.raises(Enough):
        start(True, concurrent=3)  # fewer at once are enough to go on
