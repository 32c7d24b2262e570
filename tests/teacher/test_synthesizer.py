"""Synthetic rows: made from seed and number alone, and labelled as the student sees them."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.helpers.blocks import ROWS, arrays, equal
from tgt_ray.core.config import validate
from tgt_ray.core.signals.of_generator import LATENT
from tgt_ray.core.signals.of_labeler import LOGITS
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.tasks import inputs_of
from tgt_ray.teacher.explorers import Gradient, Interpolation, Random, RandomMatched
from tgt_ray.teacher.synthesizer import Recipe, Synthesizer, check_block
from tgt_ray.teacher.transfer_set import signals_of_unchanged
from tgt_ray.training.generation import synthesizer_of
from tgt_ray.training.local import prepare_local
from tgt_ray.training.student import build_student


@pytest.mark.parametrize("explorer", [Random(), RandomMatched(), Interpolation(), Gradient()], ids=lambda e: e.type)
def test_a_request_is_made_from_seed_and_number_alone(synthesizer, prepared, teacher, student, explorer):
    first = synthesizer(3, 0, explorer, student)
    synthesizer(9, 5, explorer, student)
    torch.manual_seed(99)
    another_actor = Synthesizer(teacher, prepared.prepared.anchors, Recipe(ROWS))
    assert equal(another_actor(3, 0, explorer, student), first)
    for request, seed in ((4, 0), (3, 1), (0, 3)):
        other = synthesizer(request, seed, explorer, student)
        assert not np.array_equal(other.anchor, first.anchor)
        assert not np.array_equal(other.inputs, first.inputs)


def test_the_identity_gives_anchors_as_they_are_with_what_the_teacher_says_of_them(prepared, teacher):
    data, explorer = prepared.prepared.student, {"type": "identity"}
    config = validate(Experiment, {**prepared.experiment.model_dump(mode="json"), "explorer": explorer})
    inputs = inputs_of(config.task, data.tables["train"], data.input_shape)
    block = synthesizer_of(config, prepared.prepared, teacher)(0, 0, config.explorer)
    place = {number: row for row, number in enumerate(data.tables["train"]["id"].to_pylist())}
    rows = [place[number] for number in block.anchor.tolist()]
    assert len(set(rows)) > 100
    assert np.array_equal(block.inputs, inputs[rows].numpy())
    assert np.array_equal(block.shown["reconstructed"], block.inputs[:16])
    cached = data.columns["logits"][rows]
    np.testing.assert_allclose(block.columns["logits"], cached, atol=1e-4)


class Counting(torch.nn.Module):
    """Counts the rows that a labeler is asked about."""

    def __init__(self, labeler):
        super().__init__()
        self.labeler, self.rows = labeler, 0

    def forward(self, inputs):
        self.rows += len(inputs)
        return self.labeler(inputs)


def half_labelled(data):
    """The same rows, every second one without its label."""
    train = data.tables["train"]
    places = np.arange(len(train))
    rest = train.take(places[1::2])
    rest = rest.set_column(rest.column_names.index("label"), "label", pa.array(np.full(len(rest), -1)))
    tables = {**data.tables, "train": train.take(places[::2]), "unlabelled": rest}
    return replace(data, tables=tables, fingerprints={**data.fingerprints, "train": "even", "unlabelled": "odd"})


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_unchanged_anchors_take_what_the_teacher_cache_has(storage, teacher, quick_experiment, digits, alpha):
    """Half of the anchors have no label; the labeler isn't asked about one of them, but for those that are shown."""
    plain = quick_experiment.model_dump(mode="json")
    config = validate(
        Experiment, {**plain, "explorer": {"type": "identity"}, "objective": {**plain["objective"], "alpha": alpha}}
    )
    ready = prepare_local(config, half_labelled(digits), storage)
    names = [ready.student.tables[name].num_rows for name in ("train", "unlabelled")]
    assert len(ready.anchors.columns["logits"]) == len(ready.anchors.ids) == sum(names)
    counting = replace(teacher, labeler=Counting(teacher.labeler))
    synthesizer = synthesizer_of(config, ready, counting)
    block = synthesizer(0, 0, config.explorer, shown=0)
    assert counting.labeler.rows == 0
    assert len(set(block.anchor) - set(ready.student.tables["train"]["id"].to_pylist())) > 20
    with torch.no_grad():
        said = teacher.labeler(torch.from_numpy(block.inputs)).logits
    np.testing.assert_allclose(block.columns["logits"], said, atol=1e-4)
    shown = synthesizer(0, 0, config.explorer, shown=5)
    assert counting.labeler.rows == 5
    np.testing.assert_array_equal(shown.shown["top_class"], said[:5].argmax(dim=1))
    asked = Synthesizer(counting, replace(ready.anchors, columns={}), synthesizer.recipe, synthesizer.inputs)
    again = asked(0, 0, config.explorer, shown=0)
    assert counting.labeler.rows == 5 + len(again)
    np.testing.assert_allclose(again.columns["logits"], block.columns["logits"], atol=1e-4)


