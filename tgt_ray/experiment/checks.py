"""Check that the blocks of an experiment fit together.

Each check raises a ValueError that names the key, the value and what would be right.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tgt_ray.core.config import builtin_types, folders_of
from tgt_ray.core.errors import ConfigError, concerning, cut
from tgt_ray.core.kept import KeptStudent
from tgt_ray.core.signals.base import TeacherSide, unique
from tgt_ray.core.signals.of_labeler import EMBEDDING, LOGITS
from tgt_ray.models.backbones import ReadsTexts
from tgt_ray.models.students import AnyStudent
from tgt_ray.models.text.vocabulary import same_vocabulary
from tgt_ray.objectives import AnyObjective
from tgt_ray.teacher.config import TeacherConfig
from tgt_ray.teacher.explorers import AnyExplorer, InputChanges, Random
from tgt_ray.teacher.generators import AnyGenerator
from tgt_ray.teacher.labelers import AnyLabeler

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tgt_ray.experiment.blocks import Blocks
    from tgt_ray.objectives import Objective

#: The last entry of the legal types in an error: users may name a class of their own.
OWN = "package.module:Class for your own"


def check_all(experiment: Blocks) -> None:
    """Run every check that needs no files."""
    for check in (
        check_modality,
        check_labeler,
        check_stored_answers,
        check_imported,
        check_signals,
        check_documents,
        check_gradients,
        check_reuse,
        check_forms,
        check_moves,
        check_changes,
        check_embeddings,
        check_consistent,
        check_further_rows,
    ):
        check(experiment)


def legal(names: Iterable[str]) -> str:
    """List the legal types for an error message."""
    return ", ".join([*names, OWN])


def fits(modality: str, kind: str) -> bool:
    """Tell whether a component of `modality` can read inputs of `kind`; "any" fits all."""
    return modality == kind or "any" in (modality, kind)


def check_modality(experiment: Blocks) -> None:
    """Require that each model is made for the task's kind of inputs."""
    task, kind = experiment.task, experiment.task.modality
    parts: list[tuple[str, Any, Any]] = [
        ("teacher.labeler", experiment.teacher.labeler, AnyLabeler),
        ("student", experiment.student, AnyStudent),
        ("explorer", experiment.explorer, AnyExplorer),
    ]
    generator = experiment.teacher.generator
    # Where nothing needs a generator, none has to be named: the default is one of images.
    if experiment.uses_generator or generator != TeacherConfig().generator:
        parts.insert(1, ("teacher.generator", generator, AnyGenerator))
    for key, part, family in parts:
        if not fits(part.modality, kind):
            would_do = [name for name, cls in builtin_types(family).items() if fits(cls.modality, kind)]
            raise ValueError(
                f"{key}.type: '{part.type}' is for {part.modality}s, and task.type '{task.type}' has {kind}s;"
                f" legal: {legal(would_do)}"
            )
    if experiment.train.augment is not None and not fits("image", kind):
        raise ValueError(f"train.augment: is for images, and task.type '{task.type}' has {kind}s; leave it out")


def check_labeler(experiment: Blocks) -> None:
    """Require that the labeler scores what the task asks for: classes, or the documents of a corpus."""
    labeler, task = experiment.teacher.labeler, experiment.task
    if labeler.embeds_documents == task.has_documents:
        return
    mine, theirs = ("documents" if each else "classes" for each in (labeler.embeds_documents, task.has_documents))
    would_do = [name for name, cls in builtin_types(AnyLabeler).items() if cls.embeds_documents == task.has_documents]
    raise ValueError(
        f"teacher.labeler.type: '{labeler.type}' is for tasks whose answers are {mine},"
        f" and those of task.type '{task.type}' are {theirs}; legal: {legal(would_do)}"
    )


def check_stored_answers(experiment: Blocks) -> None:
    """Check what a labeler with stored answers can't do: label new rows, and embed."""
    labeler, explorer, objective = experiment.teacher.labeler, experiment.explorer, experiment.objective
    if labeler.live:
        return
    source, kind = getattr(experiment.task, "data", None), f"teacher.labeler.type: '{labeler.type}'"
    if not getattr(source, "has_columns", False):
        raise ValueError(
            f"{kind} reads answers from columns of the data, and task.data.type"
            f" '{getattr(source, 'type', None)}' has none; give tables, such as Parquet files"
        )
    if experiment.streams and not (explorer.unchanged or explorer.ready):
        raise ValueError(
            f"explorer.type: '{explorer.type}' makes new rows, and {kind} has answers for the data's own rows alone;"
            " use none (plain distillation), identity, imported (rows that have answers already), or another labeler"
        )
    augment = experiment.train.augment
    if augment is not None and augment.consistent:
        raise ValueError(
            f"train.augment.consistent: true asks the teacher about augmented rows, and {kind} has answers for the"
            " data's own rows alone; use false"
        )
    if EMBEDDING in (*objective.signals, *(signal for fit in objective.fits for signal in fit.signals)):
        raise ValueError(
            f"objective.type: '{objective.type}' needs the teacher's embeddings, and {kind} has logits alone;"
            " use distillation"
        )


