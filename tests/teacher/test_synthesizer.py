import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tgt_ray.core.config import validate
from tgt_ray.core.loading import with_overrides
from tgt_ray.distributed.messages import Job
from tgt_ray.distributed.pool_actor import PoolSetup, TeacherGenerator
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.experiment.pool import PoolConfig
from tgt_ray.tasks import inputs_of
from tgt_ray.teacher.explorers import Gradient, Interpolation, Random, RandomMatched
from tgt_ray.teacher.module import Teacher
from tgt_ray.teacher.store import load_teacher
from tgt_ray.teacher.synthesizer import Recipe, Synthesizer, check_block
from tgt_ray.training.generation import inline_blocks, recipe_of, shown_rows, synthesizer_of
from tgt_ray.training.student import build_student

ROWS = 32


@pytest.fixture(scope="module")
def teacher(prepared, storage) -> Teacher:
    data = prepared.prepared.student
    return load_teacher(prepared.experiment.teacher, prepared.prepared.teacher, data.spec, data.num_classes, storage)


@pytest.fixture(scope="module")
def synthesizer(prepared, teacher) -> Synthesizer:
    return Synthesizer(teacher, prepared.prepared.anchors, Recipe(ROWS))


@pytest.fixture(scope="module")
def student(prepared):
    return build_student(prepared.experiment, prepared.prepared.student).eval().requires_grad_(False)


def arrays(block) -> dict:
    shown = {f"shown {name}": values for name, values in block.shown.items()}
    same = {name: np.array(getattr(block, name)) for name in ("request", "version", "explorer")}
    return {"inputs": block.inputs, "anchor": block.anchor, **block.columns, **shown, **same}


def equal(a, b) -> bool:
    a, b = arrays(a), arrays(b)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


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


@pytest.mark.parametrize(("steps", "every"), [(100, 1), (1000, 15), (4000, 62)])
def test_reconstructions_are_spread_over_the_run(prepared, steps, every):
    """Of 64 rows a step half are synthetic, 128 of them a request."""
    how = {"train.steps": steps, "train.batch_size": 64, "train.synthetic_ratio": 0.5, "pool.rows_per_request": 128}
    plain = prepared.experiment.model_dump(mode="json")
    config = validate(Experiment, with_overrides(plain, list(how.items())))
    shown = [request for request in range(3 * every) if shown_rows(config, request)]
    assert shown == [0, every, 2 * every]


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


def test_inline_blocks_come_in_order_with_the_student_as_it_is(synthesizer, prepared, student):
    live = build_student(prepared.experiment, prepared.prepared.student)
    step = itertools.count(10, 5)
    blocks = inline_blocks(synthesizer, prepared.experiment, live, first=4, step=lambda: next(step))
    first = next(blocks)
    assert first.request == 4 and first.version == 10
    expected = synthesizer(4, prepared.experiment.train.seed, prepared.experiment.explorer, student, 10)
    assert equal(first, expected)
    with torch.no_grad():
        live.criterion.head.weight.add_(torch.randn_like(live.criterion.head.weight))
    second = next(blocks)
    assert second.request == 5 and second.version == 15
    unchanged = synthesizer(5, prepared.experiment.train.seed, prepared.experiment.explorer, student, 15)
    assert not np.array_equal(second.inputs, unchanged.inputs)
    assert live.training, "generation leaves the student's mode alone"


def test_rows_that_are_not_finite_never_leave_inline_generation(prepared, teacher):
    class Broken(torch.nn.Module):
        def decode(self, latents):
            return teacher.generator.decode(latents) * float("nan")

    synthesizer = Synthesizer(Teacher(teacher.labeler, Broken()), prepared.prepared.anchors, Recipe(ROWS))
    config = prepared.experiment.model_copy(update={"explorer": Random()})
    blocks = inline_blocks(synthesizer, config, build_student(config, prepared.prepared.student), 0, lambda: 0)
    with pytest.raises(ValueError, match="request 0"):
        next(blocks)


def test_a_generator_works_in_one_thread_from_slot_to_slot(monkeypatch):
    """torch's libraries keep some 100 MB for each thread that has ever used them."""
    # Settings of a process of its own, which this one isn't.
    monkeypatch.setattr("tgt_ray.distributed.pool_actor.keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    made = TeacherGenerator(PoolSetup(PoolConfig(slot_length=2), "", None))
    made._ask = lambda slot, place: None
    made._make = lambda slot, place: threading.get_ident()
    threads = [thread for slot in range(3) for thread in made({"slot": np.array([slot])})]
    assert len(threads) == 6 and len(set(threads)) == 1


def test_a_warm_generator_takes_trials_of_other_ratios(monkeypatch, prepared, storage):
    """What it has loaded stays between trials as far as it is the same: norms are split where there are two sources alone."""
    monkeypatch.setattr("tgt_ray.distributed.pool_actor.keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    made = TeacherGenerator(PoolSetup(PoolConfig(), storage.root, None))
    made.loaded["prepared"] = ("reference", prepared.prepared)
    reference = SimpleNamespace(hex=lambda: "reference")
    synthesizers = []
    for number, (ratio, every) in enumerate([(0.5, 15), (1.0, 31), (0.5, 15)]):
        how = {"train.batch_norm": "per_source", "train.synthetic_ratio": ratio, "pool.rows_per_request": 128}
        how |= {"train.steps": 1000, "train.batch_size": 64}
        config = validate(Experiment, with_overrides(prepared.experiment.model_dump(mode="json"), list(how.items())))
        made._adopt(Job(number, config, (reference,), 0, 1, 0, 10))
        made.student.load_state_dict(build_student(config, prepared.prepared.student).state_dict())
        assert next(request for request in range(1, 40) if shown_rows(made.experiment, request)) == every
        assert made.synthesizer.recipe == recipe_of(config)
        synthesizers.append(made.synthesizer)
    assert synthesizers[0] is synthesizers[1] is synthesizers[2]