def test_signals_of_labels_are_not_kept_for_rows_without_one(quick_experiment, digits):
    class Labelled(type(LOGITS)):
        looks_at_labels = True

    generator = quick_experiment.teacher.generator
    assert signals_of_unchanged(digits, generator, (Labelled(), LATENT)) == (Labelled(),)
    assert signals_of_unchanged(half_labelled(digits), generator, (Labelled(), LOGITS)) == (LOGITS,)


def test_seed_and_request_do_not_run_together(synthesizer):
    assert not np.array_equal(
        synthesizer(1, 11, Random()).anchor, synthesizer(11, 1, Random()).anchor
    ) and not np.array_equal(synthesizer(11, 1, Random()).anchor, synthesizer(1, 1, Random()).anchor)


def test_rows_have_their_shapes_and_provenance(synthesizer, student, prepared):
    block = synthesizer(7, 2, Gradient(), student, version=40)
    assert block.inputs.shape == (ROWS, 1, 8, 8) and block.inputs.dtype == np.float32
    assert block.columns["logits"].shape == (ROWS, 10) and block.columns["logits"].dtype == np.float32
    assert (block.request, block.version, block.explorer) == (7, 40, "gradient")
    assert all(len(values) == ROWS for values in (block.inputs, block.anchor, *block.columns.values()))
    assert set(block.anchor) <= set(prepared.prepared.anchors.ids)
    assert synthesizer(7, 2, Random()).version == -1


def test_some_requests_carry_reconstructions_of_their_first_anchors(synthesizer, teacher, prepared):
    assert {len(values) for values in synthesizer(7, 2, Random(), shown=0).shown.values()} == {0}
    block, anchors = synthesizer(32, 2, Random()), prepared.prepared.anchors
    place = {int(row): i for i, row in enumerate(anchors.ids)}
    few = block.anchor[: len(block.shown["reconstructed"])]
    assert 0 < len(few) <= 16
    latents = torch.from_numpy(anchors.latents[[place[int(row)] for row in few]])
    with torch.no_grad():
        np.testing.assert_allclose(block.shown["reconstructed"], teacher.generator.decode(latents), atol=1e-6)
    p = torch.from_numpy(block.columns["logits"][:16]).softmax(dim=1)
    np.testing.assert_array_equal(block.shown["top_class"], p.argmax(dim=1))
    np.testing.assert_allclose(block.shown["top_share"], p.amax(dim=1), rtol=1e-5)


def test_the_anchor_column_names_the_rows_the_synthetic_ones_come_from(synthesizer, teacher, prepared):
    block, anchors = synthesizer(0, 0, Random(sigma=0)), prepared.prepared.anchors
    place = {int(row): i for i, row in enumerate(anchors.ids)}
    latents = torch.from_numpy(anchors.latents[[place[int(row)] for row in block.anchor]])
    with torch.no_grad():
        np.testing.assert_allclose(block.inputs, teacher.generator.decode(latents), atol=1e-6)


def test_the_labeler_labels_what_the_student_sees(synthesizer, teacher):
    block = synthesizer(1, 0, Random())
    with torch.no_grad():
        logits = teacher.labeler(torch.from_numpy(block.inputs)).logits
    np.testing.assert_allclose(block.columns["logits"], logits, atol=1e-5)


@pytest.mark.parametrize("anchors", ["natural", "balanced", 0.5])
def test_anchors_are_drawn_by_their_quota(prepared, teacher, anchors):
    ready, size = prepared.prepared.anchors, 4096
    block = Synthesizer(teacher, ready, Recipe(size))(0, 0, Random(anchors=anchors))
    counts = np.bincount(ready.labels)
    exponent = {"natural": 1.0, "balanced": 0.0}.get(anchors, anchors)
    expected = counts**exponent / (counts**exponent).sum()
    label = dict(zip(ready.ids.tolist(), ready.labels.tolist(), strict=True))
    drawn = np.bincount([label[row] for row in block.anchor.tolist()], minlength=10) / size
    spread = np.sqrt(expected * (1 - expected) / size)
    assert (np.abs(drawn - expected) < 4.5 * spread).all()


def test_the_gradient_explorer_looks_at_the_student_it_is_given(synthesizer, prepared, student):
    torch.manual_seed(1)
    other = build_student(prepared.experiment, prepared.prepared.student).eval().requires_grad_(False)
    for weights in other.parameters():
        weights.add_(torch.randn_like(weights))
    mine, its = (synthesizer(0, 0, Gradient(), s) for s in (student, other))
    np.testing.assert_array_equal(mine.anchor, its.anchor)
    assert not np.array_equal(mine.inputs, its.inputs)


def test_a_gradient_without_a_student_is_a_mistake_in_the_code(synthesizer):
    with pytest.raises(AssertionError, match="on_policy"):
        synthesizer(0, 0, Gradient())


@pytest.mark.parametrize("column", ["inputs", "logits"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_refused_by_request(synthesizer, column, value):
    block = synthesizer(5, 0, Random())
    check_block(block)
    arrays(block)[column][3, 0] = value
    with pytest.raises(ValueError, match=f"request 5: .*'{column}'"):
        check_block(block)