def check_imported(experiment: Blocks) -> None:
    """Check what rows that were made elsewhere can't have: more than logits, documents, and another bank."""
    explorer, objective = experiment.explorer, experiment.objective
    if not explorer.ready:
        return
    more = [each.name for each in objective.signals if each.synthetic and each != LOGITS]
    if more and experiment.streams:
        raise ValueError(
            f"objective.type: '{objective.type}' needs the signal '{more[0]}' of synthetic rows, and those of"
            f" explorer.type '{explorer.type}' have logits alone; use distillation"
        )
    if experiment.task.has_documents:
        raise ValueError(
            f"explorer.type: '{explorer.type}' has rows with logits of classes, and task.type"
            f" '{experiment.task.type}' has documents; use none"
        )
    if experiment.pool.bank.mode == "reuse":
        raise ValueError(
            f"pool.bank.mode: reuse has no effect, since all rows of explorer.type '{explorer.type}' are used again"
            " and again; leave it out"
        )


def check_signals(experiment: Blocks) -> None:
    """Require that the teacher gives each signal that the objective needs."""
    objective, task = experiment.objective, experiment.task
    teacher = TeacherSide(classes=not experiment.teacher.labeler.embeds_documents, documents=task.has_documents)
    try:
        unique([*objective.signals, *(signal for fit in objective.fits for signal in fit.signals)])
    except ValueError as err:
        raise ValueError(f"objective.type: '{objective.type}': {err}") from err
    for signal in objective.signals:
        if not signal.synthetic and (signal.through_student or experiment.streams):
            raise ValueError(
                f"objective.type: '{objective.type}': its signal '{signal.name}' has no values for synthetic rows;"
                " give explorer.type none, or another objective"
            )
        if not signal.real and not signal.through_student:
            raise ValueError(
                f"objective.type: '{objective.type}': its signal '{signal.name}' has no values for real rows, and what"
                " synthetic rows have alone must go through the student"
            )
    missing = _lacking(objective, teacher)
    if missing is None:
        return
    would_do = [
        name for name, cls in builtin_types(AnyObjective).items() if _lacking(cls.model_construct(), teacher) is None
    ]
    raise ValueError(f"objective.type: '{objective.type}' needs {missing}; legal: {legal(would_do)}")


def _lacking(objective: Objective, teacher: TeacherSide) -> str | None:
    """Name the first signal that the teacher doesn't give, and why."""
    for signal in objective.signals:
        why = signal.lacking(teacher)
        if why is not None:
            return f"the signal '{signal.name}', and {why}"
    return None


def check_documents(experiment: Blocks) -> None:
    """Refuse settings for classes where the task has documents, and the other way round."""
    task, generator, explorer = experiment.task, experiment.teacher.generator, experiment.explorer
    if not task.has_documents:
        if not generator.starts_from_train:
            raise ValueError(
                f"teacher.generator.type: '{generator.type}' makes queries from documents,"
                f" and task.type '{task.type}' has none; use masked_lm or seq2seq"
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
            "objective: embedding_weight and score_weight are both 0, so synthetic rows teach nothing;"
            " set one of them above 0, or explorer.type none"
        )
    if experiment.objective.lookup is not None and explorer.on_policy:
        raise ValueError(
            f"objective.document_encoder: student, but explorer.type '{explorer.type}' looks at the student's"
            " embeddings of documents, which generators don't have; use random, or document_encoder: teacher"
        )


def check_reuse(experiment: Blocks) -> None:
    """Refuse to use rows epoch after epoch that were explored for the student as it was in the first."""
    explorer = experiment.explorer
    if experiment.pool.bank.mode == "reuse" and explorer.on_policy:
        raise ValueError(
            f"pool.bank.mode: reuse, but explorer.type '{explorer.type}' looks at the student, which changes from epoch"
            " to epoch; use shared, or an explorer that doesn't look at it"
        )


