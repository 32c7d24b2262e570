"""Check on held-out rows whether the teacher fits its task, and keep the result in the storage.

If the labeler predicts another class for a generator's reconstruction than for the original, the generator is not
faithful. A student learns less from the rows of such a generator than from no synthetic rows at all. torch is imported
only where something is measured.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tgt_ray.core import formats, records
from tgt_ray.core.batch import rows_at_once
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.kept import KeptStudent
from tgt_ray.core.patience import patiently
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives.facts import Facts, Rows
from tgt_ray.results import fit_pages
from tgt_ray.tasks import TaskData, inputs_of
from tgt_ray.tasks.base import take
from tgt_ray.tasks.metrics.shares import above_chance, interval
from tgt_ray.teacher.explorers import Explorer

if TYPE_CHECKING:
    from tgt_ray.teacher.module import Teacher
    from tgt_ray.training.student import Student

log = logging.getLogger(__name__)

#: Folder of the storage that keeps the checks.
FOLDER = "fit_checks"
#: Seconds above which a generator's call is warned of.
LONG_CALL_S = 10
#: Models of a teacher, as its record names them.
TEACHER = ("labeler", "generator")
#: The share of the largest class, in percent, that `fit_check.minimum` is meant for.
TENTH = 10.0
#: Balanced accuracy above chance, in percent of what lies above it, that no labeler at chance has (our choice).
CLEARLY_ABOVE = 10.0
#: The largest number of anchors, and of unseen rows, that explored rows are measured around; the fewest anchors where
#: they have many values; and the values of all of them together, so that they fit into memory (our choice).
MOST_ANCHORS, FEWEST_ANCHORS, VALUES_AT_ONCE = 2048, 512, 2**26


def key(experiment: Experiment, teacher: dict[str, Any], data: TaskData) -> str:
    """Digest everything that the measurement depends on."""
    started_from = _started_from(experiment, data)
    return digest(
        [teacher[role] and teacher[role]["identity"] for role in TEACHER],
        data.fingerprints["validation"],
        experiment.explorer.model_dump(mode="json"),
        *([experiment.explorer.revision] if experiment.explorer.revision > 1 else []),
        experiment.student.model_dump(mode="json"),
        experiment.fit_check.rows,
        experiment.fit_check.seconds,
        bool(experiment.pool.gpus_per_actor),
        # Part of the digest, since older checks of texts counted as copies only texts that no tokenizer had changed.
        *(["copies up to what tokenizers change", "unknown words stay"] if experiment.task.modality == "text" else []),
        # Older checks didn't hold explored rows against unseen ones, and so didn't depend on anchors.
        *(["explored rows", *(data.fingerprints[name] for name in started_from)] if started_from else []),
        # A gradient follows a disagreement whose temperature the objective sets.
        *([experiment.objective.model_dump(mode="json")] if experiment.explorer.on_policy else []),
        # Such a student isn't a fresh one, and explorers that look at it go elsewhere.
        *([_weights_of_start(experiment)] if experiment.explorer.on_policy and experiment.train.start_from else []),
    )


def _weights_of_start(experiment: Experiment) -> str:
    assert experiment.train.start_from is not None
    return KeptStudent.at(experiment.train.start_from).weights_digest


def stored(experiment: Experiment, teacher: dict[str, Any], data: TaskData, storage: Storage) -> dict[str, Any] | None:
    """Read the check from the storage.

    - teacher: the teacher's record
    - returns: the result; empty where there is nothing to check; None where it has not been measured yet
    """
    if not experiment.makes_new_rows or experiment.fit_check.on_low == "skip":
        return {}
    found = records.find(storage, "fit_check", FOLDER, f"{key(experiment, teacher, data)}.json")
    return None if found is None else completed(experiment, found, teacher, data)


def ready(
    experiment: Experiment,
    teacher: Teacher,
    record: dict[str, Any],
    data: TaskData,
    storage: Storage,
    device: str = "cpu",
) -> dict[str, Any]:
    """Read the check from the storage, or measure and store it.

    - record: the teacher's
    - device: where the teacher is
    - returns: the result; empty where there is nothing to check
    """
    there = stored(experiment, record, data, storage)
    if there is not None:
        return there
    name = key(experiment, record, data)
    log.info("teacher: measuring its fit on held-out rows, once")
    result, galleries = measure(experiment, teacher, data, device)
    result = completed(experiment, formats.stamped("fit_check", {**result, "key": name}), record, data)

    def write() -> None:
        for file, content in galleries.items():
            storage.write(content, FOLDER, _stored_as(file, name))
        records.write_json(storage, result, FOLDER, f"{name}.json")

    patiently(write)
    return result


def completed(experiment: Experiment, result: dict[str, Any], record: dict[str, Any], data: TaskData) -> dict[str, Any]:
    """Add how exact accuracy and agreement are, and what chance would give.

    Where the teacher's record has them of all validation rows, these numbers are taken in place of those of the
    check's rows, so that each of them is one number everywhere.

    - record: the teacher's
    """
    out = dict(result)
    decoded = "agreement_reconstructed" in result
    measured = {"accuracy_rows": result["rows"], **({"agreement_rows": result["rows"]} if decoded else {})}
    if experiment.teacher.generator.starts_from_train:
        labels = data.labels("validation")
        counts = np.bincount(labels[labels >= 0])
        out["majority"] = 100 * float(counts.max() / counts.sum())
        of_labeler, of_generator = ((record[role] or {}).get("quality", {}).get("validation", {}) for role in TEACHER)
        if "accuracy" in of_labeler:
            out["accuracy"], measured["accuracy_rows"] = of_labeler["accuracy"], int(counts.sum())
        if decoded and "labeler_agreement" in of_generator:
            out["agreement_reconstructed"] = of_generator["labeler_agreement"]
            measured["agreement_rows"] = len(labels)
        if decoded:
            out["agreement_above_chance"] = above_chance(out["agreement_reconstructed"], out["majority"])
        if "balanced_accuracy" in of_labeler:
            out["balanced_above_chance"] = above_chance(of_labeler["balanced_accuracy"], 100 / (counts > 0).sum())
    out |= {**measured, "accuracy_interval": list(interval(out["accuracy"], measured["accuracy_rows"]))}
    if decoded:
        out["agreement_interval"] = list(interval(out["agreement_reconstructed"], measured["agreement_rows"]))
    return out


def judge(experiment: Experiment, result: dict[str, Any]) -> None:
    """Log the result of the check, and warn where the labeler's accuracy or its agreement is low.

    - raises ConfigError: where one of them is low and `fit_check.on_low` is fail
    """
    if not result:
        return
    for line in _facts(experiment, result):
        log.info("%s", line)
    _say_if_calls_are_long(experiment.pool.rows_per_request, result["rows_per_second"])
    message = _low_accuracy(experiment, result)
    _warn_or_refuse(experiment, message)
    message = _low_agreement(experiment, result)
    _warn_or_refuse(experiment, message)
    message = _low_explored(experiment, result)
    _warn_or_refuse(experiment, message)


def _warn_or_refuse(experiment: Experiment, message: str | None) -> None:
    if message is not None and experiment.fit_check.on_low == "fail":
        raise ConfigError(message)
    if message is not None:
        log.warning("warning: %s", message)


def _low_accuracy(experiment: Experiment, result: dict[str, Any]) -> str | None:
    if experiment.task.has_documents or "majority" not in result:
        return None
    right, exact = result["accuracy"], _exact(result, "accuracy")
    remedy = "train the labeler longer or make it larger, or check the labels of its data"
    least, majority = experiment.fit_check.minimum_accuracy, result["majority"]
    # Of very unequal classes, accuracy alone says little: a good labeler may be as often right as the largest class.
    at_chance = result.get("balanced_above_chance", 0.0) < CLEARLY_ABOVE
    if result["accuracy_interval"][0] <= majority and at_chance:
        return (
            f"the labeler is right on {right:.1f} % of held-out rows{exact}, which is not clearly above the"
            f" {majority:.1f} % of the largest class: {remedy}"
        )
    if right < least:
        return (
            f"the labeler is right on {right:.1f} % of held-out rows{exact}, less than fit_check.minimum_accuracy"
            f" {least:g}: {remedy}, or lower the minimum"
        )
    return None


def needed_agreement(minimum: float, majority: float) -> float:
    """Return the percentage of agreement that is asked for.

    - minimum: `fit_check.minimum`, meant for ten equal classes
    - majority: percent of the largest class; where it is above a tenth, as much is asked for above chance
    """
    if minimum <= TENTH:
        return minimum
    return max(minimum, majority + (100 - majority) * (minimum - TENTH) / (100 - TENTH))


def _low_agreement(experiment: Experiment, result: dict[str, Any]) -> str | None:
    least, majority = experiment.fit_check.minimum, result.get("majority", 0.0)
    needed = needed_agreement(least, majority)
    if result.get("agreement_reconstructed", 100.0) >= needed:  # nothing is reconstructed where nothing is decoded
        return None
    # What was measured so far: see docs/results.md.
    seen = {
        "image": "on long-tailed Fashion-MNIST, synthetic rows added nothing to plain distillation below 75 %, and"
        " 3 points at 91 %; train the generator longer or with more teacher.generator.pretrain.consistency,"
        " make it larger, or lower the minimum",
        "text": "the student then learns from texts that mean something else; on BANKING77 it still gained 4 to 5"
        " points over plain distillation at 70 %; lower mask_rate, train the generator longer, or lower the minimum",
        "documents": "the teacher does not find the documents that the queries are made from; make the spans longer,"
        " which are easier to find, or lower the minimum",
    }
    kind = "text" if experiment.task.modality == "text" else "image"
    if not experiment.teacher.generator.starts_from_train:
        kind = "documents"
    raised = f" ({needed:.1f} here, since the largest class has {majority:.1f} % of the rows)" if needed > least else ""
    return (
        f"the labeler agrees with itself on {result['agreement_reconstructed']:.1f} % of the generator's"
        f" reconstructions, less than fit_check.minimum {least:g}{raised}: {seen[kind]}"
    )


def _low_explored(experiment: Experiment, result: dict[str, Any]) -> str | None:
    agreement, how = result["agreement_explored"], experiment.fit_check
    # Rows that are mixed with others are meant to be of another class, or of none.
    asked = experiment.explorer.keeps_class or how.minimum_explored is not None
    least = how.least_explored
    if not asked or agreement >= least:
        return None
    return (
        f"the labeler agrees with itself on {agreement:.1f} % of explored rows ({result['explorer']}), less than"
        f" fit_check.minimum_explored {least:g}: most of them are no longer near their anchors; let the"
        " explorer move less, train the generator longer, or lower the minimum"
    )


def _exact(result: dict[str, Any], what: str) -> str:
    """Say the 95 % interval of a percentage, and on how many rows it was measured."""
    if f"{what}_interval" not in result:
        return ""
    low, high = result[f"{what}_interval"]
    return f" (95 % interval {low:.1f} to {high:.1f}, {result[f'{what}_rows']:,} rows)"


def _say_if_calls_are_long(rows: int, per_second: float) -> None:
    """Warn where a generator's call takes long.

    The student then waits for its first rows, and rows come with a large lag.
    """
    if rows > LONG_CALL_S * per_second:
        log.warning(
            "pool.rows_per_request: a call of %d rows takes about %s at this speed, and should take tenths of a second;"
            " %d would take about one second",
            *(rows, duration(rows / per_second), max(1, round(per_second))),
        )


def _facts(experiment: Experiment, result: dict[str, Any]) -> Iterator[str]:
    """Describe a result, a fact a line."""
    rows = experiment.train.steps * experiment.train.batch_size * experiment.synthetic_ratio
    speed = result["rows_per_second"]
    yield f"fit of the teacher on {result['rows']} held-out rows:"
    yield f"  labeler's accuracy {result['accuracy']:.1f} %{_exact(result, 'accuracy')}"
    if "agreement_reconstructed" in result:
        agreement = f"{result['agreement_reconstructed']:.1f} %{_exact(result, 'agreement')}"
        yield f"  its agreement with itself on reconstructions {agreement}"
    if "agreement_above_chance" in result:
        yield (
            f"  corrected for chance {result['agreement_above_chance']:.1f} %: the largest class has"
            f" {result['majority']:.1f} % of the rows"
        )
    explored = f"({result['explorer']}) {result['agreement_explored']:.1f} %"
    free = "" if experiment.explorer.keeps_class else ", which may be low: it labels rows as they are changed and mixed"
    yield f"  its agreement with itself on explored rows {explored}{free}"
    if "accuracy_explored" in result:
        yield f"  it gives {result['accuracy_explored']:.1f} % of explored rows the class of their anchor"
    yield from _added(experiment, result)
    yield from _likeness(result)
    slow = ", by the teacher's reference form" if experiment.teacher.run_as == "fast" else ""
    yield (
        f"  {speed:,.0f} explored rows a second on {result['device']}{slow}: the {rows:,.0f} rows of a run take about"
        f" {duration(rows / speed)}"
    )


def _added(experiment: Experiment, result: dict[str, Any]) -> Iterator[str]:
    """Say what explored rows add to their anchors. What a student gains doesn't follow: see docs/results.md."""
    if result.get("variety_explored") is None:  # it could not be measured
        return
    stand_in = f", here those of {result['explored_by']}" if experiment.explorer.on_policy else ""
    varied = result["variety_explored"] / result["variety_anchors"]
    yield (
        f"  as the labeler sees explored rows{stand_in}, {result['precision_explored']:.1f} % of them lie among unseen"
        f" rows, and {result['fresh_explored']:.1f} % nearer to these than to any anchor; they are {varied:.2f} times"
        " as varied as their anchors"
    )


