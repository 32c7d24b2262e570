"""A labeler that says what columns of the data say, and what it refuses."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.helpers.answers import put, softmax, stored, table, write
from tgt_ray import run
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.tasks import with_calibration
from tgt_ray.teacher.store import load_teacher
from tgt_ray.training.generation import synthesizer_of
from tgt_ray.training.local import prepare_local


def prepared(experiment, storage):
    return prepare_local(experiment, experiment.task.load(storage), storage)


def said(experiment, storage):
    """What the students of a run get to see of train, by the row's number."""
    student = prepared(experiment, storage).student
    return student.tables["train"]["id"].to_numpy(), student.columns["logits"]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_logits_of_a_column_are_what_students_learn_from(tmp_path, own, kind):
    logits = write(tmp_path / "data", kind)
    ids, found = said(stored(tmp_path / "data", kind), own)
    assert found.shape == (96, 2)
    np.testing.assert_allclose(found, logits[ids], rtol=1e-6)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_a_column_for_each_class_has_its_name(tmp_path, own, kind):
    logits = write(tmp_path / "data", kind)
    ids, found = said(stored(tmp_path / "data", kind, labeler={"column": "p_{class}", "values": "probabilities"}), own)
    np.testing.assert_allclose(softmax(found), softmax(logits)[ids], atol=1e-5)


def test_probabilities_of_zero_are_raised_to_the_floor(tmp_path, own):
    write(tmp_path / "data")
    for split, count in (("train", 96), ("validation", 24), ("test", 24)):
        certain = np.eye(2)[np.arange(count) % 2].tolist()
        rows = table(split, count)[0]
        put(rows.set_column(2, "said", pa.array(certain)), tmp_path / "data", split)
    labeler = {"values": "probabilities", "floor": 1e-3}
    _, found = said(stored(tmp_path / "data", labeler=labeler), own)
    np.testing.assert_allclose(np.unique(found), [np.log(1e-3), 0], rtol=1e-6)


def test_lists_may_have_another_order_of_classes(tmp_path, own, caplog):
    logits = write(tmp_path / "data")
    caplog.set_level(logging.INFO)
    ids, found = said(stored(tmp_path / "data", labeler={"classes": ["good", "bad"]}), own)
    np.testing.assert_allclose(found, logits[ids][:, ::-1], rtol=1e-6)
    assert "no more than the" in caplog.text and "check the order of the classes" in caplog.text
    caplog.clear()
    said(stored(tmp_path / "data"), own)
    assert "its numbers are taken in the order bad, good" in caplog.text
    assert "check the order" not in caplog.text


def test_a_held_out_validation_split_has_the_answers_of_train(tmp_path, own):
    write(tmp_path / "data", splits=("train", "test"))
    ready = prepared(stored(tmp_path / "data"), own)
    quality = ready.teacher["labeler"]["quality"]
    assert quality["validation"]["accuracy"] > 60 and quality["test"]["accuracy"] > 60
    assert ready.teacher["labeler"]["answered"]["validation"] == [8, 8]


def test_where_measured_rows_have_no_answers_the_teacher_is_not_measured(tmp_path, own):
    write(tmp_path / "data")
    for split in ("validation", "test"):
        rows = table(split, 24)[0].drop_columns(["said"])
        put(rows if split == "test" else table(split, 24)[0], tmp_path / "data", split)
    ready = prepared(stored(tmp_path / "data"), own)
    assert set(ready.teacher["labeler"]["quality"]) == {"validation"}


def test_the_answers_are_the_identity(tmp_path, own):
    """Other answers make another teacher, whose answers are not those of the cache; a column's name doesn't matter."""
    logits = write(tmp_path / "data")
    experiment = stored(tmp_path / "data")
    first = prepared(experiment, own).fingerprints["labeler"]
    assert prepared(experiment, own).teacher["labeler"]["reused"]
    rows = table("train", 96)[0]
    put(rows.append_column("again", rows["said"]), tmp_path / "data", "train")
    assert prepared(stored(tmp_path / "data", labeler={"column": "again"}), own).fingerprints["labeler"] != first, (
        "validation and test lack it"
    )
    logits[5] += 1
    put(rows.set_column(2, "said", pa.array(logits.tolist())), tmp_path / "data", "train")
    ready = prepared(experiment, own)
    assert ready.fingerprints["labeler"] != first
    ids = ready.student.tables["train"]["id"].to_numpy()
    np.testing.assert_allclose(ready.student.columns["logits"], logits[ids], rtol=1e-6)


def test_a_worker_loads_the_answers_from_the_storage(tmp_path, own):
    write(tmp_path / "data")
    experiment = stored(tmp_path / "data")
    ready = prepared(experiment, own)
    data = ready.student
    teacher = load_teacher(experiment.teacher, ready.teacher, data.spec, data.num_classes, own)
    inputs = experiment.task.inputs(data.tables["train"], data.input_shape)
    torch.testing.assert_close(teacher.labeler(inputs).logits, torch.from_numpy(data.columns["logits"]))
    with pytest.raises(ConfigError, match="1 of 2 rows are none that it has an answer for"):
        teacher.labeler(torch.stack([inputs[0], inputs[1] + 1]))


