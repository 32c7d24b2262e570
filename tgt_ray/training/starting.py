"""Look before a training whether it can begin with the weights of another student, and say what is kept of them."""

from __future__ import annotations

import json
import logging
from typing import Any

from tgt_ray.core.errors import ConfigError
from tgt_ray.core.kept import KeptStudent
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.backbones import ReadsTexts
from tgt_ray.tasks import TaskData
from tgt_ray.training.first_weights import KEY, said, start_of
from tgt_ray.training.student import build_student

log = logging.getLogger(__name__)


def check(experiment: Experiment, data: TaskData) -> None:
    """Look whether a student fits that the training shall start from, before the teacher is made, and say what is kept.

    - raises ConfigError: where it doesn't fit
    """
    kept = start_of(experiment)
    if kept is None:
        return
    kept.say_unfinished()
    _check_vocabulary(experiment, data, kept)
    if len(kept.shape) > 1 and kept.shape != tuple(data.input_shape):
        there, here = ("x".join(map(str, shape)) for shape in (kept.shape, data.input_shape))
        log.warning("%s: images are %s here, and the student there was trained on %s", KEY, here, there)
    if experiment.task.has_documents:  # the head's size follows from the teacher, which isn't there yet
        log.info("%s: %s, weights %s", KEY, kept.storage.shown, kept.weights_digest)
        return
    log.info("%s", said(build_student(experiment, data).started_from))


def _check_vocabulary(experiment: Experiment, data: TaskData, kept: KeptStudent) -> None:
    """Require one vocabulary of generator and student where an explorer moves through soft tokens."""
    student, generator = experiment.student, experiment.teacher.generator
    if not (experiment.streams and experiment.explorer.needs_differentiable and generator.contextual):
        return
    own = isinstance(student, ReadsTexts) and student.vocabulary is None
    if own and _vocabulary(kept.tokenizer) != _vocabulary(data.tokenizer):
        raise ConfigError(
            f"{KEY}: {kept.storage.shown}: the student there has another vocabulary than the task, and explorer.type"
            f" '{experiment.explorer.type}' needs generator, labeler and student with one; use random or random-matched"
        )


def _vocabulary(tokenizer: str) -> Any:
    return json.loads(tokenizer)["model"]["vocab"] if tokenizer else None
