"""Damaged files of a storage: what is made again, what goes on from the state before, and what is refused."""

import json
import shutil
import time
from pathlib import Path

import pytest

from tests.helpers import text_runs
from tests.helpers.experiments import short, tiny
from tests.helpers.owners import held
from tests.helpers.stops import weights_of
from tgt_ray import load_student
from tgt_ray.core import patience
from tgt_ray.core.errors import ConfigError, NotWritten, RunFailed
from tgt_ray.core.owner import NotOwner
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import Damaged
from tgt_ray.entrypoints import api
from tgt_ray.results.report import report
from tgt_ray.training import states
from tgt_ray.training.files import PREVIOUS_FILE, STATE_FILE
from tgt_ray.training.local import LocalHooks, train_local


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "empty":
        content.clear()
    elif how == "cut":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 0x40
    file.write_bytes(content)


@pytest.fixture(scope="module")
def experiment():
    return short(tiny(("explorer.type", "random"), ("fit_check.rows", 16)))


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    api.run(experiment, storage=str(folder), name="a", local=True)
    return folder


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "storage"))


def student_of(folder: Path, name: str = "a") -> bytes:
    return (folder / name / "student.safetensors").read_bytes()


@pytest.mark.parametrize("how", ["empty", "cut", "flip"])
def test_a_run_goes_on_from_the_state_before_a_damaged_one(whole, copied, how, caplog):
    caplog.set_level("INFO", "tgt_ray")
    checkpoint = copied / "a" / "checkpoint"
    damage(checkpoint / STATE_FILE, how)
    api.run(storage=str(copied), name="a", local=True, resume=True)
    assert (
        sum("state.pt: is damaged" in line and "goes on from the state before" in line for line in caplog.messages) == 1
    )
    assert [line for line in caplog.messages if line.startswith("step 8")] == [], "two of three reports are kept"
    assert student_of(copied) == student_of(whole)


def test_a_run_goes_on_where_it_was_ended_between_two_states(whole, copied):
    (copied / "a" / "checkpoint" / STATE_FILE).unlink()
    api.run(storage=str(copied), name="a", local=True, resume=True)
    assert student_of(copied) == student_of(whole)


def test_without_a_whole_state_a_run_is_refused_before_anything_is_made(copied):
    for name in (STATE_FILE, PREVIOUS_FILE):
        damage(copied / "a" / "checkpoint" / name, "cut")
    shutil.rmtree(copied / "teachers")
    with pytest.raises(ConfigError, match=r"checkpoint/state\.pt: is damaged .* begin anew without it"):
        api.run(storage=str(copied), name="a", local=True, resume=True)
    assert not (copied / "teachers").exists()
    with pytest.raises(Damaged, match=r"state\.pt"):
        states.last_whole(Storage(copied / "a" / "checkpoint"))


def test_only_the_last_two_states_are_kept(prepared, storage, tmp_path):
    checkpoints = Storage(tmp_path)
    run = train_local(short(prepared.experiment, explorer__type="none"), prepared.prepared, storage, checkpoints)
    assert {each.name for each in tmp_path.glob("*.pt")} == {STATE_FILE, PREVIOUS_FILE}
    (tmp_path / STATE_FILE).unlink()
    config = short(prepared.experiment, explorer__type="none")
    seen = []
    again = train_local(config, prepared.prepared, storage, checkpoints, seen.append)
    assert [row["step"] for row in seen] == [12] and weights_of(again) == weights_of(run)


@pytest.mark.parametrize("how", ["empty", "cut", "flip"])
@pytest.mark.parametrize(
    "files",
    [
        "teachers/labeler-*.json",
        "teachers/labeler-*.safetensors",
        "teachers/generator-*.safetensors",
        "teacher_cache/*.safetensors",
        "fit_checks/*.json",
    ],
)
def test_what_can_be_made_again_is_made_again_with_a_line_and_the_same_result(whole, copied, files, how, caplog):
    caplog.set_level("INFO", "tgt_ray")
    damaged = list(copied.glob(files))
    for file in damaged:
        damage(file, how)
    api.run(str(copied / "a" / "experiment.yaml"), storage=str(copied), name="b", local=True)
    for file in damaged:
        assert sum(line.startswith(f"{file}: is damaged (") and "made again" in line for line in caplog.messages) == 1
    assert student_of(copied, "b") == student_of(whole)
    caplog.clear()
    api.run(str(copied / "a" / "experiment.yaml"), storage=str(copied), name="c", local=True)
    assert "made again" not in caplog.text


@pytest.mark.parametrize("role", ["labeler", "generator"])
def test_a_teacher_without_weights_is_made_again(whole, copied, role, caplog):
    (file,) = copied.glob(f"teachers/{role}-*.safetensors")
    file.unlink()
    api.run(str(copied / "a" / "experiment.yaml"), storage=str(copied), name="b", local=True)
    assert f"{file}: is missing; made again" in caplog.messages
    assert student_of(copied, "b") == student_of(whole)


@pytest.mark.parametrize("how", ["empty", "cut", "flip"])
def test_damaged_settings_are_refused_before_anything_is_made(copied, how):
    damage(copied / "a" / "experiment.yaml", how)
    shutil.rmtree(copied / "teachers")
    with pytest.raises(ConfigError, match=r"a/experiment\.yaml: is damaged \("):
        api.run(storage=str(copied), name="a", local=True, resume=True)
    assert not (copied / "teachers").exists()


