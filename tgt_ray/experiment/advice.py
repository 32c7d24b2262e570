"""Warn of settings that are legal but rarely intended, and of texts that a model cuts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from tgt_ray.core.batch import InputSpec
from tgt_ray.core.errors import concerning
from tgt_ray.core.kept import KeptStudent
from tgt_ray.data import StoredTable
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.backbones import ReadsTexts, TimmModel
from tgt_ray.objectives import Distillation
from tgt_ray.tasks import TaskData

log = logging.getLogger(__name__)

#: AdamW's peak learning rate above which a pretrained student is likely to lose what it knows (our choice).
FAST = 1e-3


def warn_of_odd_settings(config: Experiment, largest: Mapping[str, Any] | None = None) -> None:
    """Warn of settings that are legal but rarely intended.

    - largest: of a sweep, the largest value of each key in its space
    """
    train, largest = config.train, largest or {}
    fastest = largest.get("train.learning_rate", train.learning_rate)
    if config.student.pretrained_elsewhere and train.optimizer == "adamw" and fastest > FAST:
        log.warning(
            "train.learning_rate: %g is likely to undo what the pretrained student knows;"
            " 3e-5 is usual for transformers, 3e-4 for convolutions",
            fastest,
        )
    objective = config.objective
    if isinstance(objective, Distillation) and objective.alpha == 1 and "objective.alpha" not in largest:
        loss = objective.label_loss.type
        if loss != "cross_entropy":
            log.warning(
                "objective.label_loss: '%s' is weighted by 1 - alpha, and alpha is 1, so it has no effect;"
                " set objective.alpha below 1",
                loss,
            )


def say_resized_images(config: Experiment, data: TaskData) -> None:
    """Log to which size images are brought for pretrained models of timm, where that isn't their own."""
    for key, part in (("teacher.labeler", config.teacher.labeler), ("student", config.student)):
        if not isinstance(part, TimmModel) or not part.external or part.img_size is not None:
            continue
        there, wanted = data.input_shape[-2:], part.own_size
        if wanted is not None and there != wanted:
            log.info(
                "%s: images of %dx%d are brought to %dx%d, the size of the pretraining of '%s'; %s.img_size sets"
                " another, and a smaller one is faster",
                *(key, *there, *wanted, part.name, key),
            )


def warn_of_cut_texts(config: Experiment, data: TaskData) -> None:
    """Log one warning for each text model that cuts some of its texts to its token limit."""
    for key, part, tables, why in _readers(config):
        with concerning(key):
            tokens = _tokens(config, key, part, data)
        # A user's own task may keep its texts in another form.
        found = [config.task.texts(name, table) for name in tables if (table := data.tables.get(name)) is not None]
        found = [] if any(isinstance(data.tables.get(name), StoredTable) for name in tables) else found
        texts = [text for each in found if each is not None for text in each[1]]
        count, first = tokens.count_cut(texts)
        if count:
            what = next(each[0] for each in found if each is not None)
            log.warning(
                "%s: cuts %d of %d %s%s to its %d tokens; the first begins %r",
                *(key, count, len(texts), what, why, tokens.max_tokens, first[:60]),
            )


def _tokens(config: Experiment, key: str, part: ReadsTexts, data: TaskData) -> Any:
    """Return a text model's tokens: of a student that starts from another one, those of that one."""
    folder = config.train.start_from
    if key != "student" or folder is None:
        return part.tokens(data.spec, key)
    kept = KeptStudent.at(folder)
    architecture = kept.known.get("architecture", {})
    if "special_tokens" not in architecture:  # a vocabulary of its task
        return part.tokens(InputSpec(kept.shape, kept.tokenizer), key)
    from tgt_ray.models.text.encoder import rebuilt_tokens

    return rebuilt_tokens(architecture, kept.tokenizer, key)


def _readers(config: Experiment) -> Iterator[tuple[str, ReadsTexts, tuple[str, ...], str]]:
    """Give each text model with its key, the tables that it reads, and a reason where that isn't plain."""
    labeler, generator, student = config.teacher.labeler, config.teacher.generator, config.student
    # The teacher reads the anchors, and the student reads what is made from them.
    own = ("train", "unlabelled") if config.streams and generator.starts_from_train else ("train",)
    if isinstance(labeler, ReadsTexts):
        yield "teacher.labeler", labeler, own, ""
    # A model that continues a prompt drops the prompt's first examples, and never cuts the end of a text.
    prompted = generator.only_samples and generator.starts_from_train
    if isinstance(generator, ReadsTexts) and config.uses_generator and not prompted:
        yield "teacher.generator", generator, own if generator.starts_from_train else generator.starts_from, ""
    if isinstance(student, ReadsTexts):
        yield "student", student, own, ""
        lookup = config.objective.lookup
        if lookup is not None:
            yield "student", student, (lookup.table,), " (objective.document_encoder: student)"