def check_gradients(experiment: Blocks) -> None:
    """Require a differentiable generator where the explorer follows gradients."""
    explorer, generator = experiment.explorer, experiment.teacher.generator
    if explorer.needs_differentiable and not generator.differentiable:
        raise ValueError(
            f"explorer.type: '{explorer.type}' needs gradients through the generator,"
            f" and teacher.generator.type '{generator.type}' gives none; use random, random-matched or interpolation"
        )


def check_forms(experiment: Blocks) -> None:
    """Refuse a precision where the teacher's form brings its own."""
    if experiment.teacher.run_as == "fast" and experiment.pool.precision != "float32":
        raise ValueError(
            f"pool.precision: {experiment.pool.precision}, but teacher.run_as: fast chooses the precision itself;"
            " leave one of them out"
        )


def check_moves(experiment: Blocks) -> None:
    """Require that the generator supports the moves that the explorer makes."""
    explorer, generator = experiment.explorer, experiment.teacher.generator
    if explorer.needs_neighbours and generator.contextual:
        raise ValueError(
            f"explorer.type: '{explorer.type}' goes between the latents of two anchors,"
            f" and teacher.generator.type '{generator.type}' makes a text's latents anew each time;"
            " use random or random-matched"
        )
    pairs = experiment.task.pair_column
    if pairs is not None and not generator.keeps_pairs and experiment.uses_generator:
        raise ValueError(
            f"task.data.pair_column: '{pairs}', but teacher.generator.type '{generator.type}' writes one text for"
            " a pair; use masked_lm, or seq2seq with decoding: parallel"
        )
    if not explorer.decodes and not generator.starts_from_train:
        raise ValueError(
            f"explorer.type: '{explorer.type}' takes anchors as they are,"
            f" and teacher.generator.type '{generator.type}' starts from documents, which are not queries;"
            " use random, or another generator"
        )
    latent = explorer.within
    of = "" if latent is explorer else ".of"
    if generator.only_samples and isinstance(latent, Random) and latent.sigma != Random().sigma:
        raise ValueError(
            f"explorer{of}.sigma: {latent.sigma:g} has no effect, since teacher.generator.type '{generator.type}' has"
            " no latents to move; leave it out"
        )
    if generator.only_samples and explorer.synthesizes and explorer.decodes and latent.type != "random":
        raise ValueError(
            f"explorer{of}.type: '{latent.type}' moves latents, and teacher.generator.type '{generator.type}' has none;"
            " use random"
        )


def check_changes(experiment: Blocks) -> None:
    """Refuse settings of changes for another kind of inputs than the task has."""
    explorer, task = experiment.explorer, experiment.task
    if not isinstance(explorer, InputChanges):
        return
    if task.modality not in explorer.of_kind:
        raise ValueError(
            f"explorer.type: '{explorer.type}' changes images and texts, and task.type '{task.type}' has other inputs;"
            " use another explorer"
        )
    for kind, names in explorer.of_kind.items():
        for name in names if kind != task.modality else ():
            if getattr(explorer, name) != type(explorer).model_fields[name].default:
                raise ValueError(
                    f"explorer.{name}: is for {kind}s, and task.type '{task.type}' has {task.modality}s; leave it out"
                )


def check_embeddings(experiment: Blocks) -> None:
    """Check targets from the labeler's embedding: they need its stored head, and rows that MixUp leaves alone."""
    labeler, augment, objective = experiment.teacher.labeler, experiment.train.augment, experiment.objective
    if EMBEDDING in objective.signals and not labeler.stored:
        raise ValueError(
            f"objective.type: '{objective.type}' needs the weight of the labeler's head,"
            f" and the weights of teacher.labeler.type '{labeler.type}' are not kept in the storage;"
            " use another labeler, or objective.type distillation"
        )
    if augment is not None and augment.mixup:
        # Targets such as subclasses or documents are not linear in the embedding, so they can't be mixed.
        kept = [signal for signal in objective.signals if signal.real and not signal.mixes]
        if kept:
            raise ValueError(
                f"train.augment.mixup: {augment.mixup:g}, but objective '{objective.type}' takes its targets from"
                f" the teacher's {kept[0].name} of a row, and a mixed row has none; use 0"
            )


def check_consistent(experiment: Blocks) -> None:
    """Refuse that the teacher labels augmented rows for an objective that takes nothing from it on real rows."""
    augment, objective = experiment.train.augment, experiment.objective
    if augment is not None and augment.consistent and not objective.teaches_real:
        raise ValueError(
            f"train.augment.consistent: true, but objective.type '{objective.type}' takes nothing from the teacher on"
            " real rows (with alpha it is alpha's share); leave it out, or use distillation with alpha above 0"
        )


