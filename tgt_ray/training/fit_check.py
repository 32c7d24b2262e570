"""Does the teacher fit its task? Measured on held-out rows before anything trains, and kept in the storage.

A generator that is not faithful to the labeler gives rows that the labeler itself takes for something else; a student learns less from
them than from no synthetic rows at all. torch is imported only where something is measured.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from tgt_ray.core import records
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

#: Where checks lie in the storage.
FOLDER = "fit_checks"
#: Calls of a generator that are longer than this are worth a warning.
LONG_CALL_S = 10


def key(experiment: Experiment, teacher: dict[str, Any], data: TaskData) -> str:
    """What the measurement depends on."""
    return digest(
        [teacher[role]["fingerprint"] for role in ("labeler", "generator")],
        data.fingerprints["validation"],
        experiment.explorer.model_dump(mode="json"),
        experiment.student.model_dump(mode="json"),
        experiment.fit_check.rows,
        experiment.fit_check.seconds,
        bool(experiment.pool.gpus_per_actor),
        # Checks of texts from before counted as copies only what no tokenizer had changed.
        *(["copies up to what tokenizers change"] if experiment.task.modality == "text" else []),
        # What a gradient looks at has its temperature from there.
        *([experiment.objective.model_dump(mode="json")] if experiment.explorer.on_policy else []),
    )


def stored(experiment: Experiment, teacher: dict[str, Any], data: TaskData, storage: Storage) -> dict[str, Any] | None:
    """The check where the storage has it; an empty one where there is nothing to check."""
    if not experiment.streams or experiment.fit_check.on_low == "skip":
        return {}
    name = key(experiment, teacher, data)
    return records.read_json(storage, FOLDER, f"{name}.json") if storage.exists(FOLDER, f"{name}.json") else None


def ready(
    experiment: Experiment,
    teacher: Teacher,
    record: dict[str, Any],
    data: TaskData,
    storage: Storage,
    device: str = "cpu",
) -> dict[str, Any]:
    """The check, from the storage or measured now. device: where the teacher is."""
    there = stored(experiment, record, data, storage)
    if there is not None:
        return there
    name = key(experiment, record, data)
    log.info("teacher: its fit is measured on held-out rows, once")
    result, galleries = measure(experiment, teacher, data, device)
    for file, content in galleries.items():
        storage.write(content, FOLDER, _stored_as(file, name))
    result["key"] = name
    records.write_json(storage, result, FOLDER, f"{name}.json")
    return result


def judge(experiment: Experiment, result: dict[str, Any]) -> None:
    """Say how the check went. Where agreement is low, warn, or raise ConfigError if the experiment wants that."""
    if not result:
        return
    rows = experiment.train.steps * experiment.train.batch_size * experiment.synthetic_ratio
    log.info(
        "fit of the teacher on %d held-out rows: labeler's accuracy %.1f %%; its agreement with itself %.1f %% on reconstructions,"
        " %.1f %% on explored rows (%s); %s; %.3g explored rows a second on %s: the %.0f rows of a run would take about %s at this speed",
        *(result[name] for name in ("rows", "accuracy", "agreement_reconstructed", "agreement_explored", "explorer")),
        _likeness(result),
        *(result[name] for name in ("rows_per_second", "device")),
        rows,
        duration(rows / result["rows_per_second"]),
    )
    _say_if_calls_are_long(experiment.pool.rows_per_request, result["rows_per_second"])
    least = experiment.fit_check.minimum
    if result["agreement_reconstructed"] >= least:
        return
    # What was measured so far: see benchmarks/README.md.
    seen = {
        "image": "on long-tailed Fashion-MNIST, synthetic rows added nothing to plain distillation below 75 %, and 3 points at 91 %; train"
        " the generator longer or with more teacher.generator.pretrain.consistency, make it larger, or lower the minimum",
        "text": "the student then learns from texts that mean something else; on BANKING77 it gained 4 to 5 points"
        " over plain distillation at 70 % all the same; lower mask_rate, train the generator longer, or lower"
        " the minimum",
        "documents": "the teacher does not find the documents that the queries are made from; longer spans are easier to find, or lower"
        " the minimum",
    }
    kind = "text" if experiment.task.modality == "text" else "image"
    if not experiment.teacher.generator.starts_from_train:
        kind = "documents"
    message = (
        f"the labeler agrees with itself on {result['agreement_reconstructed']:.1f} % of the generator's reconstructions, less than"
        f" fit_check.minimum {least:g}: {seen[kind]}"
    )
    if experiment.fit_check.on_low == "fail":
        raise ConfigError(message)
    log.warning("warning: %s", message)


def _say_if_calls_are_long(rows: int, per_second: float) -> None:
    """Warn where a generator's call takes so long that a student waits for its first rows, and looks old when they come."""
    if rows > LONG_CALL_S * per_second:
        log.warning(
            "pool.rows_per_request: a call of %d rows takes about %s at this speed, and should take tenths of a second; %d would take about"
            " one second",
            *(rows, duration(rows / per_second), max(1, round(per_second))),
        )


