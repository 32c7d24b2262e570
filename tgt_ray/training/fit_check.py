"""Floor 3: does the teacher fit its task? Measured on held-out rows before anything trains, and kept in the storage.

A generator that is not faithful to the labeler gives rows that the labeler itself takes for something else; a student learns less from
them than from no synthetic rows at all. torch is imported only where something is measured.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tgt_ray.core import records
from tgt_ray.core.batch import rows_at_once
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.storage import Storage
from tgt_ray.core.texts import are_texts, to_texts
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives import Facts
from tgt_ray.objectives.embeddings import TeacherEmbeddings
from tgt_ray.results.fit_pages import _png, gallery, text_gallery
from tgt_ray.results.gallery import drawable
from tgt_ray.tasks import TaskData
from tgt_ray.tasks.metrics.generated_texts import distinct_n, exact_copy_rate
from tgt_ray.teacher.transfer_set import written

if TYPE_CHECKING:
    from torch import Tensor

    from tgt_ray.teacher.module import Teacher

log = logging.getLogger(__name__)

#: Where checks lie in the storage, and under which name the gallery of one lies in a run's folder: a picture, or a page of texts.
FOLDER, GALLERY, PAGE = "fit_checks", "fit_check.png", "fit_check.html"
#: Calls of a generator that are longer than this are worth a warning.
LONG_CALL_S = 10
#: Rows of the gallery: one of each class, at the most these.
SHOWN = 10


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
        # A student of documents has its temperature from there.
        *([experiment.objective.model_dump(mode="json")] if experiment.task.answers == "documents" else []),
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
    if experiment.teacher.generator.starts_from_documents:
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
    for file in (GALLERY, PAGE) if record.get("fit_check") else ():
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

    from tgt_ray.tasks import inputs_of
    from tgt_ray.teacher.explorers import Neighbourhood
    from tgt_ray.teacher.module import check_decoded
    from tgt_ray.teacher.synthesizer import Disagreement, along, latent_std
    from tgt_ray.training.student import build_student

    # Of what explorers start from: documents are not held out, and needn't be, since nothing has learnt from them.
    from_documents = experiment.teacher.generator.starts_from_documents
    table = written(data.tables["documents"]) if from_documents else data.tables["validation"]
    rows = held_out_rows(len(table), experiment.fit_check.rows)
    labels = torch.from_numpy(table["label"].to_numpy()[rows])
    inputs = inputs_of(experiment.task, table, data.input_shape, device)[torch.from_numpy(rows)]
    facts = Facts(data.num_classes, data.class_counts)
    if experiment.task.answers == "documents":
        head = teacher.labeler.get_parameter("head.weight").numpy(force=True)
        facts = replace(facts, embedding_statistics=TeacherEmbeddings(head, head[:0]))
    student = build_student(experiment, data, facts=facts).to(device).eval().requires_grad_(False)
    # Gradients keep what every layer makes of each row.
    size = rows_at_once(data.input_shape, teacher.labeler, teacher.generator, student, most=64)
    size = min(size, getattr(teacher.generator, "rows_at_once", size))
    rng = torch.Generator().manual_seed(0)
    kinds: dict[str, list[Tensor]] = {"real": [], "reconstructed": [], "explored": []}
    # Of each row the labeler's first class and its share: of all classes there may be too many.
    first: dict[str, list[Tensor]] = {name: [] for name in kinds}
    timed: list[tuple[float, int]] = []
    until = time.perf_counter() + experiment.fit_check.seconds
    with torch.no_grad():
        latents_NL: Tensor | None = None
        if teacher.contextual:
            scale_L = latent_std(teacher, inputs, device)
        else:
            latents_NL = torch.cat([teacher.encode(part, rng)[0] for part in inputs.split(size)])
            scale_L = latents_NL.std(dim=0)
        for number, (part, classes) in enumerate(zip(inputs.split(size), labels.split(size), strict=True)):
            # Of a contextual generator with what it masks: as rows are made, but for the explorer.
            latents, context = (
                (latents_NL[number * size :][:size], None) if latents_NL is not None else teacher.encode(part, rng)
            )
            again = teacher.decode(latents, rng, context).cpu()  # not before the device has made it
            check_decoded(again, part)
            started = time.perf_counter()
            near = Neighbourhood(
                along(scale_L, latents),
                Disagreement(teacher, student, rng, context),
                latents if latents_NL is None else latents_NL,
                labels,
                classes,
                rng,
            )
            explored = part
            if experiment.explorer.decodes:
                explored = teacher.decode(experiment.explorer.explore(latents, near), rng, context)
            of_explored = teacher.labeler(explored).logits.softmax(dim=1).cpu()
            timed.append((time.perf_counter() - started, len(part)))
            for name, images in (("real", part), ("reconstructed", again), ("explored", explored)):
                kinds[name].append(images.cpu())
                p = of_explored
                if name != "explored":
                    p = teacher.labeler(images.to(device)).logits.softmax(dim=1).cpu()
                first[name].append(torch.stack(p.max(dim=1), dim=1))
            if time.perf_counter() > until:
                break
    images = {name: torch.cat(parts) for name, parts in kinds.items()}
    labels = labels[: len(images["real"])]
    seen = {name: torch.cat(parts).double() for name, parts in first.items()}
    says = {name: pairs[:, 1].long() for name, pairs in seen.items()}

    longest = experiment.teacher.generator.longest_text
    usual = timed[1:] or timed  # the first batch warms up

    def share(hits: Tensor) -> float:
        return 100 * float(hits.float().mean())

    result: dict[str, Any] = {
        "rows": len(labels),
        "explorer": experiment.explorer.type,
        "accuracy": share(says["real"] == labels),
        **_compare({name: values.numpy() for name, values in images.items()}, longest),
        "rows_per_second": sum(rows for _, rows in usual) / max(sum(seconds for seconds, _ in usual), 1e-9),
        "device": device if device != "cpu" else f"{torch.get_num_threads()} thread(s)",
    }
    for name in ("reconstructed", "explored"):
        result[f"agreement_{name}"] = share(says[name] == says["real"])
        result[f"accuracy_{name}"] = share(says[name] == labels)
    few = [int((labels == c).nonzero()[0]) for c in labels.unique()[:SHOWN]]
    few_seen = {name: [(int(c), float(p)) for p, c in pairs[few].tolist()] for name, pairs in seen.items()}
    if are_texts(images["real"].numpy()):
        texts = {name: to_texts(values.numpy()) for name, values in images.items()}
        return result, {PAGE: text_gallery(texts, few, labels[few].tolist(), few_seen, data.class_names, longest)}
    few_images = {name: values[few].numpy() for name, values in images.items()}
    if not drawable(few_images["real"]):
        return result, {}
    return result, {GALLERY: _png(gallery(few_images, few_seen, data.class_names))}


def _compare(rows: dict[str, np.ndarray], longest: int | None) -> dict[str, float]:
    """How much rows are like the real ones: squared error of reconstructions; of texts, which share is the same (longest: see
    `exact_copy_rate`) and how much explored ones are of many words."""
    if not are_texts(rows["real"]):
        return {"reconstruction_mse": float(np.square(rows["reconstructed"] - rows["real"]).mean())}
    texts = {name: to_texts(values) for name, values in rows.items()}
    return {
        "exact_copy_reconstructed": exact_copy_rate(texts["real"], texts["reconstructed"], longest),
        "exact_copy_explored": exact_copy_rate(texts["real"], texts["explored"], longest),
        "distinct_2_explored": distinct_n(texts["explored"], 2),
    }


def held_out_rows(there: int, count: int) -> np.ndarray:
    """Places of at most `count` of the rows that are there, drawn at random and always the same; in random order, so that the first
    of them stand for all."""
    return np.random.default_rng(0).permutation(there)[:count]
