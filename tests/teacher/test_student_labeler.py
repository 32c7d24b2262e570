"""A trained student as labeler of another experiment."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tgt_ray
from tests.helpers.experiments import changed
from tests.helpers.text_runs import experiment
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.kept import KeptStudent
from tgt_ray.core.storage import Storage
from tgt_ray.tasks import inputs_of
from tgt_ray.teacher.store import load_teacher, prepare_teacher

SHORT = {"train.steps": 30, "train.eval_every": 15, "explorer.type": "none"}
SMALLER = {**SHORT, "train.steps": 4, "train.eval_every": 2, "student.widths": [4, 4]}


def trained(prepared, storage, name, changes=None) -> str:
    return tgt_ray.run(
        changed(prepared.experiment, {**SHORT, **(changes or {})}), storage=storage.root, name=name, local=True
    ).folder


@pytest.fixture(scope="module")
def first(prepared, storage) -> str:
    """The folder of a student of digits, whose scores are corrected for rare classes."""
    return trained(prepared, storage, "labeler-first", {"objective.posthoc_adjustment": 1.0, "train.steps": 150})


def with_labeler(prepared, folder, changes=None):
    labeler = {"type": "student", "folder": str(folder)}
    return changed(prepared.experiment, {**SMALLER, "teacher.labeler": labeler, **(changes or {})})


def said_by(config, data, storage) -> tuple[dict, torch.Tensor, torch.Tensor]:
    """The record of a config's labeler, and what it says of the test rows, also where it is loaded again."""
    teacher, record = prepare_teacher(config.teacher, config.task, data, storage, with_generator=False)
    inputs = inputs_of(config.task, data.tables["test"], data.input_shape)[:]
    again = load_teacher(config.teacher, record, data.spec, data.num_classes, storage)
    one, other = teacher.labeler(inputs), again.labeler(inputs)
    assert torch.equal(one.logits, other.logits) and torch.equal(one.embedding, other.embedding)
    return record["labeler"], one.logits, one.embedding


def test_it_says_what_the_student_says(first, prepared, digits, storage):
    record, logits, embedding = said_by(with_labeler(prepared, first), digits, storage)
    student = tgt_ray.load_student(first)
    images = inputs_of(prepared.experiment.task, digits.tables["test"], digits.input_shape)[:].numpy()
    np.testing.assert_allclose(logits, student.scores(images), atol=1e-4)
    np.testing.assert_allclose(embedding, student.embed(images), atol=1e-5)
    assert record["weights"] == first and record["quality"]["test"]["accuracy"] > 15


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": {"type": "lelp", "subclasses": 2}},
        {"objective.label_loss": {"type": "ldam"}, "objective.alpha": 0.5},
        {"train.second_phase": {"type": "lws"}},
        {"train.batch_norm": "per_source", "explorer.type": "random"},
    ],
    ids=["subclasses", "cosines", "factors", "norms"],
)
def test_students_of_all_kinds_of_heads_label(prepared, digits, storage, changes):
    name = f"labeler-{'-'.join(key.partition('.')[2] or key for key in changes)}"
    folder = trained(prepared, storage, name, {"train.steps": 6, "train.eval_every": 3, **changes})
    _, logits, _ = said_by(with_labeler(prepared, folder), digits, storage)
    images = inputs_of(prepared.experiment.task, digits.tables["test"], digits.input_shape)[:].numpy()
    np.testing.assert_allclose(logits, tgt_ray.load_student(folder).scores(images), atol=1e-3, rtol=1e-3)


def test_a_smaller_student_is_distilled_from_it(first, prepared, storage):
    """Also with an objective that looks at the labeler's embedding and head, and with rows that a generator makes."""
    config = with_labeler(
        prepared,
        first,
        {
            "objective": {"type": "lelp", "subclasses": 1},
            "explorer": {"type": "random"},
            "teacher.generator.pretrain.steps": 5,
            "fit_check.minimum": 0,
        },
    )
    result = tgt_ray.run(config, storage=storage.root, name="labeler-smaller", local=True)
    assert result.record["teacher"]["labeler"]["student"] == KeptStudent.at(first).weights_digest
    assert tgt_ray.load_student(result.folder).parameters < tgt_ray.load_student(first).parameters