def _likeness(result: dict[str, Any]) -> Iterator[str]:
    """Say how similar rows are to those that they were made from."""
    if "reconstruction_mse" in result:
        yield f"  squared error of reconstructions {result['reconstruction_mse']:.4f}"
    if "exact_copy_explored" in result:
        copied = result.get("exact_copy_reconstructed")
        again = "" if copied is None else f"{copied:.1f} % of reconstructions, "
        yield (
            f"  exact copies {again}{result['exact_copy_explored']:.1f} % of explored rows, whose distinct-2 is"
            f" {result['distinct_2_explored']:.3f}"
        )


def duration(seconds: float) -> str:
    """Say a duration as a rounded number of the unit that suits it."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def keep(record: dict[str, Any], storage: Storage, folder: Storage) -> None:
    """Copy the gallery of a teacher's check to a run's results.

    - record: the teacher's
    - folder: the run's
    """
    for file in (fit_pages.PICTURE_FILE, fit_pages.PAGE_FILE) if record.get("fit_check") else ():
        there = _stored_as(file, record["fit_check"]["key"])
        if storage.exists(FOLDER, there):
            folder.write(storage.read(FOLDER, there), file)


def _stored_as(file: str, key: str) -> str:
    return f"{key}.{file.rpartition('.')[2]}"


def measure(
    experiment: Experiment, teacher: Teacher, data: TaskData, device: str = "cpu"
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Measure how well the teacher fits held-out rows.

    Explorers that follow a gradient look at an untrained student: the check measures how far rows at the configured
    steps can be trusted.

    - returns: accuracy and agreement in percent, and the gallery by the name of its file
    """
    import torch

    from tgt_ray.teacher.fidelity import HeldOut
    from tgt_ray.teacher.fidelity import measure as measure_rows

    task, generator, how = experiment.task, experiment.teacher.generator, experiment.fit_check
    # Measured on what explorers start from. Documents need not be held out, since no model was trained on them.
    table = data.tables["validation" if generator.starts_from_train else generator.starts_from[0]]
    rows = held_out_rows(len(table), how.rows)
    labels = torch.from_numpy(table["label"].to_numpy()[rows])
    inputs = inputs_of(task, table, data.input_shape, device)[torch.from_numpy(rows)]
    student = fresh_student(experiment, teacher, data).to(device).eval().requires_grad_(False)
    # Gradients keep the activations of every layer, so few rows are taken at once.
    models = [each for each in (teacher.labeler, teacher.generator, student) if each is not None]
    size = rows_at_once(data.input_shape, *models, most=64)
    size = min(size, generator.most_rows or size)
    held_out = HeldOut(inputs, labels, task.pixels)
    seen = measure_rows(teacher, experiment.explorer, student, held_out, size, how.seconds, device)
    threads = f"{torch.get_num_threads()} thread(s)"
    result = {
        **seen.result(experiment.explorer, generator.longest_text),
        **_what_rows_add(experiment, teacher, data, size, device),
        "device": device if device != "cpu" else threads,
    }
    shown, first = ({kind: values.numpy() for kind, values in each.items()} for each in (seen.rows, seen.first))
    pages = fit_pages.files(shown, first, seen.labels.numpy(), data.class_names, generator.longest_text)
    return result, pages