def test_rows_of_one_content_get_the_mean_of_their_probabilities(tmp_path, own, caplog):
    logits = write(tmp_path / "data", splits=("train", "validation", "test"))
    rows = table("train", 96)[0]
    texts = rows["text"].to_pylist()
    texts[1] = texts[0]
    put(rows.set_column(0, "text", pa.array(texts)), tmp_path / "data", "train")
    ids, found = said(stored(tmp_path / "data"), own)
    both = found[[ids.tolist().index(0), ids.tolist().index(1)]]
    np.testing.assert_allclose(softmax(both), np.tile(softmax(logits[:2]).mean(axis=0), (2, 1)), rtol=1e-5)
    assert "column: 1 rows have the content of an earlier row and another answer" in caplog.text


def test_a_run_ends_and_says_of_its_teacher_what_it_knows(tmp_path):
    write(tmp_path / "data")
    result = run(stored(tmp_path / "data"), storage=str(tmp_path / "s"), name="a", local=True)
    record = result.record["teacher"]["labeler"]
    assert record["answered"]["train"] == [96, 96] and record["weights"] == "column 'said' of the data"
    assert record["quality"]["test"]["accuracy"] > 60
    assert "test_balanced_accuracy" in result.record["result"]


def test_further_texts_without_labels_have_answers_too(tmp_path, own):
    write(tmp_path / "data", splits=("train", "validation", "test", "unlabelled"))
    task = {"unlabelled": "anchors"}
    experiment = stored(tmp_path / "data", task=task, explorer={"type": "identity"})
    ready = prepared(experiment, own)
    data = ready.student
    more = table("unlabelled", 30)[1]
    teacher = load_teacher(experiment.teacher, ready.teacher, data.spec, data.num_classes, own)
    block = synthesizer_of(experiment, ready, teacher)(0, 0, experiment.explorer)
    new = block.anchor >= 96
    assert new.any() and not new.all()
    np.testing.assert_allclose(block.columns["logits"][new], more[block.anchor[new] - 96], rtol=1e-6)
    (tmp_path / "data" / "unlabelled.parquet").unlink()
    (tmp_path / "data" / "unlabelled.txt").write_text("one more\nand another\n")
    with pytest.raises(ConfigError, match=r"2 of 2 rows of unlabelled have no answer in 'said' of .*: 96, 97; give"):
        prepared(experiment, own)


def test_rows_that_weights_are_calibrated_on_need_answers(tmp_path, own):
    write(tmp_path / "data")
    objective = {"type": "distillation", "conformal": {"coverage": 0.5}}
    experiment = stored(tmp_path / "data", objective=objective)
    data = with_calibration(experiment.task, experiment.task.load(own), experiment.objective.calibration_rows)
    ready = prepare_local(experiment, data, own)
    said = ready.teacher["labeler"]["answered"]["calibration"]
    assert said[0] == said[1] > 0 and ready.student.fits
    put(table("validation", 24)[0].drop_columns(["said"]), tmp_path / "data", "validation")
    with pytest.raises(ConfigError, match="rows of calibration have no answer in 'said' of"):
        prepare_local(experiment, data, own)


def images(folder, column):
    rng = np.random.default_rng(0)
    folder.mkdir()
    for split, count in (("train", 60), ("test", 20)):
        labels = np.arange(count) % 3
        pixels = rng.integers(0, 256, (count, 64), np.uint8)
        said = np.eye(3)[labels] * 2 + rng.normal(size=(count, 3))
        columns = {"image": [row.tobytes() for row in pixels], "label": labels, column: said.tolist()}
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    return said


def test_images_of_parquet_files_have_answers_by_their_content(tmp_path, own):
    answers = images(tmp_path / "data", "logits")
    experiment = validate(
        Experiment,
        {
            "task": {"type": "image_classification", "data": {"type": "parquet", "path": str(tmp_path / "data")}},
            "teacher": {"labeler": {"type": "stored", "column": "logits", "values": "logits"}},
            "explorer": {"type": "none"},
        },
    )
    ready = prepared(experiment, own)
    data = experiment.task.load(own)
    teacher = load_teacher(experiment.teacher, ready.teacher, data.spec, 3, own)
    found = teacher.labeler(experiment.task.inputs(data.tables["test"], data.input_shape)).logits
    np.testing.assert_allclose(found, answers, rtol=1e-5)
    identity = validate(Experiment, {**experiment.model_dump(mode="json"), "explorer": {"type": "identity"}})
    block = synthesizer_of(identity, prepared(identity, own), teacher)(0, 0, identity.explorer)
    with torch.no_grad():
        again = teacher.labeler(torch.from_numpy(block.inputs)).logits
    np.testing.assert_allclose(block.columns["logits"], again, rtol=1e-6)


