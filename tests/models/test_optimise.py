"""A training that was stopped goes on where it was, and gives the same weights."""

import io
from pathlib import Path

import pytest
import torch

from tests.helpers import text_runs
from tests.helpers.experiments import tiny
from tests.helpers.stops import Killed
from tgt_ray.core import progress
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models import optimise
from tgt_ray.models.optimise import Training
from tgt_ray.teacher.store import prepare_teacher

ROLES = ("labeler", "generator")
#: Where a generator's training looks at itself, and draws random numbers for it.
LOOKS = {"agreement": 99.9, "check_every": 2, "shift": 1, "latent_noise": 0.1}


@pytest.fixture
def stop(monkeypatch):
    """(what, step, every_s) -> the training is ended as by kill after a step; states are kept that often."""

    def begin(what: str, step: int, every_s: float = 0.0):
        def stepped(self, parts, now, original=Training.stepped):
            original(self, parts, now)
            if self.what == what and now == step:
                raise Killed

        monkeypatch.setattr(optimise, "STATE_EVERY_S", every_s)
        monkeypatch.setattr(optimise, "WRITING", 1e9)  # a state after each step, however long one takes
        monkeypatch.setattr(Training, "stepped", stepped)

    return begin


@pytest.fixture(scope="module")
def images(digits) -> tuple[Experiment, object]:
    sets = [(f"teacher.generator.pretrain.{key}", value) for key, value in LOOKS.items()]
    return tiny(("teacher.labeler.pretrain.steps", 5), ("teacher.generator.pretrain.steps", 5), *sets), digits


@pytest.fixture(scope="module")
def texts(sentences) -> tuple[Experiment, object]:
    config = text_runs.experiment(sentences)
    short = {"steps": 5}
    teacher = config.teacher.model_dump(mode="json")
    for role in ROLES:
        teacher[role]["pretrain"] |= short
    config = Experiment.model_validate({**config.model_dump(mode="json"), "teacher": teacher})
    return config, config.task.load()


def made(of, storage: Storage) -> dict:
    config, data = of
    return prepare_teacher(config.teacher, config.task, data, storage)[1]


def identities(record: dict) -> list[str]:
    return [record[role]["identity"] for role in ROLES]


@pytest.mark.parametrize("kind", ["images", "texts"])
@pytest.mark.parametrize("role", ROLES)
def test_a_stopped_training_gives_what_one_without_a_stop_gives(kind, role, request, tmp_path, stop, monkeypatch):
    of = request.getfixturevalue(kind)
    whole = made(of, Storage(tmp_path / "whole"))
    storage, teachers = Storage(tmp_path / "stopped"), tmp_path / "stopped" / "teachers"
    with monkeypatch.context():
        stop(f"pretraining the {role}", 3)
        with pytest.raises(Killed):
            made(of, storage)
    monkeypatch.undo()
    assert len(list(teachers.glob(f"{role}-*.pt"))) == 1
    begun = []
    monkeypatch.setattr(
        Training, "begin", lambda self, parts, original=Training.begin: begun.append(original(self, parts)) or begun[-1]
    )
    again = made(of, storage)
    assert begun[0] == 3 and identities(again) == identities(whole)
    assert again["generator"]["quality"] == whole["generator"]["quality"]
    assert not list(teachers.glob("*.pt"))


def test_a_short_training_keeps_no_state(images, tmp_path, stop):
    stop("pretraining the labeler", 5, every_s=60.0)
    with pytest.raises(Killed):
        made(images, Storage(tmp_path))
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize("how", ["cut", "empty", "of another class"])
def test_a_damaged_state_is_named_and_training_begins_anew(images, tmp_path, stop, monkeypatch, caplog, how):
    whole, storage = made(images, Storage(tmp_path / "whole")), Storage(tmp_path / "own")
    stop("pretraining the labeler", 3)
    with pytest.raises(Killed):
        made(images, storage)
    monkeypatch.undo()
    (file,) = Path(storage.path("teachers")).glob("*.pt")
    if how == "of another class":
        monkeypatch.setattr(optimise._Parts, "lacks", lambda self, state: True)
    else:
        file.write_bytes(file.read_bytes()[: len(file.read_bytes()) // 2] if how == "cut" else b"")
    assert identities(made(images, storage)) == identities(whole)
    assert sum(str(file) in line and "the labeler begins anew" in line for line in caplog.messages) == 1
    assert not file.exists()


@pytest.mark.parametrize("state", [{"step": 1}, {"step": 1, "seconds": 0.0, "model": 3}, [1, 2], "no model"])
def test_what_is_no_state_of_a_training_is_named_and_training_begins_anew(tmp_path, caplog, state):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, optimise.warmup_cosine(1, 5))
    parts = optimise._Parts(model, optimizer, schedule, torch.Generator())
    if state == "no model":
        state = {"step": 1, "seconds": 0.0, **parts.state()}
        del state["model"]
    content = io.BytesIO()
    torch.save(state, content)
    Storage(tmp_path).write(content.getvalue(), "l.pt")
    assert Training("pretraining", Storage(tmp_path), "l.pt").begin(parts) == 0
    (line,) = caplog.messages
    assert line == f"{tmp_path / 'l.pt'}: is of another version or model; pretraining begins anew"


def test_a_state_that_another_process_removes_at_the_same_time_is_no_error(tmp_path, monkeypatch):
    def exists(self, *parts, original=Storage.exists):
        there = original(self, *parts)
        Path(self.path(*parts)).unlink(missing_ok=True)
        return there

    monkeypatch.setattr(Storage, "exists", exists)
    storage, file = Storage(tmp_path), tmp_path / "l.pt"
    storage.write(b"state", file.name)
    Training("pretraining", storage, file.name).end()
    Training("pretraining", storage, file.name).end()
    assert not file.exists()


def test_a_training_says_how_far_it_is(images, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "tgt_ray")
    monkeypatch.setattr(progress, "FIRST_S", 0.0)
    monkeypatch.setattr(progress, "GROWTH", 0.0)
    made(images, Storage(tmp_path))
    for said in ("pretraining the labeler: 1 of 5 steps", "measuring the generator on validation rows: "):
        assert any(line.startswith(said) for line in caplog.messages)
