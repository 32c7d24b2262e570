"""What is compared of an export before it counts."""

import numpy as np
import pytest

import tgt_ray
from tests.helpers.students import write_student
from tests.helpers.text_runs import experiment
from tgt_ray.core.errors import ConfigError
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.inference.export.comparing import compare, own_answers, random_images, random_texts

SCORES = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)


def test_answers_that_are_the_same_but_for_the_order_of_sums_pass():
    assert compare("timm", SCORES, SCORES + 5e-4) == {"rows": 16, "largest_difference": pytest.approx(5e-4, rel=1e-2)}
    compare("timm", SCORES / 1000, SCORES / 1000 + 5e-5)


@pytest.mark.parametrize(
    ("expected", "found", "said"),
    [
        (SCORES, SCORES + 0.002, "--format timm: its library gives other scores than the student .* by up to 0.002;"),
        (SCORES / 1000, SCORES / 1000 + 5e-4, "by up to 0.0005;"),  # scores that hardly vary
        (SCORES, np.where(SCORES > 1, np.nan, SCORES), "by up to nan"),
        (SCORES, SCORES[:, :2], "by up to inf;"),
        (np.array([[1.0, 1.00001]]), np.array([[1.00001, 1.0]]), "by up to 1e-05 and with another top class;"),
    ],
)
def test_other_answers_are_an_error(expected, found, said):
    with pytest.raises(ConfigError, match=said):
        compare("timm", expected, found)


def test_embeddings_have_no_top_class():
    assert compare("timm", np.array([[1.0, 1.00001]]), np.array([[1.00001, 1.0]]), "embeddings")["rows"] == 1


def test_inputs_are_the_students_own_and_its_answers_to_them_differ(sentences, tmp_path):
    images = tgt_ray.load_student(write_student(Experiment(), tmp_path / "images"))
    given = random_images(images)
    assert (
        given.shape == (16, 1, 8, 8) and (given * 255 % 1).abs().max() < 1e-4 and 0 <= given.min() <= given.max() <= 1
    )
    pairs = tgt_ray.load_student(
        write_student(experiment(sentences, data={"pair_column": "hypothesis"}), tmp_path / "pairs")
    )
    texts = random_texts(pairs)
    assert len(texts) == 16 and all(isinstance(each, tuple) and len(each) == 2 for each in texts)
    assert sum(pairs.preprocess.too_long([pairs.preprocess.one(each)]) for each in texts) >= 1
    assert max(len("\x1f".join(each).encode()) for each in texts) <= pairs.preprocess.width
    for student, inputs in ((images, given), (pairs, texts)):
        assert own_answers(student, inputs)[1].std(axis=0).min() > 0