def _what_rows_add(experiment: Experiment, teacher: Teacher, data: TaskData, size: int, device: str) -> dict[str, Any]:
    """Measure what explored rows add to their anchors: see `tgt_ray.teacher.explored`.

    - size: rows that are made at once
    - returns: empty where rows start from documents, or classes are documents
    """
    import torch

    from tgt_ray.teacher.explored import Rows, measure

    task, how = experiment.task, experiment.fit_check
    started_from = _started_from(experiment, data)
    if not started_from:
        return {}

    def rows(names: Sequence[str], places: np.ndarray) -> Rows:
        """Take rows of some tables, whose places are counted through."""
        inputs, labels, first = [], [], 0
        for name in names:
            table = data.tables[name]
            some = take(table, places[(places >= first) & (places < first + len(table))] - first)
            inputs.append(inputs_of(task, some, data.input_shape)[torch.arange(len(some))])
            labels.append(some["label"].to_numpy())
            first += len(table)
        return Rows(torch.cat(inputs), np.concatenate(labels))

    there = np.concatenate([data.labels(name) for name in started_from])
    anchors = rows(started_from, _anchors(experiment.explorer, there, math.prod(data.input_shape)))
    count = min(how.rows, MOST_ANCHORS)
    held_out = rows(["validation"], np.sort(held_out_rows(len(data.tables["validation"]), count)))
    return measure(teacher, experiment.explorer, anchors, held_out, size, how.seconds, task.pixels, device)