@pytest.mark.parametrize("how", ["empty", "cut", "flip"])
def test_a_damaged_record_is_written_anew_by_resume_and_refused_by_a_report(copied, how, caplog):
    before = Storage(copied).read("a", "record.json")
    damage(copied / "a" / "record.json", how)
    with pytest.raises(ConfigError, match=r"a/record\.json: is damaged"):
        report([Storage(copied / "a")])
    result = api.run(storage=str(copied), name="a", local=True, resume=True)
    assert "record.json: is damaged" in caplog.text
    assert result.record["result"] == json.loads(before)["result"]


def test_damaged_reports_and_students_are_refused_in_one_line(copied):
    damage(copied / "a" / "metrics.jsonl", "cut")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl: is damaged \(a line of it is not JSON"):
        report([Storage(copied / "a")])
    for file in ("student.safetensors", "student.json"):
        damage(copied / "a" / file, "flip")
        with pytest.raises(ConfigError, match=rf"a/{file}: is damaged".replace(".", r"\.")):
            load_student(str(copied / "a"))


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_a_damaged_record_of_a_sweep_is_refused_on_resume(tmp_path, content):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "sweep.yaml").write_text("{}")
    (tmp_path / "s" / "record.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"s/record\.json: is damaged \("):
        api.run_sweep(storage=str(tmp_path), name="s", resume=True)


def test_a_full_disk_ends_a_run_in_one_line(experiment, tmp_path, monkeypatch):
    whole = Storage.write

    def full(self, data, *parts, keep=None):
        if parts[-1].endswith(".safetensors"):
            target = Path(self.path(*parts))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target.parent)
            target.parent.write_bytes(b"")  # no file can be written below a file
        whole(self, data, *parts, keep=keep)

    monkeypatch.setattr(Storage, "write", full)
    with pytest.raises(RunFailed, match=r"teachers/labeler-[\w-]+\.safetensors: cannot be written \("):
        api.run(experiment, storage=str(tmp_path), name="a", local=True)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_tokenizer_with_other_bytes_is_refused(sentences, tmp_path):
    folder = Path(api.run(text_runs.experiment(sentences), storage=str(tmp_path), name="a", local=True).folder)
    load_student(str(folder))
    file = folder / "tokenizer.json"
    content = file.read_text()
    file.write_text(content.replace("red", "rad", 1) if "red" in content else content.replace("Ġa", "Ġb", 1))
    with pytest.raises(ConfigError, match=r"tokenizer\.json: is damaged \(its content doesn't fit its checksum"):
        load_student(str(folder))


def test_a_run_waits_for_a_storage_that_fails_and_has_the_result_of_an_undisturbed_one(
    experiment, whole, tmp_path, monkeypatch, caplog
):
    write, tries = Storage.write, list[str]()

    def full(self, data, *parts, keep=None):
        if parts[-1] in (STATE_FILE, "record.json") and self.root.startswith(str(tmp_path / "a")):
            tries.append(parts[-1])
            if len(tries) in (1, 3, 4) or tries.count("record.json") == 1:
                raise NotWritten(f"{self.where(*parts)}: cannot be written (storage full)") from OSError(28, "full")
        write(self, data, *parts, keep=keep)

    monkeypatch.setattr(Storage, "write", full)
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: None)
    api.run(experiment, storage=str(tmp_path), name="a", local=True)
    assert student_of(tmp_path) == student_of(whole)
    waited = [each for each in caplog.messages if each.endswith("; tried again for 60 s")]
    assert len(waited) == 3 and sum("the storage can be written again" in each for each in caplog.messages) == 3


def test_a_run_whose_storage_fails_for_long_ends_in_one_line_and_goes_on_later(
    experiment, whole, tmp_path, monkeypatch
):
    write, monotonic, slept = Storage.write, time.monotonic, [0.0]

    def full(self, data, *parts, keep=None):
        if parts[-1] == STATE_FILE and self.exists(PREVIOUS_FILE):
            raise NotWritten(f"{self.where(*parts)}: cannot be written (storage full)") from OSError(28, "full")
        write(self, data, *parts, keep=keep)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write", full)
        patch.setattr(patience.time, "sleep", lambda seconds: slept.append(slept[-1] + seconds))
        patch.setattr(patience.time, "monotonic", lambda: monotonic() + slept[-1])
        said = r"a/checkpoint/state\.pt: cannot be written \(storage full\), tried for 60 s; go on with --resume once"
        with pytest.raises(NotWritten, match=said):
            api.run(experiment, storage=str(tmp_path), name="a", local=True)
    assert not list(tmp_path.rglob("*.tmp")) and not (tmp_path / "a" / "record.json").exists()
    api.run(storage=str(tmp_path), name="a", local=True, resume=True)
    assert student_of(tmp_path) == student_of(whole)


def test_a_command_that_was_overtaken_writes_no_checkpoint(tmp_path):
    owned, said = held(Storage(tmp_path)), list[dict]()
    (tmp_path / "owner-000002.lock").write_text("{}")
    hooks = LocalHooks(Storage(tmp_path / "checkpoint"), said.append, None, held=owned)
    with pytest.raises(NotOwner, match="another command has taken over"):
        hooks.report(None, {"step": 5})
    assert not said and not (tmp_path / "checkpoint").exists()
