"""What is said of an experiment before it starts."""

import pytest

from tests.helpers.text_runs import GENERATORS, SIZE, experiment
from tgt_ray.experiment.advice import say_resized_images, warn_of_cut_texts, warn_of_odd_settings
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.space import Distribution


def test_texts_without_labels_that_are_cut_are_counted(sentences, caplog):
    """Most of what a generator reads, where few rows have labels; nothing reads them where nothing is generated."""
    generator, labeler = GENERATORS["masked_lm"] | {"max_tokens": 6}, {"type": "text_transformer", **SIZE}
    teacher = {"labeler": labeler, "generator": generator}
    for explorer, parts, there in (("random", ("teacher.generator", "student"), 160), ("none", ("student",), 20)):
        config = experiment(
            sentences,
            teacher=teacher,
            task={"labelled": {"rows": 20}},
            student={"type": "text_transformer", **SIZE, "max_tokens": 6},
            explorer={"type": explorer},
        )
        caplog.clear()
        data = config.task.load()
        warn_of_cut_texts(config, data)
        said = [record.getMessage() for record in caplog.records if ": cuts " in record.getMessage()]
        assert [line.partition(":")[0] for line in said] == list(parts)
        assert all(f" of {there} train texts to its 6 tokens" in line for line in said)


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ({"name": "resnet10t.c3_in1k", "pretrained": True}, "student: images of 8x8 are brought to 176x176, the size"),
        ({"name": "resnet10t.c3_in1k", "pretrained": True, "img_size": 32}, ""),
        ({"name": "resnet10t.c3_in1k"}, ""),
    ],
)
def test_the_size_that_a_pretrained_model_brings_images_to_is_said(student, said, digits, caplog):
    caplog.set_level("INFO", "tgt_ray")
    say_resized_images(Experiment.model_validate({"student": {"type": "timm", **student}}), digits)
    assert caplog.text.count("are brought to") == bool(said) and said in caplog.text


SPACE = {"objective.temperature": Distribution(uniform=(1, 2))}


@pytest.mark.parametrize(
    ("changes", "space", "warned"),
    [
        ({"train": {"learning_rate": 1e-2}}, {}, "train.learning_rate: 0.01 is likely to undo"),
        ({"train": {"learning_rate": 3e-5}}, {}, ""),
        ({"train": {"learning_rate": 1e-2}}, {"train.learning_rate": [1e-5, 1e-4]}, ""),
        ({"train": {"learning_rate": 3e-5}}, {"train.learning_rate": [1e-5, 2e-2]}, "train.learning_rate: 0.02 is"),
        (
            {"objective": {"type": "distillation", "label_loss": {"type": "ldam"}}},
            {},
            "objective.label_loss: 'ldam' is weighted by 1 - alpha",
        ),
        ({"objective": {"type": "distillation", "label_loss": {"type": "ldam"}, "alpha": 0.5}}, {}, ""),
        ({"objective": {"type": "distillation", "label_loss": {"type": "ldam"}}}, {"objective.alpha": [0.1, 0.9]}, ""),
    ],
)
def test_what_is_hardly_ever_meant_is_warned_of(sentences, caplog, changes, space, warned):
    student = {"type": "text_encoder", "path": "some/hub-name"}
    config = experiment(sentences, student=student, **{"train": {"learning_rate": 3e-5}, **changes})
    sweep = SweepConfig(
        experiment=config, space={key: Distribution(uniform=ends) for key, ends in space.items()} or SPACE
    )
    warn_of_odd_settings(config, sweep.largest_values())
    assert (warned in caplog.text) if warned else not caplog.text
