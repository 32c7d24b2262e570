"""Changed inputs: anchors that are shifted, cropped, thinned out or mixed, alone and behind another explorer."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import text_runs
from tests.helpers.blocks import ROWS, equal
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.texts import SEPARATOR, to_bytes, to_texts
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.tasks import inputs_of
from tgt_ray.teacher.bank.key import bank_key
from tgt_ray.teacher.explorers import Around, Augment, Compose, Explorer, Gradient, Identity, Interpolation, Random
from tgt_ray.teacher.synthesizer import Recipe, Synthesizer

STILL: dict[str, Any] = {"step_size": 0.0}
ALL: dict[str, Any] = {"flip": True, "mix": "either", "randaugment": "rand-m9-n2", "step_size": 1.0}


class Own(Identity):
    """An explorer of a user's own that takes anchors as they are."""

    type: str = "tests.teacher.test_input_changes:Own"  # type: ignore[assignment]


@pytest.fixture(scope="module")
def images(prepared, digits):
    """The anchors' inputs."""
    return inputs_of(prepared.experiment.task, digits.tables["train"], digits.input_shape)


@pytest.fixture
def makes(prepared, teacher, images):
    def make(explorer: Explorer, request: int = 3, student=None, precision="float32", **more):
        recipe = Recipe(ROWS, pixels=True, precision=precision)
        return Synthesizer(teacher, prepared.prepared.anchors, recipe, images)(request, 0, explorer, student, **more)

    return make


def own_images(block, prepared, images):
    place = {int(row): number for number, row in enumerate(prepared.prepared.anchors.ids)}
    return images[[place[int(row)] for row in block.anchor]].numpy()


@pytest.mark.parametrize("explorer", [Augment(), Augment(**ALL), Compose(**ALL)], ids=lambda each: each.type)
def test_a_request_is_made_from_seed_and_number_alone_and_labelled_as_the_student_sees_it(makes, teacher, explorer):
    block = makes(explorer)
    torch.manual_seed(7)
    np.random.seed(7)
    assert equal(makes(explorer), block)
    assert not np.array_equal(makes(explorer, request=4).inputs, block.inputs)
    np.testing.assert_allclose(block.inputs * 255, np.round(block.inputs * 255), atol=1e-4)
    with torch.no_grad():
        said = teacher.labeler(torch.from_numpy(block.inputs)).logits
    np.testing.assert_allclose(block.columns["logits"], said, atol=1e-5)


def test_at_strength_0_anchors_stay_themselves_up_to_8_bits(makes, prepared, images):
    block = makes(Augment(**STILL))
    np.testing.assert_allclose(block.inputs, own_images(block, prepared, images), atol=0.5 / 255 + 1e-6)


def test_more_strength_goes_farther(makes, prepared, images):
    away = []
    for strength in (0.1, 0.4, 1.0):
        block = makes(Augment(step_size=strength))
        away.append(float(np.square(block.inputs - own_images(block, prepared, images)).mean()))
    assert away == sorted(away) and away[2] > 3 * away[0] > 0


def test_anchors_of_any_class_are_mixed(makes, prepared, images):
    """MixUp alone: what was added to an anchor is a share of another one, often of another class."""
    block = makes(Augment(step_size=1.0, crop=0.0, shift=0.0))
    own, labels = own_images(block, prepared, images), prepared.prepared.anchors.labels
    label = dict(zip(prepared.prepared.anchors.ids.tolist(), labels.tolist(), strict=True))
    classes = []
    for row, anchor, number in zip(block.inputs, own, block.anchor, strict=True):
        added = (row - anchor)[None] / np.maximum(np.linspace(0.02, 0.5, 60), 1e-9)[:, None, None, None]
        distance = np.abs(images.numpy()[None] - anchor - added[:, None]).mean(axis=(2, 3, 4))
        classes.append(labels[distance.min(axis=0).argmin()] == label[int(number)])
    assert 0 < sum(classes) < len(classes) / 2


def test_composed_without_strength_it_is_the_other_explorer(makes, student):
    for other in (Random(sigma=0.3), Gradient(), Interpolation(partner="same_class")):
        block = makes(Compose(of=other, **STILL), student=student, version=4)
        np.testing.assert_array_equal(block.inputs, makes(other, student=student, version=4).inputs)
        assert block.explorer == "compose" and block.version == 4


def test_composed_it_changes_what_was_decoded(makes):
    decoded, changed = makes(Random()), makes(Compose(mix="none"))
    assert np.array_equal(decoded.anchor, changed.anchor) and not np.array_equal(decoded.inputs, changed.inputs)
    shift = makes(Compose(mix="none", crop=0.0, shift=0.25, step_size=1.0)).inputs
    for row, before in zip(shift, decoded.inputs, strict=True):
        padded = np.pad(before[0], 2)
        assert any(
            np.allclose(padded[down : down + 8, right : right + 8], row[0], atol=1 / 255)
            for down in range(5)
            for right in range(5)
        )


def test_composed_rows_do_not_depend_on_what_is_shown(makes):
    np.testing.assert_array_equal(makes(Compose(), shown=0).inputs, makes(Compose(), shown=9).inputs)


def test_half_precision_is_rounded_once_at_the_end(makes, teacher):
    block = makes(Compose(**ALL), precision="bfloat16")
    assert block.inputs.dtype == np.float32 and len(np.unique(np.round(block.inputs * 255, 4) % 1)) < 3