def _likeness(result: dict[str, Any]) -> str:
    """How much rows are like those that they were made from."""
    if "reconstruction_mse" in result:
        return f"squared error of reconstructions {result['reconstruction_mse']:.4f}"
    return (
        f"exact copies {result['exact_copy_reconstructed']:.1f} % of reconstructions, {result['exact_copy_explored']:.1f} % of explored"
        f" rows, whose distinct-2 is {result['distinct_2_explored']:.3f}"
    )


def duration(seconds: float) -> str:
    """Rounded, in the unit that suits it."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def keep(record: dict[str, Any], storage: Storage, folder: Storage) -> None:
    """Put the gallery of a teacher's check beside a run's results."""
    for file in (fit_pages.PICTURE_FILE, fit_pages.PAGE_FILE) if record.get("fit_check") else ():
        there = _stored_as(file, record["fit_check"]["key"])
        if storage.exists(FOLDER, there):
            folder.write(storage.read(FOLDER, there), file)


def _stored_as(file: str, key: str) -> str:
    return f"{key}.{file.rpartition('.')[2]}"


def measure(
    experiment: Experiment, teacher: Teacher, data: TaskData, device: str = "cpu"
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Accuracy and agreement in percent, and a gallery by the name of its file.

    The student that a gradient looks at is a fresh one: what is measured is how far rows of the configured steps can be trusted.
    """
    import torch

    from tgt_ray.teacher.fidelity import HeldOut
    from tgt_ray.teacher.fidelity import measure as measure_rows

    task, generator, how = experiment.task, experiment.teacher.generator, experiment.fit_check
    # Of what explorers start from: documents are not held out, and needn't be, since nothing has learnt from them.
    table = data.tables["validation" if generator.starts_from_train else generator.starts_from[0]]
    rows = held_out_rows(len(table), how.rows)
    labels = torch.from_numpy(table["label"].to_numpy()[rows])
    inputs = inputs_of(task, table, data.input_shape, device)[torch.from_numpy(rows)]
    student = fresh_student(experiment, teacher, data).to(device).eval().requires_grad_(False)
    # Gradients keep what every layer makes of each row.
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
    """A student before its first step, of which only scores are wanted: what needs rows of the teacher pass isn't there yet."""
    from tgt_ray.training.student import build_student

    def head() -> np.ndarray:
        weight: np.ndarray = teacher.labeler.get_parameter("head.weight").numpy(force=True)
        return weight

    rows = Rows({}, data.labels("train"), data.num_classes, head)
    fits = {fit.name: fit.load(fit.of(rows)) for fit in experiment.objective.fits if not fit.signals}
    return build_student(experiment, data, facts=Facts(data.num_classes, data.class_counts, fits=fits))


def held_out_rows(there: int, count: int) -> np.ndarray:
    """Places of at most `count` of the rows that are there, drawn at random and always the same; in random order, so that the first
    of them stand for all."""
    return np.random.default_rng(0).permutation(there)[:count]