def copied(folder, to: Path, **known) -> str:
    for file in ("student.json", "student.safetensors"):
        Storage(to).write(Storage(folder).read(file), file)
    said = json.loads(Storage(to).read("student.json"))
    Storage(to).write(json.dumps({**said, **known}).encode(), "student.json")
    return str(to)


def test_classes_are_found_by_their_names(first, prepared, digits, storage, tmp_path):
    folder = copied(first, tmp_path / "turned", classes=[*"9876543210"])
    _, logits, _ = said_by(with_labeler(prepared, folder), digits, storage)
    _, plain, _ = said_by(with_labeler(prepared, first), digits, storage)
    np.testing.assert_allclose(logits.flip(1), plain, atol=1e-5)


def test_the_place_of_the_folder_is_no_part_of_its_name(first, prepared, digits, storage, tmp_path):
    record, *_ = said_by(with_labeler(prepared, first), digits, storage)
    moved, *_ = said_by(with_labeler(prepared, copied(first, tmp_path / "moved")), digits, storage)
    other, *_ = said_by(
        with_labeler(prepared, trained(prepared, storage, "labeler-other", {"train.seed": 1})), digits, storage
    )
    assert moved["identity"] == record["identity"] != other["identity"]
    assert moved["student"] == record["student"] != other["student"]


def refusal(config, data, storage) -> str:
    with pytest.raises(ConfigError) as refused:
        config.check_files()
        prepare_teacher(config.teacher, config.task, data, storage, with_generator=False)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_class_that_it_does_not_know_is_refused(first, prepared, digits, storage, tmp_path):
    folder = copied(first, tmp_path / "few", classes=["zero", *"123456789"])
    assert refusal(with_labeler(prepared, folder), digits, storage) == (
        f"teacher.labeler.folder: {folder}: its student doesn't know 1 of the task's 10 classes, such as '0'; legal:"
        " 1, 2, 3, 4, 5, 6, 7, 8, 9, zero"
    )


def test_images_of_another_size_are_refused(first, prepared, digits, storage, tmp_path):
    folder = copied(first, tmp_path / "large", input_shape=[3, 32, 32])
    said = refusal(with_labeler(prepared, folder), digits, storage)
    assert said.endswith("its student takes images of 3x32x32, and the task has images of 1x8x8")


def test_a_class_that_the_folder_names_is_not_imported(first, prepared, digits, storage, tmp_path):
    known = json.loads(Storage(first).read("student.json"))
    known["experiment"]["student"]["type"] = "antigravity:Student"
    folder = copied(first, tmp_path / "own", experiment=known["experiment"])
    assert "its student is a class of your own, antigravity:Student" in refusal(
        with_labeler(prepared, folder), digits, storage
    )


def test_a_folder_without_a_student_is_refused_before_data_is_read(prepared, tmp_path):
    with pytest.raises(ConfigError, match=r"teacher.labeler.folder: .* has no student.safetensors"):
        with_labeler(prepared, tmp_path).check_files()


def test_a_text_student_labels_with_its_own_vocabulary(sentences, storage):
    first = tgt_ray.run(
        experiment(sentences, explorer={"type": "none"}), storage=storage.root, name="labeler-texts", local=True
    )
    generator = experiment(sentences).teacher.generator.model_dump(mode="json")
    teacher = {"labeler": {"type": "student", "folder": first.folder}, "generator": generator}
    config = experiment(sentences, task={"vocabulary": 300}, explorer={"type": "none"}, teacher=teacher)
    data = config.task.load()
    _, logits, _ = said_by(config, data, storage)
    texts = data.tables["test"]["text"].to_pylist()
    np.testing.assert_allclose(logits, tgt_ray.load_student(first.folder).scores(texts), atol=1e-4)