def _started_from(experiment: Experiment, data: TaskData) -> list[str]:
    """Return the tables with anchors, where what their explored rows add can be measured."""
    generator = experiment.teacher.generator
    if experiment.task.has_documents or not generator.starts_from_train:
        return []
    return [name for name in generator.starts_from if name in data.tables]


def _anchors(explorer: Explorer, labels_N: np.ndarray, values: int) -> np.ndarray:
    """Draw the places of anchors as the explorer does, in order; all of them where they are few.

    - labels_N: their classes; -1 where there is none
    - values: numbers in a row's inputs
    """
    most = max(FEWEST_ANCHORS, min(MOST_ANCHORS, VALUES_AT_ONCE // values))
    if len(labels_N) <= most:
        return np.arange(len(labels_N))
    # Rows without a label count as a class of their own.
    chances = explorer.anchor_probabilities(np.where(labels_N < 0, labels_N.max() + 1, labels_N))
    return np.unique(np.random.default_rng(0).choice(len(labels_N), most, p=chances))


def fresh_student(experiment: Experiment, teacher: Teacher, data: TaskData) -> Student:
    """Build a student before its first step, for its scores alone.

    Fits that need the teacher's outputs are left out, since they don't exist yet.
    """
    from tgt_ray.teacher.transfer_set import no_head
    from tgt_ray.training.student import build_student

    def head() -> np.ndarray:
        try:
            weight: np.ndarray = teacher.labeler.get_parameter("head.weight").numpy(force=True)
        except AttributeError as err:
            raise ConfigError(no_head(experiment.teacher.labeler.type)) from err
        return weight

    rows = Rows({}, data.labels("train"), data.num_classes, head)
    fits = {fit.name: fit.load(fit.of(rows)) for fit in experiment.objective.fits if not fit.signals}
    return build_student(experiment, data, facts=Facts(data.num_classes, data.class_counts, fits=fits))


def held_out_rows(there: int, count: int) -> np.ndarray:
    """Draw held-out rows at random, always the same ones, in random order, so that the first of them stand for all.

    - there: how many rows there are
    - count: how many to draw, at most
    - returns: their places
    """
    return np.random.default_rng(0).permutation(there)[:count]
