"""Check on held-out rows whether the teacher fits its task, and keep the result in the storage.

If the labeler predicts another class for a generator's reconstruction than for the original, the generator is not
faithful. A student learns less from the rows of such a generator than from no synthetic rows at all. torch is imported
only where something is measured.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tgt_ray.core import formats, records
from tgt_ray.core.batch import rows_at_once
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives.facts import Facts, Rows
from tgt_ray.results import fit_pages
from tgt_ray.tasks import TaskData, inputs_of

if TYPE_CHECKING:
    from tgt_ray.teacher.module import Teacher
    from tgt_ray.training.student import Student

log = logging.getLogger(__name__)

#: Folder of the storage that keeps the checks.
FOLDER = "fit_checks"
#: Seconds above which a generator's call is warned of.
LONG_CALL_S = 10


def key(experiment: Experiment, teacher: dict[str, Any], data: TaskData) -> str:
    """Digest everything that the measurement depends on."""
    return digest(
        [teacher[role]["fingerprint"] for role in ("labeler", "generator")],
        data.fingerprints["validation"],
        experiment.explorer.model_dump(mode="json"),
        *([experiment.explorer.revision] if experiment.explorer.revision > 1 else []),
        experiment.student.model_dump(mode="json"),
        experiment.fit_check.rows,
        experiment.fit_check.seconds,
        bool(experiment.pool.gpus_per_actor),
        # Part of the digest, since older checks of texts counted as copies only texts that no tokenizer had changed.
        *(["copies up to what tokenizers change", "unknown words stay"] if experiment.task.modality == "text" else []),
        # A gradient follows a disagreement whose temperature the objective sets.
        *([experiment.objective.model_dump(mode="json")] if experiment.explorer.on_policy else []),
    )


def stored(experiment: Experiment, teacher: dict[str, Any], data: TaskData, storage: Storage) -> dict[str, Any] | None:
    """Read the check from the storage.

    - teacher: the teacher's record
    - returns: the result; empty where there is nothing to check; None where it has not been measured yet
    """
    if not experiment.streams or experiment.fit_check.on_low == "skip":
        return {}
    return records.find(storage, "fit_check", FOLDER, f"{key(experiment, teacher, data)}.json")


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
    for file, content in galleries.items():
        storage.write(content, FOLDER, _stored_as(file, name))
    result = formats.stamped("fit_check", {**result, "key": name})
    records.write_json(storage, result, FOLDER, f"{name}.json")
    return result


def judge(experiment: Experiment, result: dict[str, Any]) -> None:
    """Log the result of the check, and warn where agreement is low.

    - raises ConfigError: where agreement is low and `fit_check.on_low` is fail
    """
    if not result:
        return
    for line in _facts(experiment, result):
        log.info("%s", line)
    _say_if_calls_are_long(experiment.pool.rows_per_request, result["rows_per_second"])
    _judge_reconstructions(experiment, result["agreement_reconstructed"])
    _judge_explored(experiment, result["agreement_explored"], result["explorer"])


def _judge_reconstructions(experiment: Experiment, agreement: float) -> None:
    how = experiment.fit_check
    if agreement >= how.minimum:
        return
    message = (
        f"the labeler agrees with itself on {agreement:.1f} % of the generator's"
        f" reconstructions, less than fit_check.minimum {how.minimum:g}: {_what_helps(experiment)}"
    )
    if how.on_low == "fail":
        raise ConfigError(message)
    log.warning("warning: %s", message)


def _judge_explored(experiment: Experiment, agreement: float, explorer: str) -> None:
    how = experiment.fit_check
    if agreement >= how.least_explored:
        return
    message = (
        f"the labeler agrees with itself on {agreement:.1f} % of explored rows ({explorer}), less than"
        f" fit_check.minimum_explored {how.least_explored:g}: most of them are no longer near their anchors; let the"
        " explorer move less, train the generator longer, or lower the minimum"
    )
    if how.on_low == "fail":
        raise ConfigError(message)
    log.warning("warning: %s", message)


def _what_helps(experiment: Experiment) -> str:
    """Say what is known of generators that the labeler doesn't follow, and what to do."""
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
    return seen[kind]


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
    yield f"  labeler's accuracy {result['accuracy']:.1f} %"
    yield f"  its agreement with itself on reconstructions {result['agreement_reconstructed']:.1f} %"
    yield f"  its agreement with itself on explored rows ({result['explorer']}) {result['agreement_explored']:.1f} %"
    if "accuracy_explored" in result:
        yield f"  it gives {result['accuracy_explored']:.1f} % of explored rows the class of their anchor"
    yield f"  {_likeness(result)}"
    yield (
        f"  {speed:,.0f} explored rows a second on {result['device']}: the {rows:,.0f} rows of a run take about"
        f" {duration(rows / speed)}"
    )


def _likeness(result: dict[str, Any]) -> str:
    """Say how similar rows are to those that they were made from."""
    if "reconstruction_mse" in result:
        return f"squared error of reconstructions {result['reconstruction_mse']:.4f}"
    return (
        f"exact copies {result['exact_copy_reconstructed']:.1f} % of reconstructions,"
        f" {result['exact_copy_explored']:.1f} % of explored rows, whose distinct-2 is"
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
    size = rows_at_once(data.input_shape, teacher.labeler, teacher.generator, student, most=64)
    size = min(size, generator.most_rows or size)
    seen = measure_rows(teacher, experiment.explorer, student, HeldOut(inputs, labels), size, how.seconds, device)
    threads = f"{torch.get_num_threads()} thread(s)"
    result = {
        **seen.result(experiment.explorer, generator.longest_text),
        "device": device if device != "cpu" else threads,
    }
    shown, first = ({kind: values.numpy() for kind, values in each.items()} for each in (seen.rows, seen.first))
    pages = fit_pages.files(shown, first, seen.labels.numpy(), data.class_names, generator.longest_text)
    return result, pages


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
