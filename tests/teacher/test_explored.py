"""What explored rows add to their anchors, with teachers whose answers are known."""

import numpy as np
import pytest
import torch
from torch import nn

from tgt_ray.core.batch import Outputs
from tgt_ray.teacher.explored import KINDS, Rows, measure
from tgt_ray.teacher.explorers import Compose, Explorer, Gradient, Interpolation, Random, RandomMatched
from tgt_ray.teacher.explorers.augment import Augment
from tgt_ray.teacher.module import Teacher

PLACES = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])


class Nearest(nn.Module):
    """Embeds a picture of two pixels as these; the nearer a class, the likelier."""

    def __init__(self, embeds: bool = True):
        super().__init__()
        self.embeds = embeds

    def forward(self, inputs):
        places = inputs.flatten(1)[:, :2]
        return Outputs(-((places[:, None] - PLACES) ** 2).sum(dim=2) / 6, places if self.embeds else places[:, :0])


class Plain(nn.Module):
    """Latents are the pixels; what is decoded lies `blur` beside them."""

    def __init__(self, blur: float = 0.0):
        super().__init__()
        self.blur = blur

    def encode(self, inputs):
        return inputs.flatten(1)

    def decode(self, latents):
        return latents.unflatten(1, (1, 1, 2)) + self.blur


def rows(count: int, seed: int) -> Rows:
    labels = np.arange(count) % 3
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return Rows((PLACES[labels] + noise).unflatten(1, (1, 1, 2)), labels)


def found(explorer: Explorer, blur: float = 0.0, anchors: int = 9, embeds: bool = True, **more):
    given = {"size": 40, "seconds": 60.0, **more}
    return measure(Teacher(Nearest(embeds), Plain(blur)), explorer, rows(anchors, 1), rows(120, 2), **given)


def test_rows_that_stay_add_nothing():
    said = found(Random(sigma=0.0))
    assert said["explored_rows"] == 120 and said["explored_by"] == "random"
    assert said["coverage_gain"] == said["novelty_explored"] == said["moved_explored"] == said["fresh_explored"] == 0
    for name in ("precision", "density", "coverage", "nearest", "variety", "doubt"):
        assert said[f"{name}_explored"] == said[f"{name}_anchors"] == said[f"{name}_reconstructed"]


def test_rows_near_few_anchors_cover_more_and_rows_far_from_them_less():
    near, far = found(Random(sigma=0.2)), found(Random(sigma=20.0))
    assert near["coverage_gain"] > 20 and near["nearest_explored"] < near["nearest_anchors"]
    assert near["precision_explored"] > 80 > 20 > far["precision_explored"]
    assert near["density_explored"] > far["density_explored"] and far["coverage_gain"] < 0
    assert 0 < near["novelty_explored"] < 1 < far["novelty_explored"]
    assert near["moved_explored"] == near["novelty_explored"], "nothing is lost by decoding"
    assert near["fresh_explored"] > 20 > far["fresh_explored"]
    assert near["class_distance"] > 2


def test_with_many_anchors_there_is_less_to_gain():
    assert found(Random(sigma=0.2), anchors=240)["coverage_gain"] < found(Random(sigma=0.2))["coverage_gain"] - 20


def test_a_blurred_decoder_is_seen_in_reconstructions():
    sharp, blurred = found(Random(sigma=0.1)), found(Random(sigma=0.1), blur=3.0)
    assert blurred["novelty_reconstructed"] > 1 > sharp["novelty_reconstructed"] == 0
    assert blurred["density_reconstructed"] < sharp["density_reconstructed"] / 2
    assert blurred["moved_explored"] == pytest.approx(sharp["moved_explored"]), "but not by exploring"
    assert blurred["doubt_reconstructed"] > sharp["doubt_reconstructed"] + 5
    assert blurred["doubt_anchors"] == sharp["doubt_anchors"]


def test_a_labeler_doubts_rows_between_classes():
    between, near = found(Interpolation()), found(Random(sigma=0.1))
    assert between["doubt_explored"] > near["doubt_explored"] + 3
    assert between["confidence_explored"] < near["confidence_explored"]


