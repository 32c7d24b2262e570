"""Consistent teaching: the teacher labels augmented real rows as the student sees them, once for all runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers.experiments import changed, short, tiny
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.signals.of_labeler import LOGITS
from tgt_ray.entrypoints import api
from tgt_ray.experiment.controls import control
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.tasks import inputs_of
from tgt_ray.teacher.versions import Changes, Versions
from tgt_ray.training import preparation
from tgt_ray.training.batches import Batches, StudentInputs
from tgt_ray.training.local import prepare_local
from tgt_ray.training.plan import plan_of

CONSISTENT = {"shift": 1, "flip": True, "consistent": True, "versions": 3}
PLAIN = {"explorer.type": "none", "train.augment": CONSISTENT}


@pytest.fixture(params=["natural", "balanced"])
def batches(request, prepared, digits, storage):
    """The batches of a run, and the labels of its rows."""
    experiment = changed(prepared.experiment, {**PLAIN, "train.sampling": request.param, "train.batch_size": 24})
    ready = prepare_local(experiment, digits, storage)
    plan = plan_of(experiment, digits.labels("train"))
    inputs = StudentInputs(experiment.task, ready.student, torch.nn.Identity())
    return Batches(experiment, ready.student, plan, inputs), plan


def test_the_teacher_says_of_a_row_what_it_says_of_the_pixels_that_the_student_sees(batches, teacher, digits):
    made, plan = batches
    images = made.inputs.of("train")
    for step in (0, 3, 40):
        batch, places = made.batch(step, None), plan.real_indices(step)
        with torch.no_grad():
            torch.testing.assert_close(batch.teacher["logits"], teacher.labeler(batch.inputs).logits)
            own = teacher.labeler(images[places]).logits
        assert not torch.allclose(batch.teacher["logits"], own, atol=0.1)
        assert np.array_equal(batch.labels, digits.labels("train")[places]), "labels are those of the data"
        assert not torch.equal(batch.inputs, images[places])
        again = made.batch(step, None)
        assert torch.equal(again.inputs, batch.inputs)


def test_each_epoch_takes_the_next_version():
    plan = plan_of(changed(tiny(), {**PLAIN, "train.batch_size": 10}), np.zeros(20, np.int64))
    versions = [set(plan.real_versions(step, 3).tolist()) for step in range(8)]
    assert versions == [{0}, {0}, {1}, {1}, {2}, {2}, {0}, {0}]
    drawn = replace(plan, phases=((0, np.full(20, 1 / 20)),))
    assert set(drawn.real_versions(0, 3).tolist()) == {0, 1, 2}


@pytest.mark.parametrize("randaugment", [None, "rand-m9-n2"])
def test_a_row_s_versions_are_the_same_in_any_part_and_differ(digits, prepared, randaugment):
    how = Changes(2, True, randaugment, 4)
    rows = Versions(digits.tables["train"], how)
    task, shape, size = prepared.experiment.task, digits.input_shape, len(digits.tables["train"])
    images = inputs_of(task, digits.tables["train"], shape)
    assert len(rows) == 4 * size
    whole = torch.cat([part.rows_of(task, shape, "cpu")[0] for part in rows.parts()])
    piece = rows.slice(size - 5, 700)
    cut = torch.cat([part.rows_of(task, shape, "cpu")[0] for part in piece.parts()])
    assert len(piece) == 700 and torch.equal(cut, whole[size - 5 :][:700])
    places, versions = np.array([7, 0, size - 1]), np.array([3, 1, 0])
    assert torch.equal(how.images(images[places], size, places, versions), whole[versions * size + places])
    assert len({whole[version * size + 7].numpy().tobytes() for version in range(4)}) == 4
    fewer = replace(how, versions=2)
    assert torch.equal(fewer.images(images[places], size, places, versions % 2), whole[(versions % 2) * size + places])
    labels = np.concatenate([part.rows_of(task, shape, "cpu")[1] for part in rows.parts()])
    assert np.array_equal(labels, np.tile(digits.labels("train"), 4))


def test_the_name_of_versions_covers_all_that_pixels_follow_from():
    base = Changes(1, False, None, 4)
    others = [replace(base, shift=2), replace(base, flip=True), replace(base, randaugment="rand-m5")]
    assert len({each.key for each in (base, replace(base, versions=5), *others)}) == 5
    assert replace(base).key == base.key


def test_the_teacher_is_asked_once_for_all_runs_whatever_their_seed(tmp_path, monkeypatch):
    asked = []
    ask = preparation.ask_teacher

    def counting(experiment, teacher, table, *rest):
        asked.append(len(table))
        return ask(experiment, teacher, table, *rest)

    monkeypatch.setattr("tgt_ray.training.local.ask_teacher", counting)
    experiment = short(tiny(), PLAIN)
    first = api.run(experiment, storage=str(tmp_path), name="a", local=True).record
    rows = first["data"]["rows"]["train"]
    assert asked == [rows, 3 * rows]
    files = sorted(each.name for each in (tmp_path / "teacher_cache").iterdir())
    for name, values in {"b": {"train.seed": 1}, "c": {"train.augment.consistent": False}}.items():
        plain = {"train.augment.versions": 16} if name == "c" else {}
        api.run(changed(experiment, {**values, **plain}), storage=str(tmp_path), name=name, local=True)
    assert asked == [rows, 3 * rows] and files == sorted(each.name for each in (tmp_path / "teacher_cache").iterdir())
    again = api.run(experiment, storage=str(tmp_path), name="d", local=True).record["result"]
    assert again["train_loss"] == first["result"]["train_loss"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"objective.alpha": 0.0},
            r"train\.augment\.consistent: true, but objective\.type 'distillation' takes nothing",
        ),
        ({"objective": {"type": "consistency"}}, r"objective\.type 'consistency' takes nothing from the teacher"),
        ({"train.augment": {**CONSISTENT, "mixup": 0.2}}, r"train\.augment: mixup: 0\.2, but with consistent: true"),
        (
            {"train.augment": {"shift": 1, "versions": 3}},
            r"train\.augment: versions: 3 has no effect without consistent",
        ),
    ],
)
def test_what_would_have_no_effect_is_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        changed(tiny(), {**PLAIN, **values})


def test_where_nothing_is_changed_nothing_is_asked():
    assert changed(tiny(), {"train.augment": {"consistent": True}}).train.relabelled is None
    assert changed(tiny(), {"train.augment": {"shift": 1}}).train.relabelled is None


def test_controls_and_trials_of_a_sweep():
    experiment = changed(tiny(), PLAIN)
    assert control(experiment, "one_hot").train.augment.shift == 1
    assert control(experiment, "one_hot").train.relabelled is None
    assert control(experiment, "distillation").train.relabelled == experiment.train.relabelled
    space = {"train.augment.shift": {"choice": [0, 1, 2]}, "train.augment.flip": {"choice": [False, True]}}
    sweep = SweepConfig.model_validate({"experiment": experiment.model_dump(mode="json"), "space": space})
    found = sweep.augmented_rows()
    assert {(each.shift, each.flip) for each in found} == {(0, True), (1, False), (1, True), (2, False), (2, True)}
    levels = {"train.augment.shift": {"integers": [1, 4], "levels": 4}}
    sweep = SweepConfig.model_validate({"experiment": experiment.model_dump(mode="json"), "space": levels})
    assert [each.shift for each in sweep.augmented_rows()] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"space\.train\.augment\.shift: with train\.augment\.consistent"):
        SweepConfig.model_validate(
            {
                "experiment": experiment.model_dump(mode="json"),
                "space": {"train.augment.shift": {"integers": [1, 4]}},
            }
        )


def test_signals_of_versions_are_those_that_objectives_need(prepared, digits, storage):
    experiment = changed(prepared.experiment, PLAIN)
    ready = prepare_local(experiment, digits, storage)
    (columns,) = ready.student.versions.values()
    assert columns.keys() == {column.name for column in LOGITS.columns}
    assert len(columns["logits"]) == 3 * len(digits.tables["train"])
