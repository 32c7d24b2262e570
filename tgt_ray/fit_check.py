"""Floor 3: does the teacher fit its task? Measured on held-out rows before anything trains, and kept in the storage.

A generator that is not faithful to the labeler gives rows that the labeler itself takes for something else; a student learns less from
them than from no synthetic rows at all. torch is imported only where something is measured.
"""

from __future__ import annotations

import io
import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from tgt_ray import records
from tgt_ray.config import ConfigError, digest
from tgt_ray.experiment import Experiment
from tgt_ray.storage import Storage
from tgt_ray.tasks import TaskData

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from tgt_ray.teacher import Teacher

log = logging.getLogger(__name__)

#: Where checks lie in the storage, and under which name the gallery of one lies in a run's folder.
FOLDER, GALLERY = "fit_checks", "fit_check.png"
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
    )


def stored(experiment: Experiment, teacher: dict[str, Any], data: TaskData, storage: Storage) -> dict[str, Any] | None:
    """The check where the storage has it; an empty one where there is nothing to check."""
    if not experiment.streams or experiment.fit_check.on_low == "off":
        return {}
    name = key(experiment, teacher, data)
    return records.read_json(storage, FOLDER, f"{name}.json") if storage.exists(FOLDER, f"{name}.json") else None


def ready(
    experiment: Experiment, teacher: Teacher, record: dict[str, Any], data: TaskData, storage: Storage
) -> dict[str, Any]:
    """The check, from the storage or measured now."""
    there = stored(experiment, record, data, storage)
    if there is not None:
        return there
    name = key(experiment, record, data)
    result, figure = measure(experiment, teacher, data)
    storage.write(_png(figure), FOLDER, f"{name}.png")
    result["key"] = name
    records.write_json(storage, result, FOLDER, f"{name}.json")
    return result


def judge(experiment: Experiment, result: dict[str, Any]) -> None:
    """Say how the check went. Where agreement is low, warn, or raise ConfigError if the experiment wants that."""
    if not result:
        return
    log.info(
        "fit of the teacher on %d held-out rows: labeler's accuracy %.1f %%; its agreement with itself %.1f %% on reconstructions,"
        " %.1f %% on explored rows (%s); squared error of reconstructions %.4f; %.0f explored rows a second on %d thread(s)",
        *(result[name] for name in ("rows", "accuracy", "agreement_reconstructed", "agreement_explored", "explorer")),
        *(result[name] for name in ("reconstruction_mse", "rows_per_second", "threads")),
    )
    least = experiment.fit_check.minimum
    if result["agreement_reconstructed"] >= least:
        return
    message = (
        f"the labeler agrees with itself on {result['agreement_reconstructed']:.1f} % of the generator's reconstructions, less than"
        f" fit_check.minimum {least:g}: expect synthetic rows to help little or to harm; train the generator longer or with more"
        " teacher.generator.pretrain.consistency, make it larger, or lower the minimum"
    )
    if experiment.fit_check.on_low == "fail":
        raise ConfigError(message)
    log.warning("warning: %s", message)


def keep(record: dict[str, Any], storage: Storage, folder: Storage) -> None:
    """Put the gallery of a teacher's check beside a run's results."""
    if record.get("fit_check"):
        folder.write(storage.read(FOLDER, f"{record['fit_check']['key']}.png"), GALLERY)


def measure(experiment: Experiment, teacher: Teacher, data: TaskData) -> tuple[dict[str, Any], Figure]:
    """Accuracy and agreement in percent, and a gallery.

    The student that a gradient looks at is a fresh one: what is measured is how far rows of the configured steps can be trusted.
    """
    import torch

    from tgt_ray.explorers import Neighbourhood
    from tgt_ray.student import build_student
    from tgt_ray.synthesis import Disagreement
    from tgt_ray.tasks import inputs_of

    rows = held_out_rows(len(data.labels("validation")), experiment.fit_check.rows)
    labels = torch.from_numpy(data.labels("validation")[rows])
    inputs = inputs_of(experiment.task, data.tables["validation"], data.input_shape)[torch.from_numpy(rows)]
    student = build_student(experiment, data).eval().requires_grad_(False)
    rng = torch.Generator().manual_seed(0)
    kinds: dict[str, list[Tensor]] = {"real": [], "reconstructed": [], "explored": []}
    logits: dict[str, list[Tensor]] = {name: [] for name in kinds}
    seconds = 0.0
    with torch.no_grad():
        latents_NL = torch.cat([teacher.generator.encode(part) for part in inputs.split(64)])  # type: ignore[operator]
        scale_L = latents_NL.std(dim=0)
        for part, latents, classes in zip(inputs.split(64), latents_NL.split(64), labels.split(64), strict=True):
            again = teacher.generator.decode(latents)  # type: ignore[operator]
            started = time.perf_counter()
            near = Neighbourhood(scale_L, Disagreement(teacher, student), latents_NL, labels, classes, rng)
            explored = teacher.generator.decode(experiment.explorer.explore(latents, near))  # type: ignore[operator]
            of_explored = teacher.labeler(explored).logits
            seconds += time.perf_counter() - started
            for name, images in (("real", part), ("reconstructed", again), ("explored", explored)):
                kinds[name].append(images)
                logits[name].append(of_explored if name == "explored" else teacher.labeler(images).logits)
    images = {name: torch.cat(parts) for name, parts in kinds.items()}
    p = {name: torch.cat(parts).softmax(dim=1) for name, parts in logits.items()}
    says = {name: values.argmax(dim=1) for name, values in p.items()}

    def share(hits: Tensor) -> float:
        return 100 * float(hits.float().mean())

    result: dict[str, Any] = {
        "rows": len(rows),
        "explorer": experiment.explorer.type,
        "accuracy": share(says["real"] == labels),
        "reconstruction_mse": float((images["reconstructed"] - images["real"]).square().mean()),
        "rows_per_second": len(rows) / max(seconds, 1e-9),
        "threads": torch.get_num_threads(),
    }
    for name in ("reconstructed", "explored"):
        result[f"agreement_{name}"] = share(says[name] == says["real"])
        result[f"accuracy_{name}"] = share(says[name] == labels)
    shown = [int((labels == c).nonzero()[0]) for c in labels.unique()[:SHOWN]]
    return result, gallery(
        {name: values[shown].numpy() for name, values in images.items()},
        {name: values[shown].numpy() for name, values in p.items()},
    )


def held_out_rows(there: int, count: int) -> np.ndarray:
    """Places of at most `count` of the rows that are there, drawn at random and always the same."""
    return np.sort(np.random.default_rng(0).permutation(there)[:count])


def gallery(images: dict[str, np.ndarray], p: dict[str, np.ndarray]) -> Figure:
    """A line for each kind of row, (N, C, H, W) in [0, 1], with the labeler's first class and how sure it is."""
    from matplotlib.figure import Figure

    columns = len(next(iter(images.values())))
    figure = Figure(figsize=(1.3 * columns + 1, 1.6 * len(images) + 0.3), layout="constrained")
    axes = figure.subplots(len(images), columns, squeeze=False)
    for line, (name, rows) in zip(axes, images.items(), strict=True):
        for place, image, shares in zip(line, rows, p[name], strict=True):
            place.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1)
            place.set_title(f"{shares.argmax()}: {100 * shares.max():.0f} %", fontsize=8)
            place.set_xticks([])
            place.set_yticks([])
        line[0].set_ylabel(name, fontsize=9)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