def test_rows_without_a_generator_are_not_reconstructed():
    teacher = Teacher(Nearest(), None)
    said = measure(teacher, Augment(shift=0, crop=0), rows(9, 1), rows(60, 2), 16, 60.0)
    assert said["novelty_explored"] > 0 and not [name for name in said if name.endswith("reconstructed")]
    assert {name.split("_", 1)[1] for name in said if name.startswith("doubt")} == {*KINDS} - {"reconstructed"}


def test_gradient_is_measured_by_random_directions_of_the_same_length():
    settings = {"sigma": 0.3, "step_size": 0.7, "steps": 2, "anchors": "balanced"}
    of_gradient, of_random = found(Gradient(**settings)), found(RandomMatched(**settings))
    assert of_gradient == of_random and of_gradient["explored_by"] == "random-matched"
    composed = Compose(of=Gradient(sigma=0.3), mix="none", shift=0, crop=0)
    assert composed.off_policy.of == RandomMatched(sigma=0.3) and composed.off_policy.mix == "none"
    assert found(composed)["explored_by"] == "random-matched"


def test_an_explorer_that_needs_a_student_is_not_measured():
    class Own(Random):
        type: str = "own"
        on_policy = True

    assert found(Own()) == {}


@pytest.mark.parametrize("count", [1, 5])
def test_too_few_held_out_rows_are_not_measured(count):
    assert measure(Teacher(Nearest(), Plain()), Random(), rows(9, 1), rows(count, 2), 8, 60.0) == {}


def test_without_time_it_is_measured_on_fewer_rows():
    assert found(Random(), seconds=1e-9)["explored_rows"] == 40


def test_without_embeddings_probabilities_are_taken():
    said = found(Random(sigma=0.2), embeds=False)
    assert said["coverage_gain"] > 0 and said["doubt_explored"] == found(Random(sigma=0.2))["doubt_explored"]


def test_anchors_without_a_label_have_the_class_that_the_labeler_sees():
    """Of balanced anchors, each class then comes equally often."""
    given = rows(60, 1)
    few = Rows(given.inputs[:21], np.where(given.labels == 0, 0, -1)[:21])
    settings = {"size": 40, "seconds": 60.0}
    teacher, held_out = Teacher(Nearest(), Plain()), rows(120, 2)
    unlabelled = measure(teacher, Random(sigma=0.1, anchors="balanced"), few, held_out, **settings)
    labelled = measure(
        teacher, Random(sigma=0.1, anchors="balanced"), Rows(few.inputs, given.labels[:21]), held_out, **settings
    )
    assert unlabelled == labelled


def test_a_labeler_that_sees_no_difference_has_no_measures():
    """All rows of a class lie at one place, so that distances have no unit."""
    same = Rows(PLACES[np.arange(30) % 3].unflatten(1, (1, 1, 2)), np.arange(30) % 3)
    said = measure(Teacher(Nearest(), Plain()), Random(), same, same, size=10, seconds=60.0)
    assert said["class_distance"] is None and said["nearest_explored"] is None and said["variety_anchors"] > 1


def test_what_is_no_number_is_not_measured():
    class Broken(Nearest):
        def forward(self, inputs):
            said = super().forward(inputs)
            return Outputs(said.logits, said.embedding / 0)

    assert measure(Teacher(Broken(), Plain()), Random(), rows(9, 1), rows(30, 2), size=10, seconds=60.0) == {}


def test_no_more_is_asked_than_the_time_allows():
    asked = []

    class Slow(Nearest):
        def forward(self, inputs):
            asked.append(len(inputs))
            return super().forward(inputs)

    said = measure(Teacher(Slow(), Plain()), Random(), rows(500, 1), rows(500, 2), size=10, seconds=0.0)
    # A part of each kind: unseen rows, anchors, explored rows and their reconstructions.
    assert said["explored_rows"] == 10 and asked == [10] * 4