def test_a_data_set_of_hugging_face_has_answers_too(tmp_path, own):
    import datasets

    found = datasets.DatasetDict(
        {split: datasets.Dataset(table(split, rows)[0]) for split, rows in (("train", 96), ("test", 24))}
    )
    found.save_to_disk(str(tmp_path / "data"))
    ids, logits = said(stored(tmp_path / "data", "huggingface"), own)
    np.testing.assert_allclose(logits, table("train", 96)[1][ids], rtol=1e-6)


def changed(rows, column, change):
    values = rows[column].to_pylist()
    change(values)
    return rows.set_column(rows.column_names.index(column), column, pa.array(values))


def three(values):
    values[4] = [1.0, 2.0, 3.0]


def nothing(values):
    values[3] = values[90] = None


def not_finite(values):
    values[7] = [1.0, float("inf")]


def sum_above(values):
    values[2] += 0.01


@pytest.mark.parametrize(
    ("column", "change", "labeler", "said"),
    [
        ("said", three, {}, "row 4 of 'said' in .*train.parquet has 3 numbers, and the data has 2 classes .1 such"),
        ("said", nothing, {}, r"2 of 96 rows of train have no answer in 'said' of .*: 3, 90; give each of them one"),
        ("said", not_finite, {}, r"row 7 of 'said' \(1, inf\) in .* not finite, or lacks some \(1 such rows\)"),
        ("said", None, {"column": "sad"}, r"train.parquet has no column 'sad'; did you mean 'said'\?"),
        ("said", None, {"column": "text"}, "row 0 of 'text' in .* is '.*', expected a list of numbers"),
        ("said", None, {"column": "p_good"}, "is double, expected lists of 2 numbers; where each class has a column"),
        ("said", None, {"column": "said_{class}"}, r"has no column 'said_bad'"),
        ("said", None, {"column": "{class}said"}, r"has no column 'badsaid'"),
        ("said", None, {"classes": ["good", "best"]}, "names 2 classes, and the data has 2; look at 'bad', which"),
        ("said", None, {"values": "probabilities"}, r"row 0 .* has no probabilities, which .* up to 1 within 0.001 "),
        ("p_good", sum_above, {"column": "p_{class}", "values": "probabilities"}, r"row 2 of 'p_\{class\}' .*\(1 such"),
    ],
)  # fmt: skip
def test_answers_that_can_not_be_are_refused_by_row(tmp_path, own, column, change, labeler, said):
    write(tmp_path / "data")
    if change is not None:
        put(changed(table("train", 96)[0], column, change), tmp_path / "data", "train")
    with pytest.raises(ConfigError, match=said) as refused:
        prepared(stored(tmp_path / "data", labeler=labeler), own)
    assert str(refused.value).startswith("teacher.labeler.column: ") and "\n" not in str(refused.value)
    assert not list((own.within("teachers")).files())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"explorer": {"type": "random"}},
            "explorer.type: 'random' makes new rows, and teacher.labeler.type: 'stored'",
        ),
        ({"labeler": {"floor": 0.01}}, "floor: has no effect, since values are logits"),
        ({"labeler": {"column": "p_{class}", "classes": ["a", "b"]}}, "classes: has no effect, since each class"),
        ({"labeler": {"values": "odds"}}, "teacher.labeler.values"),
        ({"objective": {"type": "lelp"}}, "needs the teacher's embeddings, and teacher.labeler.type: 'stored'"),
    ],
)
def test_what_needs_a_labeler_that_can_be_asked_is_refused(tmp_path, changes, said):
    write(tmp_path / "data")
    with pytest.raises(ConfigError, match=said):
        stored(tmp_path / "data", **changes)


def test_augmented_rows_have_no_stored_answers(tmp_path):
    images(tmp_path / "data", "logits")
    settings = {
        "task": {"type": "image_classification", "data": {"type": "parquet", "path": str(tmp_path / "data")}},
        "teacher": {"labeler": {"type": "stored", "column": "logits", "values": "logits"}},
        "explorer": {"type": "none"},
        "train": {"augment": {"shift": 1}},
    }
    validate(Experiment, settings)
    settings["train"]["augment"]["consistent"] = True
    with pytest.raises(ConfigError, match=r"train\.augment\.consistent: true asks the teacher about augmented rows"):
        validate(Experiment, settings)


def test_data_without_tables_has_no_columns():
    with pytest.raises(ConfigError, match=r"reads answers from columns of the data, and task\.data\.type 'digits' has"):
        validate(
            Experiment,
            {
                "teacher": {"labeler": {"type": "stored", "column": "logits", "values": "logits"}},
                "explorer": {"type": "none"},
            },
        )
