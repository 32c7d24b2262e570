"""A run whose teacher is to be fast has its real and synthetic rows from the chosen forms, under names of their own."""

import numpy as np
import pytest
import torch

from tests.helpers.experiments import short
from tgt_ray.core.storage import Storage
from tgt_ray.tasks import inputs_of
from tgt_ray.teacher.bank.bank import Bank
from tgt_ray.teacher.bank.key import machine
from tgt_ray.teacher.fingerprints import check_same
from tgt_ray.teacher.forms import choice
from tgt_ray.teacher.forms.choice import Compared, Tried
from tgt_ray.teacher.forms.making import decodes_in, labels_in
from tgt_ray.teacher.store import load_teacher
from tgt_ray.training.banked import bank_of
from tgt_ray.training.local import prepare_local, train_local
from tgt_ray.training.preparation import found_teacher, make_teacher


@pytest.fixture
def fast(prepared, monkeypatch):
    """An experiment whose labeler and generator run in bfloat16, whatever is measured."""
    monkeypatch.setattr(
        Compared,
        "tried",
        lambda self: [Tried("bfloat16", speed=9, agreement=100, kl=0, turned=0, start_s=0, work_s=9, worth=9)],
    )
    return short(prepared.experiment, teacher__run_as="fast", explorer__type="random", fit_check__on_low="skip")


def made(storage: Storage, key: str):
    """The first request's rows in a bank; None where it has none."""
    bank = Bank(storage, key)
    bank.look()
    return bank.read(0)


def test_real_and_synthetic_rows_are_those_of_the_forms(fast, prepared, digits, storage):
    reference = prepared.prepared
    ready = prepare_local(fast, digits, storage)
    assert ready.teacher["forms"]["labeler"]["form"] == ready.teacher["forms"]["generator"]["form"] == "bfloat16"
    teacher = load_teacher(fast.teacher, ready.teacher, digits.spec, digits.num_classes, storage)
    inputs = inputs_of(fast.task, digits.tables["train"], digits.input_shape)[:]
    with torch.no_grad():
        plain, said = teacher.labeler(inputs).logits, labels_in("bfloat16", teacher.labeler)(inputs).logits
    np.testing.assert_allclose(ready.student.columns["logits"], said, atol=0.05)
    np.testing.assert_allclose(reference.student.columns["logits"], plain, atol=1e-4)
    assert (ready.student.columns["logits"] != reference.student.columns["logits"]).mean() > 0.9
    # Latents are those of the reference.
    assert np.array_equal(ready.anchors.latents, reference.anchors.latents)

    here = machine(torch.get_num_threads(), "cpu")
    bank, slow = (bank_of(fast, each, storage, here) for each in (ready, reference))
    before = made(storage, slow.key)  # of another test, perhaps
    train_local(fast, ready, storage)
    assert bank.key != slow.key and ready.fingerprints["teacher_cache"] != reference.fingerprints["teacher_cache"]
    block = made(storage, bank.key)
    assert block is not None and (made(storage, slow.key) is None) == (before is None)
    rows = torch.from_numpy(np.asarray(block.inputs, np.float32))
    logits = labels_in("bfloat16", teacher.labeler)(rows).logits.numpy()
    np.testing.assert_allclose(block.columns["logits"], logits, atol=0.05)
    with torch.no_grad():
        plain = teacher.labeler(rows).logits.numpy()
    assert (block.columns["logits"] == logits).mean() > 0.9 > 0.1 > (block.columns["logits"] == plain).mean()
    start = torch.from_numpy(np.asarray(block.shown["reconstructed"], np.float32))
    latents = torch.from_numpy(ready.anchors.latents[np.searchsorted(ready.anchors.ids, block.anchor[: len(start)])])
    assert torch.allclose(start, decodes_in("bfloat16", teacher.generator)(latents), atol=0.01)


def test_the_gradient_is_the_references(fast, digits, storage):
    gradient = short(fast, explorer__type="gradient")
    run = train_local(gradient, prepare_local(gradient, digits, storage), storage)
    assert run.step == gradient.train.steps and np.isfinite(run.history[-1]["train_loss"])


def test_the_reference_keeps_all_its_names(fast, prepared, digits, storage, tmp_path, monkeypatch):
    own = Storage(tmp_path)
    (tmp_path / "teachers").symlink_to(storage.path("teachers"))
    monkeypatch.setattr(choice, "chosen", lambda tried: "reference")
    ready = prepare_local(fast, digits, own)
    assert ready.teacher["forms"]["labeler"]["form"] == "reference" and "forms" not in ready.fingerprints
    assert ready.fingerprints == prepared.prepared.fingerprints


def test_a_run_does_not_go_on_with_another_form(fast, prepared, digits, storage):
    ready = prepare_local(fast, digits, storage)
    check_same({"fingerprints": ready.fingerprints}, ready.fingerprints, ready.teacher)
    assert ready.student.taught_by == {
        **prepared.prepared.student.taught_by,
        "labeler's form": "bfloat16",
        "generator's form": "bfloat16",
    }
    with pytest.raises(ValueError, match="the form in which the teacher runs has changed"):
        check_same({"fingerprints": prepared.prepared.fingerprints}, ready.fingerprints, ready.teacher)


def test_forms_are_measured_with_the_threads_of_those_who_use_them(fast, digits, storage, tmp_path, monkeypatch):
    own, seen = Storage(tmp_path), []
    (tmp_path / "teachers").symlink_to(storage.path("teachers"))
    monkeypatch.setattr(Compared, "tried", lambda self: (seen.append(torch.get_num_threads()), [])[1])
    before = torch.get_num_threads()
    record = make_teacher(fast, digits, own, "cpu", threads=2)[1]
    assert seen == [2, 2] and torch.get_num_threads() == before
    assert record["forms"]["labeler"]["made_on"]["threads"] == 2
    # On Ray the choice belongs to the machine of the teacher's task.
    assert found_teacher(fast, digits, own) is None
