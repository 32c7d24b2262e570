"""Bad input through the command lines: one clear line, exit code 2, nothing started and nothing written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import yaml

from tgt_ray.entrypoints import cli
from tgt_ray.models.students import ConvStudent
from tgt_ray.teacher.generators import Generator
from tgt_ray.teacher.labelers.image import ConvLabeler
from tgt_ray.training import local


class Frozen(Generator):
    """A user's own generator through which no gradient flows."""

    def build(self, spec):
        raise AssertionError("nothing may be started")

    def fit(self, model, inputs, labeler):
        raise AssertionError("nothing may be started")


class OfTexts(Frozen):
    modality = "text"
    differentiable = True


class AnyLabels(ConvLabeler):
    """A user's own labeler of whatever there is."""

    modality = "any"
    type: str = "tests.entrypoints.test_refusals:AnyLabels"


class AnyStudents(ConvStudent):
    modality = "any"
    type: str = "tests.entrypoints.test_refusals:AnyStudents"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Calls a command line that must be refused, checks what is common to all refusals, and gives the message."""

    def never(*args, **more):
        raise AssertionError("started with bad input")

    monkeypatch.setattr(ray, "init", never)
    monkeypatch.setattr(local, "prepare_local", never)
    monkeypatch.chdir(tmp_path)

    def refused(command: str, *args: object, storage: Path | None = None) -> str:
        folder = storage or tmp_path / "results"
        before = sorted(folder.rglob("*"))
        argv = [f"tgt_ray.{command}", *map(str, args), "--storage", str(folder)]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            cli.main(getattr(cli, command))
        stdout, stderr = capsys.readouterr()
        assert ended.value.code == 2, stderr
        assert stderr.count("\n") == 1 and stderr.endswith("\n"), stderr
        assert "Traceback" not in stderr and stdout == ""
        assert sorted(folder.rglob("*")) == before, "nothing is created"
        assert folder.exists() == bool(storage)
        assert stderr.startswith("error: ")
        return stderr.removeprefix("error: ").strip()

    return refused


def parquet_folder(folder: Path, **files: pa.Table | None) -> Path:
    """A folder of 8x8 images of three classes, in which `files` take the place of good ones."""
    rng = np.random.default_rng(0)
    images = pa.array([rng.bytes(64) for _ in range(30)], pa.binary(64))
    good = pa.table({"image": images, "label": np.arange(30) % 3})
    folder.mkdir()
    for name in ("train", "test"):
        pq.write_table(files.get(name) or good, folder / f"{name}.parquet")
    return folder


def parquet(folder: Path) -> list[str]:
    return ["--set", "task.data.type=parquet", "--set", f"task.data.path={folder}", "--set", "task.long_tail=null"]


# What an experiment says: the same refusals by both commands. `sets` are keys of the experiment.
EXPERIMENT = {
    "unknown key": (["train.step=5"], ["train", "'step'", "'steps'"]),
    "unknown block": (["trian.steps=5"], ["'trian'", "'train'"]),
    "wrong type": (["train.steps=many"], ["train.steps", "integer", "'many'"]),
    "ratio above 1": (["train.synthetic_ratio=1.2"], ["train.synthetic_ratio", "less than or equal to 1", "1.2"]),
    "ratio below 0": (["train.synthetic_ratio=-0.2"], ["train.synthetic_ratio", "greater than or equal to 0", "-0.2"]),
    "temperature 0": (["objective.temperature=0"], ["objective.temperature", "greater than or equal to 0.000001", "0"]),
    "temperature negative": (
        ["objective.temperature=-2"],
        ["objective.temperature", "greater than or equal to 0.000001", "-2"],
    ),
    "unknown explorer": (["explorer.type=gradint"], ["explorer", "'gradint'", "'gradient'"]),
    "own class absent": (["explorer.type=no_such_module:X"], ["explorer", "no_such_module:X"]),
    "an empty class": (["task.long_tail.imbalance=500"], ["task.long_tail", "class 8", "head 80", "below 160"]),
    "too large a head": (["task.long_tail.head=5000"], ["task.long_tail", "class 0", "5000", "lower head"]),
    "a negative seed of the long tail": (["task.long_tail.seed=-1"], ["task.long_tail.seed", "-1"]),
    "a generator without gradients": (
        ["teacher.generator.type=tests.entrypoints.test_refusals:Frozen"],
        ["explorer.type", "'gradient'", "tests.entrypoints.test_refusals:Frozen", "random-matched"],
    ),
    "texts for models of images": (
        ["task={type: text_classification, data: {type: parquet, path: /nowhere}}"],
        ["teacher.labeler.type: 'conv' is for images, and task.type 'text_classification' has texts; legal: "],
    ),
    "texts for a generator of images": (
        [
            "task={type: text_classification, data: {type: parquet, path: /nowhere}}",
            "teacher.labeler.type=tests.entrypoints.test_refusals:AnyLabels",
        ],
        [
            "teacher.generator.type: 'mlp_autoencoder' is for images, "
            "and task.type 'text_classification' has texts; legal"
        ],
    ),
    "texts for a student of images": (
        [
            "task={type: text_classification, data: {type: parquet, path: /nowhere}}",
            "teacher.labeler.type=tests.entrypoints.test_refusals:AnyLabels",
            "teacher.generator.type=tests.entrypoints.test_refusals:OfTexts",
        ],
        ["student.type: 'conv' is for images, and task.type 'text_classification' has texts; legal"],
    ),
    "images for models of texts": (
        ["teacher.generator.type=tests.entrypoints.test_refusals:OfTexts"],
        [
            "teacher.generator.type: 'tests.entrypoints.test_refusals:OfTexts' is for texts, "
            "and task.type 'image_classification' has images",
            "legal: mlp_autoencoder, conv_autoencoder",
        ],
    ),
    "augmented texts": (
        [
            "task={type: text_classification, data: {type: parquet, path: /nowhere}}",
            "teacher.labeler.type=tests.entrypoints.test_refusals:AnyLabels",
            "teacher.generator.type=tests.entrypoints.test_refusals:OfTexts",
            "student.type=tests.entrypoints.test_refusals:AnyStudents",
            "train.augment.shift=1",
        ],
        ["train.augment: is for images, and task.type 'text_classification' has texts; leave it out"],
    ),
    "texts that are not there": (
        [
            "task={type: text_classification, data: {type: parquet, path: /nowhere}}",
            "teacher.labeler.type=tests.entrypoints.test_refusals:AnyLabels",
            "teacher.generator.type=tests.entrypoints.test_refusals:OfTexts",
            "student.type=tests.entrypoints.test_refusals:AnyStudents",
        ],
        ["task.data.path: no folder at /nowhere"],
    ),
    "missing data folder": (
        ["task.data.type=parquet", "task.data.path=/nowhere/at/all"],
        ["task.data.path", "/nowhere/at/all"],
    ),
    "statistics per source with anchors among the synthetic rows": (
        ["objective.type=consistency", "train.batch_norm=per_source"],
        ["train.batch_norm: per_source, but objective.type 'consistency'", "use shared"],
    ),
    "batch not divisible": (["train.workers=3"], ["batch_size 64", "workers 3"]),
    "no value": (["train.steps"], ["--set ", "train.steps:", "KEY=VALUE"]),
    "value is no YAML": (["train.steps=[1"], ["--set ", "train.steps=[1", "YAML"]),
    "below a value": (["train.steps.more=1"], ["train.steps.more", "500"]),
}


@pytest.mark.parametrize("command", ["train", "sweep"])
@pytest.mark.parametrize("sets, expected", EXPERIMENT.values(), ids=EXPERIMENT)
def test_a_bad_experiment_is_refused(run, command, sets, expected):
    prefix = "experiment." if command == "sweep" else ""
    message = run(command, *(part for text in sets for part in ("--set", prefix + text)))
    missing = [part for part in expected if part not in message]
    assert not missing, message


def test_the_same_experiment_is_refused_in_one_process(run):
    assert "temperature" in run("train", "--local", "--set", "objective.temperature=0")


IMAGES = pa.array([bytes(64)] * 30, pa.binary(64))
FILES = {
    "no image column": (pa.table({"pixels": IMAGES, "label": np.arange(30) % 3}), ["'image'", "found: pixels, label"]),
    "no label column": (pa.table({"image": IMAGES}), ["'label'", "found: image"]),
    "labels outside the range": (
        pa.table({"image": IMAGES, "label": np.where(np.arange(30) == 4, 7, np.arange(30) % 3)}),
        ["label 7 in row 4", "0..2"],
    ),
    "other image size": (pa.table({"image": [bytes(16)] * 30, "label": np.arange(30) % 3}), ["16", "64"]),
}


@pytest.mark.parametrize("table, expected", FILES.values(), ids=FILES)
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_bad_parquet_files_are_refused(run, tmp_path, command, table, expected):
    folder = parquet_folder(tmp_path / "data", test=table)
    sets = parquet(folder)
    if command == "sweep":
        sets = [text.replace("task.", "experiment.task.", 1) for text in sets]
    message = run(command, *sets)
    assert str(folder / "test.parquet") in message
    assert all(part in message for part in expected), message


@pytest.mark.parametrize("keep", [0, 100, -20])
def test_truncated_bytes_are_refused(run, tmp_path, keep):
    folder = parquet_folder(tmp_path / "data")
    file = folder / "train.parquet"
    file.write_bytes(file.read_bytes()[:keep])
    message = run("train", *parquet(folder))
    assert str(file) in message and "not a readable Parquet file" in message


def test_damaged_pages_are_refused(run, tmp_path):
    folder = parquet_folder(tmp_path / "data")
    file = folder / "train.parquet"
    content = bytearray(file.read_bytes())
    content[10:600] = bytes(len(content[10:600]))
    file.write_bytes(content)
    message = run("train", *parquet(folder))
    assert str(file) in message


def test_a_class_without_rows_is_refused(run, tmp_path):
    folder = parquet_folder(tmp_path / "data")
    (folder / "labels.json").write_text('["a", "b", "c", "d"]')
    assert "class 3 ('d') has no row in the train split" in run("train", *parquet(folder))


# What a sweep says

SWEEPS = {
    "path that does not exist": (
        "space={train.synthetic_ration: {uniform: [0, 1]}}",
        ["space.train.synthetic_ration", "'synthetic_ration'", "'synthetic_ratio'"],
    ),
    "path below a value": ("space={train.steps.x: {choice: [1]}}", ["space.train.steps.x"]),
    "ratio outside its range": (
        "space={train.synthetic_ratio: {uniform: [0.5, 1.5]}}",
        ["space.train.synthetic_ratio", "1.5", "less than or equal to 1"],
    ),
    "temperature outside its range": (
        "space={objective.temperature: {uniform: [0, 4]}}",
        ["space.objective.temperature", "0", "greater than or equal to 0.000001"],
    ),
    "one bad choice": (
        "space={explorer.type: {choice: [random, gradint]}}",
        ["space.explorer.type", "'gradint'", "'gradient'"],
    ),
    "no distribution": ("space={train.steps: {even: [1, 2]}}", ["space.train.steps", "'even'"]),
    "ends the wrong way round": ("space={train.steps: {integers: [9, 2]}}", ["space.train.steps", "9", "2"]),
    "empty space": ("space={}", ["space", "at least 1"]),
    "unknown search key": ("search.trails=3", ["search", "'trails'", "'trials'"]),
    "unknown metric": ("search.metric=acuracy", ["search.metric", "'acuracy'", "'accuracy'"]),
    "a metric of classes that are not there": ("search.metric=many_shot", ["'many_shot'", "medium_shot, few_shot"]),
    "unknown scheduler": ("search.scheduler=hyperband", ["search.scheduler", "'hyperband'", "'asha'"]),
    "nothing at once": ("search.concurrent=0", ["concurrent 0", "at least 1"]),
    "a word for a number at once": ("search.concurrent=all", ["search.concurrent: ", "'all'", "auto"]),
}


@pytest.mark.parametrize("text, expected", SWEEPS.values(), ids=SWEEPS)
def test_a_bad_sweep_is_refused(run, text, expected):
    message = run("sweep", "--set", text)
    missing = [part for part in expected if part not in message]
    assert not missing, message


@pytest.mark.parametrize(("tail", "there"), [("null", "medium_shot"), ("{head: 12, imbalance: 4}", "few_shot")])
def test_a_metric_of_classes_that_encoded_images_have_not_is_refused_before_one_is_decoded(run, tmp_path, tail, there):
    other = {"medium_shot": "few_shot", "few_shot": "medium_shot"}[there]
    for split in ("train", "test", "validation"):
        for name in ("a", "b"):
            (tmp_path / "pictures" / split / name).mkdir(parents=True)
            for number in range(20):
                (tmp_path / "pictures" / split / name / f"{number}.png").write_bytes(b"is never looked at")
    data = f"{{type: folder, path: {tmp_path / 'pictures'}}}"
    task = f"experiment.task={{type: image_classification, data: {data}, long_tail: {tail}}}"
    message = run("sweep", "--set", task, "--set", f"search.metric={other}")
    assert (
        message.startswith(f"search.metric: '{other}' needs classes that this data does not have") and there in message
    )


# Files


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_mistake_in_a_file_names_the_file(run, tmp_path, command):
    file = tmp_path / "mine.yaml"
    experiment = {"train": {"steps": "many"}}
    file.write_text(yaml.safe_dump(experiment if command == "train" else {"experiment": experiment}))
    message = run(command, file, "--set", "search.trials=2" if command == "sweep" else "train.seed=2")
    key = "train.steps" if command == "train" else "experiment.train.steps"
    assert message.startswith(f"{file}: {key}: ") and "'many'" in message


def test_a_mistake_in_an_override_names_the_override(run, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train: {steps: 5}")
    message = run("train", file, "--set", "train.steps=none")
    assert message.startswith("--set") and "mine.yaml" not in message


@pytest.mark.parametrize("content, expected", [("a: [1", "not valid YAML"), ("- 1", "expected a mapping")])
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_file_that_is_none_is_refused(run, tmp_path, command, content, expected):
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    message = run(command, file)
    assert message.startswith(str(file)) and expected in message
    assert "cannot read" in run(command, tmp_path / "absent.yaml")
    assert "cannot read" in run(command, tmp_path)


# Names and folders


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "with space", "-x", "ä"])
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_bad_name_is_refused(run, command, name):
    message = run(command, f"--name={name}")
    assert message.startswith("--name") and name in message and "letters, digits" in message


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_the_storages_own_folders_are_no_names(run, command):
    for name in ("teachers", "teacher_cache"):
        assert name in run(command, "--name", name)


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_resuming_nothing_is_refused(run, tmp_path, command):
    message = run(command, "--resume", "--name", "gone")
    assert message.startswith("--resume: ") and "'gone'" in message and str(tmp_path / "results") in message
    assert "--name" in run(command, "--resume")
    assert "letters, digits" in run(command, "--resume", "--name", "../x")


def test_resuming_a_run_of_the_other_kind_is_refused(run, tmp_path):
    storage = tmp_path / "storage"
    (storage / "a").mkdir(parents=True)
    (storage / "a" / "experiment.yaml").write_text("{}")
    assert "no sweep 'a'" in run("sweep", "--resume", "--name", "a", storage=storage)
    (storage / "b").mkdir()
    (storage / "b" / "sweep.yaml").write_text("{}")
    assert "no train 'b'" in run("train", "--resume", "--name", "b", storage=storage)


def test_resuming_with_another_experiment_is_refused(run, tmp_path):
    storage = tmp_path / "storage"
    (storage / "a").mkdir(parents=True)
    (storage / "a" / "experiment.yaml").write_text("train: {steps: 5}")
    message = run("train", "--resume", "--name", "a", "--set", "train.steps=6", storage=storage)
    assert "another experiment" in message and "experiment.yaml" in message


def test_resuming_a_sweep_takes_no_other_settings(run, tmp_path):
    assert "give no file and no --strict" in run("sweep", "--resume", "--name", "a", "--strict")
    assert "give no file and no --resume" in run("sweep", "--resume", "--name", "a", "--fork", "b")
    assert "no sweep 'a'" in run("sweep", "--name", "a", "--fork", "b")


def test_a_damaged_sweep_file_is_refused_on_resume(run, tmp_path):
    storage = tmp_path / "storage"
    (storage / "a").mkdir(parents=True)
    for content in ("search: {trails: 3}", "a: [1", "- 1"):
        (storage / "a" / "sweep.yaml").write_text(content)
        assert "sweep.yaml" in run("sweep", "--resume", "--name", "a", storage=storage)


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_name_that_exists_is_refused(run, tmp_path, command):
    storage = tmp_path / "storage"
    (storage / "mine").mkdir(parents=True)
    message = run(command, "--name", "mine", storage=storage)
    assert "mine" in message and "exists already" in message and "--resume" in message


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_storage_that_cannot_be_written_is_refused(run, tmp_path, command):
    file = tmp_path / "file"
    file.write_text("")
    message = run(command, storage=file)
    assert message.startswith("--storage") and str(file) in message


def test_an_unknown_storage_scheme_is_refused(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--storage", "nosuch://bucket/x"])
    with pytest.raises(SystemExit) as ended:
        cli.main(cli.train)
    assert ended.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1 and "nosuch://bucket/x" in stderr


# Real processes


@pytest.mark.parametrize(
    "command, text, expected",
    [
        ("train", "train.synthetic_ratio=2", "train.synthetic_ratio"),
        ("sweep", "space={train.stepz: {choice: [1]}}", "'stepz'"),
    ],
)
def test_a_real_command_line_refuses_in_one_line(tmp_path, command, text, expected):
    done = subprocess.run(
        [sys.executable, "-m", f"tgt_ray.{command}", "--set", text],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert expected in done.stderr
    assert list(tmp_path.iterdir()) == []
