"""Do the blocks of an experiment fit together? Each check raises a ValueError that names the key, the value and what would be right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgt_ray.core.config import builtin_types
from tgt_ray.core.errors import ConfigError, concerning
from tgt_ray.core.signals.base import TeacherSide, unique
from tgt_ray.core.signals.of_labeler import EMBEDDING
from tgt_ray.models.backbones import ReadsTexts
from tgt_ray.models.students import AnyStudent
from tgt_ray.models.text.vocabulary import same_vocabulary
from tgt_ray.objectives import AnyObjective
from tgt_ray.teacher.generators import AnyGenerator
from tgt_ray.teacher.labelers import AnyLabeler

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tgt_ray.experiment.experiment import Experiment
    from tgt_ray.objectives import Objective

#: How an error ends that lists the built-in types which would do.
OWN = "package.module:Class for your own"


def check_all(experiment: Experiment) -> None:
    for check in (
        check_modality,
        check_labeler,
        check_signals,
        check_documents,
        check_gradients,
        check_moves,
        check_embeddings,
        check_further_rows,
    ):
        check(experiment)


def legal(names: Iterable[str]) -> str:
    return ", ".join([*names, OWN])


def fits(modality: str, kind: str) -> bool:
    """Whether a component for one kind of inputs can work with another."""
    return modality == kind or "any" in (modality, kind)


def check_modality(experiment: Experiment) -> None:
    """Each model is for the task's kind of inputs."""
    task, kind = experiment.task, experiment.task.modality
    parts: list[tuple[str, Any, Any]] = [
        ("teacher.labeler", experiment.teacher.labeler, AnyLabeler),
        ("teacher.generator", experiment.teacher.generator, AnyGenerator),
        ("student", experiment.student, AnyStudent),
    ]
    for key, part, family in parts:
        if not fits(part.modality, kind):
            would_do = [name for name, cls in builtin_types(family).items() if fits(cls.modality, kind)]
            raise ValueError(
                f"{key}.type: '{part.type}' is for {part.modality}s, and task.type '{task.type}' has {kind}s; legal: {legal(would_do)}"
            )
    if experiment.train.augment is not None and not fits("image", kind):
        raise ValueError(f"train.augment: is for images, and task.type '{task.type}' has {kind}s; leave it out")


def check_labeler(experiment: Experiment) -> None:
    """The labeler scores what the task asks for: classes, or the documents of a corpus."""
    labeler, task = experiment.teacher.labeler, experiment.task
    if labeler.embeds_documents == task.has_documents:
        return
    mine, theirs = ("documents" if each else "classes" for each in (labeler.embeds_documents, task.has_documents))
    would_do = [name for name, cls in builtin_types(AnyLabeler).items() if cls.embeds_documents == task.has_documents]
    raise ValueError(
        f"teacher.labeler.type: '{labeler.type}' is for tasks whose answers are {mine}, and those of task.type '{task.type}' are"
        f" {theirs}; legal: {legal(would_do)}"
    )


def check_signals(experiment: Experiment) -> None:
    """What the objective needs is there."""
    objective, task = experiment.objective, experiment.task
    teacher = TeacherSide(classes=not experiment.teacher.labeler.embeds_documents, documents=task.has_documents)
    try:
        unique([*objective.signals, *(signal for fit in objective.fits for signal in fit.signals)])
    except ValueError as err:
        raise ValueError(f"objective.type: '{objective.type}': {err}") from err
    missing = _lacking(objective, teacher)
    if missing is None:
        return
    would_do = [
        name for name, cls in builtin_types(AnyObjective).items() if _lacking(cls.model_construct(), teacher) is None
    ]
    raise ValueError(f"objective.type: '{objective.type}' needs {missing}; legal: {legal(would_do)}")


def _lacking(objective: Objective, teacher: TeacherSide) -> str | None:
    """The first signal that isn't there, and why."""
    for signal in objective.signals:
        why = signal.lacking(teacher)
        if why is not None:
            return f"the signal '{signal.name}', and {why}"
    return None


def check_documents(experiment: Experiment) -> None:
    """What is for classes is not asked of documents, and the other way."""
    task, generator, explorer = experiment.task, experiment.teacher.generator, experiment.explorer
    if not task.has_documents:
        if not generator.starts_from_train:
            raise ValueError(
                f"teacher.generator.type: '{generator.type}' makes queries from documents, and task.type '{task.type}' has none; use"
                " masked_lm or seq2seq"
            )
        return
    train = experiment.train
    asked = {
        "train.sampling": train.sampling if train.sampling != "natural" else None,
        "train.second_phase": train.second_phase.type if train.second_phase is not None else None,
        "explorer.anchors": explorer.anchors if explorer.anchors != "natural" else None,
    }
    for key, value in asked.items():
        if value is not None:
            raise ValueError(f"{key}: '{value}' is for classes, and task.type '{task.type}' has none; leave it out")
    if experiment.streams and not experiment.objective.teaches_synthetic:
        raise ValueError(
            "objective: embedding_weight and score_weight are both 0, so synthetic rows teach nothing; give one of them, or explorer.type"
            " none"
        )
    if experiment.objective.lookup is not None and explorer.on_policy:
        raise ValueError(
            f"objective.document_encoder: student, but explorer.type '{explorer.type}' looks at what the student says of documents that"
            " generators haven't; use random, or document_encoder: teacher"
        )


