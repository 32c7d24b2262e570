"""A form is chosen once, where it keeps the labels and is faster, and whatever it makes has a name of its own."""

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.helpers.experiments import changed
from tgt_ray.core.batch import Outputs
from tgt_ray.core.signals.of_labeler import LOGITS
from tgt_ray.core.storage import Storage
from tgt_ray.teacher.cache import TeacherCache
from tgt_ray.teacher.forms import choice as subject
from tgt_ray.teacher.forms import making
from tgt_ray.teacher.forms.choice import Compared, Rows, Tried, chosen, described, with_forms
from tgt_ray.teacher.forms.making import Says
from tgt_ray.teacher.forms.names import facts_of, form_facts, forms_of, speaker
from tgt_ray.teacher.module import Teacher

GOOD = Tried("folded", speed=1.3, agreement=100.0, kl=1e-6, turned=1e-6, start_s=0.1, worth=1.29)
MADE_ON = {"threads": 1, "device": "cpu"}
RECORD = {"labeler": {"identity": "a"}, "generator": {"identity": "b"}}


class Linear(nn.Module):
    """A labeler of two classes, and a generator whose rows are their latents."""

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[weight, -weight]]), requires_grad=False)

    def forward(self, inputs):
        return Outputs(inputs @ self.weight, inputs)

    def encode(self, inputs):
        return inputs

    def decode(self, latents):
        return latents


ROWS = Rows(torch.linspace(-1, 1, 400)[:, None])


def changing(by: float):
    """Make a form that gives other numbers."""
    return lambda module, example: lambda inputs: tuple(each + by for each in module(inputs))