def check_further_rows(experiment: Blocks) -> None:
    """Refuse batch norms per source where the student also embeds anchors.

    Anchors are real rows, but they follow the batch's synthetic rows and would be normalised as such.
    """
    objective = experiment.objective
    if experiment.train.batch_norm == "per_source" and any(signal.through_student for signal in objective.signals):
        raise ValueError(
            f"train.batch_norm: per_source, but objective.type '{objective.type}' has anchors, which are real rows,"
            " among the synthetic rows; use shared"
        )


def check_files(experiment: Blocks) -> None:
    """Check what depends on files: weights exist and are whole, and models that must share a vocabulary do.

    So a wrong path fails before data is read.

    - raises ConfigError: where a file of weights or a model's folder is missing or damaged, or vocabularies differ
    """
    teacher = experiment.teacher
    named = {
        "teacher.labeler.weights": teacher.labeler.weights,
        "teacher.generator.weights": teacher.generator.weights,
        # Not read where all weights come from another student.
        "student.weights": experiment.student.weights_file if experiment.train.start_from is None else None,
    }
    for key, file in named.items():
        if file is not None and not file.is_file():
            raise ConfigError(f"{key}: no file at {file}")
        if file is not None:
            from tgt_ray.models.weights import check_safetensors  # imports torch

            check_safetensors(file, f"{key}: {file}")
    check_folders(experiment)
    check_start(experiment)
    if experiment.streams and experiment.explorer.needs_differentiable and teacher.generator.contextual:
        check_vocabularies(experiment)


def check_folders(experiment: Blocks) -> None:
    """Look at the folders of models that teacher and student name.

    - raises ConfigError: where there is none, or a file in it is not what it should be
    """
    teacher = experiment.teacher
    parts = {"teacher.labeler": teacher.labeler, "teacher.generator": teacher.generator, "student": experiment.student}
    if experiment.train.start_from is not None:
        del parts["student"]  # it is built from what its folder says
    with concerning("teacher.labeler"):
        teacher.labeler.check_folder()
    for key, part in parts.items():
        for path in folders_of(part).values():
            from tgt_ray.models.hub import check_folder

            with concerning(key):
                check_folder(path, getattr(part, "subfolder", None))


def check_start(experiment: Blocks) -> None:
    """Require that a student that the training starts from is there, whole, and of the same kind and settings.

    - raises ConfigError: where it isn't
    """
    folder, student = experiment.train.start_from, experiment.student
    if folder is None:
        return
    with concerning("train.start_from"):
        kept = KeptStudent.at(folder)
        kept.weights  # noqa: B018  # a damaged file is said now
    there, here = kept.setting("student") or {}, student.model_dump(mode="json")
    for name in dict.fromkeys(("type", *here, *there)):
        if name not in student.free and there.get(name) != here.get(name):
            have, want = (cut(json.dumps(each.get(name))) for each in (here, there))
            raise ConfigError(
                f"student.{name}: {have}, and the student in {kept.storage.shown}, which train.start_from names, has"
                f" {want}; give its own settings"
            )


def check_vocabularies(experiment: Blocks) -> None:
    """Require that labeler and student can read the generator's soft tokens.

    - raises ConfigError: where one of them has another vocabulary, or the labeler has a prompt
    """
    kind, teacher, generator = experiment.explorer.type, experiment.teacher, experiment.teacher.generator
    with concerning("teacher.labeler"):
        prompt = teacher.labeler.prompt()
    if prompt:
        raise ConfigError(
            f"explorer.type: '{kind}' moves through soft tokens, before which the labeler's prompt '{prompt}' can't be"
            " put; use random or random-matched"
        )
    for key, part in (("teacher.labeler", teacher.labeler), ("student", experiment.student)):
        sources: list[str | None] = []
        for name, each in (("teacher.generator", generator), (key, part)):
            if not isinstance(each, ReadsTexts):
                raise ConfigError(
                    f"explorer.type: '{kind}' needs generator, labeler and student with one vocabulary,"
                    f" and {name}.type '{each.type}' doesn't say which one it has; use random or random-matched"
                )
            sources.append(each.vocabulary)
        with concerning(f"teacher.generator or {key}"):
            same = same_vocabulary(*sources)
        if not same:
            said = " and ".join(source or "the task's own" for source in sources)
            raise ConfigError(
                f"explorer.type: '{kind}' needs generator, labeler and student with one vocabulary, and those of"
                f" teacher.generator and {key} differ ({said}); use random or random-matched"
            )