def check_gradients(experiment: Experiment) -> None:
    explorer, generator = experiment.explorer, experiment.teacher.generator
    if explorer.needs_differentiable and not generator.differentiable:
        raise ValueError(
            f"explorer.type: '{explorer.type}' needs gradients through the generator, and teacher.generator.type '{generator.type}' gives"
            " none; use random, random-matched or interpolation"
        )


def check_moves(experiment: Experiment) -> None:
    """The generator has what the explorer asks for."""
    explorer, generator = experiment.explorer, experiment.teacher.generator
    if explorer.needs_neighbours and generator.contextual:
        raise ValueError(
            f"explorer.type: '{explorer.type}' goes between the latents of two anchors, and teacher.generator.type '{generator.type}' makes"
            " a text's latents anew each time; use random or random-matched"
        )
    pairs = experiment.task.pair_column
    if pairs is not None and not generator.keeps_pairs and experiment.streams:
        raise ValueError(
            f"task.data.pair_column: '{pairs}', but teacher.generator.type '{generator.type}' writes one text for a pair; use masked_lm, or"
            " seq2seq with decoding: parallel"
        )
    if not explorer.decodes and not generator.starts_from_train:
        raise ValueError(
            f"explorer.type: '{explorer.type}' takes anchors as they are, and teacher.generator.type '{generator.type}' starts from"
            " documents, which are no queries; use random, or another generator"
        )
    if generator.only_samples and explorer.synthesizes and explorer.decodes and explorer.type != "random":
        raise ValueError(
            f"explorer.type: '{explorer.type}' moves latents, and teacher.generator.type '{generator.type}' has none; use random"
        )


def check_embeddings(experiment: Experiment) -> None:
    """Targets from the labeler's embedding need its head, and rows that are not mixed."""
    labeler, augment, objective = experiment.teacher.labeler, experiment.train.augment, experiment.objective
    if EMBEDDING in objective.signals and not labeler.stored:
        raise ValueError(
            f"objective.type: '{objective.type}' needs the weight of the labeler's head, and the weights of teacher.labeler.type"
            f" '{labeler.type}' are not kept in the storage; use another labeler, or objective.type distillation"
        )
    if augment is not None and augment.mixup:
        # What a subclass or a document is said to be isn't linear in the embedding.
        kept = [signal for signal in objective.signals if signal.real and not signal.mixes]
        if kept:
            raise ValueError(
                f"train.augment.mixup: {augment.mixup:g}, but objective '{objective.type}' takes its targets from the teacher's"
                f" {kept[0].name} of a row, which a mixed row has none of; use 0"
            )


def check_further_rows(experiment: Experiment) -> None:
    """Rows that the student embeds beside the batch's are real, and come after its synthetic ones."""
    objective = experiment.objective
    if experiment.train.batch_norm == "per_source" and any(signal.through_student for signal in objective.signals):
        raise ValueError(
            f"train.batch_norm: per_source, but objective.type '{objective.type}' has anchors among the synthetic rows, which are real; use"
            " shared"
        )


def check_files(experiment: Experiment) -> None:
    """ConfigError where a weights file that is named isn't there, or vocabularies that must be one differ."""
    teacher = experiment.teacher
    named = {
        "teacher.labeler.weights": teacher.labeler.weights,
        "teacher.generator.weights": teacher.generator.weights,
        "student.weights": experiment.student.weights_file,
    }
    for key, file in named.items():
        if file is not None and not file.is_file():
            raise ConfigError(f"{key}: no file at {file}")
    if experiment.streams and experiment.explorer.needs_differentiable and teacher.generator.contextual:
        check_vocabularies(experiment)


def check_vocabularies(experiment: Experiment) -> None:
    """ConfigError where soft tokens of the generator can't be read by labeler and student."""
    kind, teacher, generator = experiment.explorer.type, experiment.teacher, experiment.teacher.generator
    with concerning("teacher.labeler"):
        prompt = teacher.labeler.prompt()
    if prompt:
        raise ConfigError(
            f"explorer.type: '{kind}' moves through soft tokens, before which the labeler's prompt '{prompt}' can't be put; use random or"
            " random-matched"
        )
    for key, part in (("teacher.labeler", teacher.labeler), ("student", experiment.student)):
        sources: list[str | None] = []
        for name, each in (("teacher.generator", generator), (key, part)):
            if not isinstance(each, ReadsTexts):
                raise ConfigError(
                    f"explorer.type: '{kind}' needs generator, labeler and student with one vocabulary, and {name}.type '{each.type}'"
                    " doesn't say which it has"
                )
            sources.append(each.vocabulary)
        with concerning(f"teacher.generator or {key}"):
            same = same_vocabulary(*sources)
        if not same:
            said = " and ".join(source or "the task's own" for source in sources)
            raise ConfigError(
                f"explorer.type: '{kind}' needs generator, labeler and student with one vocabulary, and those of teacher.generator and"
                f" {key} differ ({said}); use random or random-matched"
            )
