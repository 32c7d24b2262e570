"""The command `storage` lists what there is, says who needs it, and removes nothing that somebody needs."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.helpers import retrieval, text_runs
from tests.helpers.commands import command
from tests.helpers.experiments import changed
from tests.helpers.pictures import write_pictures
from tests.helpers.stops import interrupted
from tests.helpers.storages import remote
from tests.helpers.trials import opened, sweep
from tgt_ray import run
from tgt_ray.core import owner, records
from tgt_ray.core.errors import ConfigError, RunFailed
from tgt_ray.core.loading import dump_yaml
from tgt_ray.core.storage import Storage, host
from tgt_ray.entrypoints import storage as subject
from tgt_ray.entrypoints.inventory import things
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.teacher.bank.bank import Bank

SHORT = {
    "train.steps": 4,
    "train.eval_every": 2,
    "train.batch_size": 16,
    "pool.rows_per_request": 32,
    "explorer.type": "random",
}
#: What no run has made.
JUNK = {
    "bank/0123456789abcdef/bank.json": "bank/0123456789abcdef",
    "teachers/labeler-0123456789abcdef-fedcba9876543210.json": "teachers/labeler-0123456789abcdef-fedcba9876543210",
    "teachers/labeler-0123456789abcdef.pt": "teachers/labeler-0123456789abcdef.pt",
    "teacher_cache/0123456789abcdef.safetensors": "teacher_cache/0123456789abcdef",
    "fit_checks/0123456789abcdef.json": "fit_checks/0123456789abcdef",
    "forms/labeler-0123456789abcdef.json": "forms/labeler-0123456789abcdef",
    "data_cache/0123456789abcdef/train-0.arrow": "data_cache/0123456789abcdef",
    "documents/0123456789abcdef.safetensors": "documents/0123456789abcdef",
    "logs/gone.log": "logs/gone",
    f"a/student.json.{host()}.4194999.0123abcd.tmp": f"a/student.json.{host()}.4194999.0123abcd.tmp",
}


@pytest.fixture(scope="module")
def made(prepared, storage, tmp_path_factory) -> Path:
    """A storage with a run `a` on digits, and nothing else."""
    root = tmp_path_factory.mktemp("made")
    for name in ("teachers", "teacher_cache", "fit_checks"):
        shutil.copytree(storage.path(name), root / name)
    run(changed(prepared.experiment, SHORT), storage=str(root), name="a", local=True)
    subject.collect(Storage(root))  # of the other tests that have used the storage before
    return root


@pytest.fixture
def root(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "storage"))


def litter(root: Path) -> None:
    for name in JUNK:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"{}")


def files(root: Path) -> set[str]:
    return {str(each.relative_to(root)) for each in root.rglob("*") if each.is_file()}


def removed(capsys) -> set[str]:
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[1] for line in lines if line.startswith("removed ")}


def test_what_no_record_names_goes_and_everything_else_stays(root, capsys):
    before = files(root)
    litter(root)
    subject.collect(Storage(root), dry_run=True)
    out = capsys.readouterr().out
    assert all(f"would remove {name} (2 bytes)" in out for name in JUNK.values()) and files(root) > before
    subject.collect(Storage(root))
    assert removed(capsys) == set(JUNK.values())
    assert files(root) == before and not (root / "bank/0123456789abcdef").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"objective.type": "lelp", "objective.subclasses": 2},
        {"objective.conformal": {}},
        {"explorer.type": "none"},
    ],
    ids=str,
)
def test_what_a_run_has_made_stays_whatever_it_is(root, prepared, settings, capsys):
    shutil.rmtree(root / "a")
    before = files(root)
    run(changed(prepared.experiment, {**SHORT, **settings}), storage=str(root), name="b", local=True)
    new = files(root) - before
    assert any(name.startswith("teacher_cache/") for name in new) or "explorer.type" in settings
    subject.collect(Storage(root))
    assert files(root) >= new


def test_what_a_run_needs_that_is_not_over_stays(prepared, root, monkeypatch, capsys):
    shutil.rmtree(root / "a")
    with monkeypatch.context() as patch:
        patch.setattr("tgt_ray.entrypoints.api._log_report", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(changed(prepared.experiment, SHORT), storage=str(root), name="stopped", local=True)
    assert not (root / "stopped/record.json").exists()
    before = files(root)
    subject.collect(Storage(root))
    assert removed(capsys) == set() and files(root) == before
    assert {each.kind: each.users for each in things(Storage(root)) if each.kind == "bank"} == {"bank": ["stopped"]}
    shutil.rmtree(root / "stopped")
    subject.collect(Storage(root))
    assert {each.split("/")[0] for each in removed(capsys)} == {"teachers", "teacher_cache", "fit_checks", "bank"}
    assert files(root) == set()


@pytest.mark.parametrize("kind", ["pictures", pytest.param("texts"), pytest.param("queries", marks=pytest.mark.slow)])
def test_what_runs_on_other_data_have_made_stays(kind, request, tmp_path, prepared, capsys):
    if kind == "pictures":
        write_pictures(tmp_path / "pictures")
        data = {"type": "folder", "path": str(tmp_path / "pictures"), "size": 8}
        config = changed(prepared.experiment, {**SHORT, "task.data": data, "task.long_tail": None})
    elif kind == "texts":
        config = text_runs.experiment(request.getfixturevalue("sentences"))
    else:
        config = retrieval.experiment(
            request.getfixturevalue("beir"), request.getfixturevalue("encoder"), student={"max_tokens": 24}
        )
    root = tmp_path / "storage"
    run(config, storage=str(root), name="a", local=True)
    before = files(root)
    kinds = {"pictures": "data_cache", "texts": "vocabularies", "queries": "documents"}
    assert kinds[kind] in {each.split("/")[0] for each in before}
    litter(root)
    capsys.readouterr()
    subject.collect(Storage(root))
    assert removed(capsys) == set(JUNK.values()) and files(root) == before


def test_a_list_says_who_needs_what(root, capsys, monkeypatch):
    litter(root)
    (root / "somebody's").mkdir()
    assert command(monkeypatch, "storage", "ls", root) == 0
    head, *rows, last = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["kind", "name", "size", "age", "used", "by"] and last[1:3] == ["in", "all,"]
    said = {row[1]: row[-1] for row in rows}
    assert "somebody's" not in said and rows[0][0] == "runs"
    assert {said[name] for name in JUNK.values()} == {"nothing"}
    others = {row[0] for row in rows if row[1] not in JUNK.values() and row[-1] == "a"}
    assert others == {"teachers", "teacher_cache", "fit_checks", "bank"}
    assert "somebody's" not in said and len(rows) == int(last[0])


def test_a_sweep_needs_the_banks_of_its_trials_and_the_teacher(root, prepared, capsys):
    record = json.loads((root / "a/record.json").read_text())
    bank = record["result"]["bank"]
    plain = prepared.experiment.model_dump(mode="json")
    sweep = SweepConfig.model_validate(
        {"experiment": plain, "space": {"train.synthetic_ratio": {"uniform": [0.1, 0.9]}}}
    )
    folder = Storage(root).within("s")
    folder.write(dump_yaml(sweep).encode(), "sweep.yaml")
    records.write_json(folder, {name: record[name] for name in ("fingerprints", "teacher")}, "record.json")
    shutil.rmtree(root / "a")
    (root / "s/trials.csv").write_text(f"trial,bank\nx,{bank}\n")
    before = files(root)
    subject.collect(Storage(root))
    assert removed(capsys) == set() and files(root) == before
    (root / "s/trials.csv").write_text("trial,bank\nx,\n")
    subject.collect(Storage(root))
    assert removed(capsys) == {f"bank/{bank}"}


def test_nothing_is_removed_that_a_command_uses(root, capsys):
    storage = Storage(root)
    shutil.rmtree(root / "a")
    (bank,) = (root / "bank").iterdir()
    with owner.claimed(storage, "new", False):  # and hasn't written yet what it needs
        subject.collect(storage)
        assert removed(capsys) == set()
        with pytest.raises(ConfigError, match=r"'bank/\w+' is in use by new; wait until it has ended"):
            subject.remove(storage, [f"bank/{bank.name}"], force=True)
    held = Bank(storage, bank.name)
    held.hold()
    subject.collect(storage)
    assert f"bank/{bank.name}" not in removed(capsys)
    with pytest.raises(ConfigError, match="is in use by a running trial"):
        subject.remove(storage, [f"bank/{bank.name}"], force=True)
    held.release()
    subject.collect(storage)
    assert removed(capsys) == {f"bank/{bank.name}"}


def test_a_run_is_not_removed_while_a_command_works_on_it(root, capsys):
    storage = Storage(root)
    with owner.claimed(storage, "a", True):
        with pytest.raises(ConfigError, match="'a' is in use by a;"):
            subject.remove(storage, ["a"], force=True)
        teacher = next(each.name for each in things(storage) if each.kind == "teachers")
        with pytest.raises(ConfigError, match="is in use by a;"):
            subject.remove(storage, [teacher], force=True)
    subject.remove(storage, ["a/"])
    assert removed(capsys) == {"a"} and not (root / "a").exists() and (root / "teachers").exists()


@pytest.fixture
def learning(root) -> Path:
    """The same storage with a sweep `s` that may start from `a`, a run `b` that does, and a run `c` that it teaches."""
    settings = {
        "s/sweep.yaml": f"experiment: {{}}\nspace: {{train.start_from: {{choice: [null, {root}/a]}}}}\n",
        "b/experiment.yaml": f"train: {{start_from: {root}/a/checkpoint}}\n",
        "c/experiment.yaml": f"teacher: {{labeler: {{type: student, folder: 'file://{root}/b'}}}}\n",
        "d/experiment.yaml": f"train: {{start_from: {root}/aa}}\ntask: {{data: {{path: {root}/a}}}}\n",
    }
    for name, content in settings.items():
        (root / name).parent.mkdir()
        (root / name).write_text(content)
    return root


def test_a_run_whose_student_others_begin_with_or_learn_from_is_removed_by_force_alone(learning, capsys):
    storage = Storage(learning)
    assert {each.name: each.users for each in things(storage) if each.kind in ("runs", "sweeps")} == {
        "a": ["b", "s"],
        "b": ["c"],
        "c": [],
        "d": [],
        "s": [],
    }
    subject.show(storage)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.split()[:2] == ["runs", "a"]]
    assert line.split()[-2:] == ["b,", "s"]
    with pytest.raises(ConfigError, match=r"storage rm: 'a' is needed by b, s; remove these first, or add --force"):
        subject.remove(storage, ["a"])
    subject.remove(storage, ["b"], force=True, dry_run=True)
    with owner.claimed(storage, "s", True), pytest.raises(ConfigError, match="'a' is in use by s;"):
        subject.remove(storage, ["a"], force=True)
    subject.remove(storage, ["c", "d", "s"])
    subject.remove(storage, ["b"])
    subject.remove(storage, ["a"])
    assert not (learning / "a").exists()


def test_settings_that_cannot_be_read_may_name_any_student(root):
    (root / "b").mkdir()
    (root / "b/experiment.yaml").write_text("train: {start_from: [")
    with pytest.raises(ConfigError, match="'a' is needed by b;"):
        subject.remove(Storage(root), ["a"])


def test_students_in_an_object_store_are_found_by_their_addresses(learning, monkeypatch):
    storage = remote(monkeypatch, learning)
    monkeypatch.setattr(storage, "where", lambda *parts: "/".join(["s3://me:***@bucket/place", *parts]))
    (learning / "b/experiment.yaml").write_text("train: {start_from: 's3://bucket/place/a?region=eu'}\n")
    (learning / "s/sweep.yaml").write_text("space: {train.start_from: {choice: ['s3://bucket/elsewhere/a']}}\n")
    assert {each.name: each.users for each in things(storage) if each.kind == "runs"}["a"] == ["b"]


def test_what_a_run_needs_is_removed_by_force_alone(root, capsys):
    storage = Storage(root)
    (bank,) = (f"bank/{each.name}" for each in (root / "bank").iterdir())
    before = files(root)
    with pytest.raises(ConfigError, match=rf"'{bank}' is needed by a; remove these first, or add --force"):
        subject.remove(storage, ["a", bank])
    with pytest.raises(ConfigError, match=r"there is no 'bnk' in .*; legal: a, bank/"):
        subject.remove(storage, ["a", "bnk"])
    subject.remove(storage, [bank], force=True, dry_run=True)
    assert files(root) == before
    subject.remove(storage, [bank, bank], force=True)
    assert removed(capsys) == {bank} and files(root) == {each for each in before if not each.startswith("bank/")}


def test_only_what_is_old_enough_goes(root, capsys):
    litter(root)
    old = root / "teacher_cache/0123456789abcdef.safetensors"
    os.utime(old, (time.time() - 3 * 86400,) * 2)
    subject.collect(Storage(root), older_than="2d")
    assert removed(capsys) == {"teacher_cache/0123456789abcdef"}
    subject.collect(Storage(root), older_than="0s")
    assert len(removed(capsys)) == len(JUNK) - 1


@pytest.mark.parametrize("text", ["5", "-3d", "soon", "", "nat"])
def test_a_wrong_duration_is_refused(text):
    with pytest.raises(ConfigError, match="--older-than"):
        subject.seconds_of(text)


def test_what_an_object_store_holds_is_found(root, monkeypatch, capsys):
    before = files(root)
    litter(root)
    storage = remote(monkeypatch, root)
    (root / "logs/gone.log").unlink()
    subject.collect(storage)
    draft = next(name for name in JUNK if name.endswith(".tmp"))  # written in place there, so it is a run's own file
    assert removed(capsys) == {*JUNK.values()} - {draft, "logs/gone"}
    assert files(root) == {*before, draft}
    subject.verify(storage)


def test_a_record_that_cannot_be_read_keeps_what_it_may_name(root, capsys):
    litter(root)
    (root / "a/experiment.yaml").write_text("task: {type: nothing_that_is_here}\n")
    subject.collect(Storage(root))
    gone = removed(capsys)
    assert {each.split("/")[0] for each in gone} == {"bank", "teachers", "logs", "a"}
    assert gone <= set(JUNK.values())


@pytest.mark.parametrize("kind", ["teachers", "teacher_cache", "fit_checks", "bank", "a", "a/checkpoint"])
def test_damage_is_found_wherever_it_is(root, kind, capsys, monkeypatch):
    subject.verify(Storage(root))
    assert ", 0 damaged" in capsys.readouterr().out
    checked = [each for each in (root / kind).rglob("*") if each.suffix[1:] in subject.CHECKED]
    victim = max(checked, key=lambda each: each.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    code, said = command(monkeypatch, "storage", "verify", root), capsys.readouterr()
    assert code == 1 and said.err.startswith("failed: storage verify: 1 damaged file(s) in ")
    assert f"{victim.relative_to(root)}: is damaged (" in said.out and ", 1 damaged; " in said.out
    assert victim.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ls", "{root}", "a"], "storage ls: takes no NAME"),
        (["verify", "{root}", "--force"], "storage verify: takes no --force"),
        (["gc", "{root}", "--force"], "storage gc: takes no --force"),
        (["rm", "{root}", "a", "--older-than", "3d"], "storage rm: takes no --older-than"),
        (["rm", "{root}"], "storage rm: give the names"),
        (["ls", "{root}/nowhere"], "there is no such folder"),
        (["ls", "{root}/a"], "is the folder of a run or sweep; give the storage that it lies in"),
        (["ls", "{root}/a/record.json"], "is a file; give a folder"),
    ],
)
def test_wrong_words_are_refused_in_one_line(root, words, said, monkeypatch, capsys):
    code = command(monkeypatch, "storage", *(each.format(root=root) for each in words))
    out, err = capsys.readouterr()
    assert code == 2 and out == "" and err.startswith("error: ") and said in err and err.count("\n") == 1


def test_what_cannot_be_removed_is_said(root, monkeypatch):
    class Refuses:
        def delete_file(self, path):
            raise PermissionError(13, "Permission denied")

    storage = Storage(root)
    thing = next(each for each in things(storage) if each.kind == "bank")
    storage.fs = Refuses()
    with pytest.raises(RunFailed, match=rf"{thing.name}: cannot be removed \(Permission denied\)"):
        subject._delete(storage, thing)


def test_verify_looks_at_each_line_of_a_sweep_s_journal(tmp_path, capsys):
    folder = Storage(tmp_path / "s")
    journal = opened(folder, sweep())
    folder.write(b"{}\n", "sweep.yaml")
    journal.begin({"control": "one_hot"}, None)
    subject.verify(Storage(tmp_path))
    assert "2 files checked, 0 damaged" in capsys.readouterr().out
    path = tmp_path / "s" / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(RunFailed, match="1 damaged file"):
        subject.verify(Storage(tmp_path))
    assert "s/journal.jsonl: is damaged (1 line(s) are cut off" in capsys.readouterr().out