def slow(module, example):
    return lambda inputs: (sum(torch.ones(200, 200) @ torch.ones(200, 200) for _ in range(3)), module(inputs))[1]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Turns of one call."""
    monkeypatch.setattr(subject, "SHORT_TURN_S", 0.0)
    monkeypatch.setattr(subject, "seconds_to_import", lambda step: 0.0)


@pytest.fixture
def teacher():
    return Teacher(Linear(), Linear())


@pytest.mark.parametrize(
    ("others", "best"),
    [
        ([], "folded"),
        ([replace(GOOD, form="bfloat16", speed=2, worth=1.9)], "bfloat16"),
        ([replace(GOOD, form="bfloat16", speed=2, worth=1.9, agreement=99.4)], "folded"),
        ([replace(GOOD, form="bfloat16", speed=2, worth=1.9, kl=0.0011)], "folded"),
        ([replace(GOOD, form="bfloat16", speed=2, worth=1.9, kl=float("nan"))], "folded"),
        ([replace(GOOD, form="bfloat16", speed=2, worth=1.9, turned=0.0009)], "bfloat16"),
        ([replace(GOOD, form="bfloat16", speed=2, worth=1.9, turned=0.0011)], "folded"),
        ([replace(GOOD, form="bfloat16", speed=2, worth=1.9, turned=float("nan"))], "folded"),
        ([replace(GOOD, form="compiled", speed=5, worth=1.2)], "folded"),
        ([Tried("openvino", lacking="not here")], "folded"),
    ],
)
def test_the_fastest_that_keeps_the_labels_is_chosen(others, best):
    assert chosen([GOOD, *others]) == chosen([*others, GOOD]) == best


def test_what_is_hardly_faster_is_not_chosen():
    assert chosen([replace(GOOD, worth=1.09)]) == chosen([]) == "reference"


def test_forms_are_measured_against_the_reference(teacher, monkeypatch):
    # Rows below 0.01 change their class: 3 of 400.
    monkeypatch.setitem(making.STEPS, "folded", lambda module, example: lambda x: tuple(module(x - 0.015)))
    monkeypatch.setitem(making.STEPS, "bfloat16", slow)

    def fails(module, example):
        raise RuntimeError("unheard\nof")

    monkeypatch.setitem(making.STEPS, "compiled", fails)
    tried = Compared(Says(teacher.labeler), ROWS.inputs, lambda said: said, 512, ("folded", "bfloat16", "compiled"))
    first, late, broken = tried.tried()
    assert first.agreement == 99.25 and 0 < first.kl < 0.01 and first.worth < first.speed and first.start_s > 0
    assert late.agreement == 100 and late.kl < 1e-5 and late.turned < 1e-9 and late.speed < 0.9
    assert broken == Tried("compiled", lacking="RuntimeError: unheard of")


def test_embeddings_that_turn_are_seen(monkeypatch):
    """Classes stay, and an embedding of two numbers turns by a right angle."""

    class Embeds(nn.Module):
        def forward(self, inputs):
            return Outputs(inputs.repeat(1, 2), torch.cat([inputs, torch.zeros_like(inputs)], dim=1))

    def turns(module, example):
        return lambda inputs: (module(inputs)[0], module(inputs)[1].flip(1))

    monkeypatch.setitem(making.STEPS, "folded", turns)
    rows = torch.linspace(0.5, 1, 10)[:, None]
    (tried,) = Compared(Says(Embeds()), rows, lambda said: said, 512, ("folded",)).tried()
    assert tried.agreement == 100 and tried.turned == pytest.approx(1) and not tried.keeps_labels


def test_a_labeler_without_embeddings_has_none_that_turn(monkeypatch):
    class Plain(nn.Module):
        def forward(self, inputs):
            return Outputs(inputs.repeat(1, 2), inputs[:, :0])

    monkeypatch.setitem(making.STEPS, "folded", changing(0.0))
    (tried,) = Compared(Says(Plain()), ROWS.inputs, lambda said: said, 512, ("folded",)).tried()
    assert tried.turned == 0 and tried.keeps_labels


def test_the_time_until_a_form_is_ready_counts(teacher, monkeypatch):
    monkeypatch.setattr(subject, "seconds_to_import", lambda step: 7.0)
    tried = Compared(Says(teacher.labeler), ROWS.inputs, lambda said: said, 512, ("bfloat16",)).tried()[0]
    assert tried.start_s > 7
    assert 0 < tried.work_s < 7
    assert tried.worth < tried.speed
    assert tried.worth == pytest.approx(tried.work_s / (tried.start_s + tried.work_s / tried.speed))


def test_generators_are_judged_by_the_labels_of_their_rows(teacher):
    compared = Compared.of(teacher, "generator", replace(ROWS, pixels=True))
    compared.forms = ("bfloat16",)
    assert compared.tried()[0].agreement == 100
    assert Compared.of(replace(teacher, samples=True), "generator", ROWS) is None
    assert Compared.of(replace(teacher, contextual=True), "generator", ROWS) is None


def test_a_choice_is_made_once_for_each_teacher_rows_and_machine(teacher, tmp_path, monkeypatch, caplog):
    asked = []
    monkeypatch.setattr(Compared, "tried", lambda self: (asked.append(self), [replace(GOOD, form="bfloat16")])[1])
    storage, given = Storage(tmp_path), (RECORD, lambda: ROWS)
    with caplog.at_level(logging.INFO):
        fast, record = with_forms(teacher, *given, "rows", storage, MADE_ON)
    assert forms_of(record) == fast.forms == {"labeler": "bfloat16", "generator": "bfloat16"} and len(asked) == 2
    assert "the labeler runs in the form 'bfloat16', 1.30 times as fast" in caplog.text
    assert record["forms"]["labeler"]["tried"][0]["agreement"] == 100
    assert with_forms(teacher, *given, "rows", storage, MADE_ON)[1] == record and len(asked) == 2
    with_forms(teacher, *given, "rows", storage, {**MADE_ON, "threads": 2})
    with_forms(teacher, *given, "others", storage, MADE_ON)
    assert len(asked) == 6
    other = {**RECORD, "generator": {"identity": "c"}}
    with_forms(teacher, other, lambda: ROWS, "rows", storage, MADE_ON)
    assert len(asked) == 7, "the labeler's choice serves with any generator"
    with_forms(teacher, {**RECORD, "generator": None}, lambda: ROWS, "rows", storage, MADE_ON)
    assert len(asked) == 7
    for file in (tmp_path / "forms").iterdir():
        file.write_bytes(file.read_bytes()[:-9])
    with_forms(teacher, *given, "rows", storage, MADE_ON)
    assert len(asked) == 9, "damaged records are made again"


def test_of_two_that_choose_at_once_the_second_follows_the_first(teacher, tmp_path, monkeypatch):
    given = teacher, {**RECORD, "generator": None}, lambda: ROWS, "rows", Storage(tmp_path), MADE_ON

    def meanwhile(self):
        monkeypatch.setattr(Compared, "tried", lambda self: [GOOD])
        with_forms(*given)
        return [replace(GOOD, form="bfloat16")]

    monkeypatch.setattr(Compared, "tried", meanwhile)
    assert with_forms(*given)[0].forms == {"labeler": "folded"}


def test_one_line_says_why_a_part_stays_the_reference(teacher, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(Compared, "tried", lambda self: [replace(GOOD, agreement=99.0)])
    with caplog.at_level(logging.INFO):
        fast, record = with_forms(
            replace(teacher, samples=True), RECORD, lambda: ROWS, "rows", Storage(tmp_path), MADE_ON
        )
    assert fast.forms == {"labeler": "reference", "generator": "reference"} and forms_of(record) == {}
    lines = [each for each in caplog.messages if "runs as" in each]
    assert len(lines) == 2 and "no form keeps its answers" in lines[0] and "'folded', 1.30 times" in lines[0]
    assert "the generator runs as the reference: what it decodes is drawn" in lines[1]
    nothing = {"form": "reference", "rows": 3, "tried": [{"form": "folded", "worth": None, "lacking": "no"}]}
    assert next(described("labeler", nothing)).endswith("1.1 times as fast")


def test_forms_are_part_of_names_and_the_reference_keeps_its_own(tmp_path):
    fast = {**RECORD, "forms": {role: {"form": "folded", "facts": facts_of("folded")} for role in RECORD}}
    slow = {**RECORD, "forms": {role: {"form": "reference", "facts": facts_of("reference")} for role in RECORD}}
    assert form_facts(RECORD) == form_facts(slow) == {} and set(form_facts(fast)) == {"labeler", "generator"}
    assert speaker(RECORD, "labeler") == speaker(slow, "labeler") == "a" != speaker(fast, "labeler")
    # Latents of real rows are always those of the reference.
    assert speaker(fast, "generator") == "b" and speaker({**RECORD, "generator": None}, "generator") is None
    keys = {
        TeacherCache(
            Storage(tmp_path), {"train": "t"}, {role: speaker(each, role) for role in ("labeler", "generator")}
        ).signal_key("train", LOGITS)
        for each in (RECORD, slow, fast)
    }
    assert len(keys) == 2


def test_gradients_are_the_references_and_labels_the_forms(teacher, monkeypatch):
    monkeypatch.setitem(making.STEPS, "folded", changing(1.0))
    fast = teacher.in_forms({"labeler": "folded", "generator": "folded"})
    rows, rng = ROWS.inputs, torch.Generator()
    assert torch.equal(fast.say(rows).logits, teacher.labeler(rows).logits + 1)
    assert torch.equal(fast.decode(rows, rng), rows + 1) and torch.equal(fast.relax(rows, rng, None), rows)
    assert fast.relax(rows.clone().requires_grad_(), rng, None).requires_grad
    assert torch.equal(fast.to("cpu").say(rows).logits, fast.say(rows).logits)


def test_a_precision_of_ones_own_is_refused(quick_experiment):
    with pytest.raises(ValueError, match=r"pool\.precision: bfloat16, but teacher.run_as: fast"):
        changed(quick_experiment, teacher__run_as="fast", pool__precision="bfloat16")