def test_what_a_composed_explorer_needs_follows_from_the_other_one():
    for other in (Random(), Gradient(), Interpolation()):
        composed = Compose(of=other)
        for name in ("on_policy", "needs_neighbours", "needs_differentiable", "decodes"):
            assert getattr(composed, name) == getattr(other, name), (other.type, name)
        assert not composed.unchanged and not composed.keeps_class
    assert Compose(of=Gradient()).revision != Compose(of=Random()).revision
    balanced = Compose(of=Interpolation(), anchors="balanced").within
    assert isinstance(balanced, Interpolation) and balanced.anchors == "balanced"


def test_the_bank_of_a_composed_explorer_is_named_after_both(prepared, monkeypatch):
    def key(**settings):
        made_from = {"labeler": "l", "generator": "g"}
        generator = prepared.experiment.teacher.generator
        return bank_key(Recipe(8), Compose(**settings), generator, made_from, 0, {})[0]

    before = key()
    assert len({before, key(of=Random(sigma=0.1)), key(of=Interpolation()), key(step_size=0.1)}) == 4
    monkeypatch.setattr(Random, "revision", 77)
    assert key() != before


@pytest.mark.parametrize(
    ("explorer", "said"),
    [
        ({"type": "compose", "of": {"type": "augment"}}, "unknown type 'augment'"),
        ({"type": "compose", "of": {"type": "random", "anchors": "balanced"}}, "set explorer.anchors"),
        ({"type": "compose", "of": {"type": "tests.teacher.test_input_changes:Own"}}, "of: .*Own' decodes no latents"),
        ({"type": "compose", "of": Compose()}, "of: 'compose' decodes no latents"),
        ({"type": "augment", "dropout": 0.1}, "explorer.dropout: is for texts, and task.type 'image_classification'"),
        ({"type": "augment", "step_size": 1.5}, "step_size"),
    ],
)
def test_settings_without_effect_are_refused(explorer, said):
    with pytest.raises(ConfigError, match=said):
        validate(Experiment, {"explorer": explorer})


def of_texts(folder, explorer, **data) -> Experiment:
    plain = text_runs.experiment(folder, data=data).model_dump(mode="json")
    del plain["teacher"]["generator"]
    return validate(Experiment, {**plain, "explorer": explorer})


@pytest.mark.parametrize("data", [{}, {"pair_column": "hypothesis"}], ids=["texts", "pairs"])
def test_texts_lose_words_and_get_spans_of_others_and_need_no_generator(sentences, tmp_path, data):
    from tgt_ray.core.storage import Storage
    from tgt_ray.teacher.store import load_teacher
    from tgt_ray.training.generation import synthesizer_of
    from tgt_ray.training.local import prepare_local

    experiment = of_texts(sentences, {"type": "augment", "step_size": 0.8}, **data)
    rows, storage = experiment.task.load(), Storage(tmp_path)
    ready = prepare_local(experiment, rows, storage)
    assert ready.teacher["generator"] is None
    teacher = load_teacher(experiment.teacher, ready.teacher, ready.student.spec, ready.student.num_classes, storage)
    make = synthesizer_of(experiment, ready, teacher)
    block, again = (make(5, 0, experiment.explorer) for _ in range(2))
    assert equal(block, again) and block.inputs.dtype == np.uint8
    there = inputs_of(experiment.task, rows.tables["train"], rows.input_shape)
    place = {int(row): number for number, row in enumerate(ready.anchors.ids)}
    anchors = to_texts(there[[place[int(row)] for row in block.anchor]].numpy())
    texts = to_texts(block.inputs)
    known = {word for text in to_texts(there.numpy()) for word in text.replace(SEPARATOR, " ").split()}
    changed = [text for text, anchor in zip(texts, anchors, strict=True) if text != anchor]
    assert len(changed) > len(texts) / 2
    assert {word for text in texts for word in text.replace(SEPARATOR, " ").split()} <= known
    assert {text.count(SEPARATOR) for text in texts} == {len(data)}
    with torch.no_grad():
        said = teacher.labeler(torch.from_numpy(block.inputs)).logits
    np.testing.assert_allclose(block.columns["logits"], said, atol=1e-5)
    still = make(5, 0, Augment(**STILL))
    assert to_texts(still.inputs) == anchors


@pytest.mark.parametrize("name", ["shift", "crop", "flip", "mix", "randaugment"])
def test_settings_of_images_are_refused_for_texts(sentences, name):
    value = {"flip": True, "mix": "none", "randaugment": "rand-m9"}.get(name, 0.1)
    with pytest.raises(ConfigError, match=rf"explorer\.{name}: is for images, and task\.type 'text_classification'"):
        of_texts(sentences, {"type": "augment", name: value})


def test_texts_need_a_generator_where_one_makes_rows(sentences):
    with pytest.raises(ConfigError, match=r"teacher\.generator\.type: 'mlp_autoencoder' is for images"):
        of_texts(sentences, {"type": "compose"})


def test_a_mixed_text_that_is_too_long_is_cut_as_any_text_is():
    rows = torch.from_numpy(to_bytes(["a b c d", f"e{SEPARATOR}f g h"], 16))
    others = torch.from_numpy(to_bytes(["äöüäöü ßßßßß", f"äöüä{SEPARATOR}ßßß"], 16))
    for seed in range(20):
        around = Around(lambda: others, torch.Generator().manual_seed(seed))
        changed = Augment(step_size=1.0, span=0.99, dropout=0.0).change(rows, around)
        assert changed.shape == rows.shape and changed.dtype == torch.uint8
        texts = to_texts(changed.numpy())
        assert all("\ufffd" not in text for text in texts) and texts[1].count(SEPARATOR) == 1
