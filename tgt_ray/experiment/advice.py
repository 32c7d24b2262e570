"""What is legal and hardly ever meant, and texts that a model doesn't see all of."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from tgt_ray.core.errors import concerning
from tgt_ray.data import StoredTable
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives import Distillation
from tgt_ray.sweeps.space import Distribution
from tgt_ray.tasks import TaskData

log = logging.getLogger(__name__)

#: AdamW's peak above which a pretrained student is likely to lose what it knows (our choice).
FAST = 1e-3


def _say_what_is_odd(config: Experiment, space: Mapping[str, Distribution] | None = None) -> None:
    """Warn of what is legal and hardly ever meant. space: of a sweep, whose trials may differ in it."""
    train, space = config.train, space or {}
    key = "train.learning_rate"
    fastest = max(space[key].ends()) if key in space else train.learning_rate
    if config.student.pretrained_elsewhere and train.optimizer == "adamw" and fastest > FAST:
        log.warning(
            "%s: %g is likely to undo what the pretrained student knows; 3e-5 is usual for transformers, 3e-4 for convolutions",
            *(key, fastest),
        )
    objective = config.objective
    if isinstance(objective, Distillation) and objective.alpha == 1 and "objective.alpha" not in space:
        loss = objective.label_loss.type
        if loss != "cross_entropy":
            log.warning(
                "objective.label_loss: '%s' is weighted by 1 - alpha, and alpha is 1, so it has no part in the loss; give an alpha below 1",
                loss,
            )


def _say_what_is_cut(config: Experiment, data: TaskData) -> None:
    """One line for each model of texts that doesn't see all of them."""
    # Anchors are read by the teacher, and what is made of them by the student.
    anchors = config.streams and not config.teacher.generator.starts_from_documents
    own = ("train", "unlabelled") if anchors else ("train",)
    for key, part in (
        ("teacher.labeler", config.teacher.labeler),
        ("teacher.generator", config.teacher.generator),
        ("student", config.student),
    ):
        unused = part is config.teacher.generator and not config.streams
        from_documents = getattr(part, "starts_from_documents", False)
        # A model that writes after prompts loses a prompt's beginning: other texts, not this one's end.
        prompted = getattr(part, "only_samples", False) and not from_documents
        if not hasattr(part, "tokens") or unused or prompted:
            continue
        with concerning(key):
            tokens = part.tokens(data.input_shape, key)
        reads = [(("documents",), "document", "documents")] if from_documents else [(own, "text", "train texts")]
        if part is config.student and config.objective.needs_documents:
            reads.append((("documents",), "document", "documents (objective.document_encoder: student)"))
        for names, column, what in reads:
            tables = [data.tables[name] for name in names if name in data.tables]
            # A user's own task may call its texts otherwise.
            if any(isinstance(table, StoredTable) or column not in table.column_names for table in tables):
                continue
            texts = [text for table in tables for text in table[column].to_pylist()]
            count, first = tokens.count_cut(texts)
            if count:
                log.warning(
                    "%s: cuts %d of %d %s to its %d tokens; the first begins %r",
                    *(key, count, len(texts), what, tokens.max_tokens, first[:60]),
                )
