"""Chooses the form in which a part of a teacher runs, once, by a measurement on held-out rows, and keeps the choice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from tgt_ray.core import formats, records
from tgt_ray.core.batch import rows_at_once
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.storage import Storage
from tgt_ray.models.numerics import kl_rows, on_pixels
from tgt_ray.teacher.forms.making import Decodes, InForm, NoSuchForm, Says, seconds_to_import
from tgt_ray.teacher.forms.names import (
    FORMS,
    LEAST_AGREEMENT,
    MOST_KL,
    MOST_TURNED,
    REFERENCE,
    REVISION,
    WORK_ROWS,
    facts_of,
)
from tgt_ray.teacher.module import Teacher

log = logging.getLogger(__name__)

#: Folder of the storage that keeps choices.
FOLDER = "forms"
#: A form must be so many times as fast as the reference (our choice): less is within what measurements differ by.
MARGIN = 1.1
#: Forms take turns so many times; the median counts.
ROUNDS = 5
#: The seconds that the reference takes for a turn, at least and at most: fewer rows, or several calls.
SHORT_TURN_S, LONG_TURN_S = 0.2, 1.0
#: What can't be seen of two forms of a generator that draws, or has more than latents to decode.
NOT_COMPARED = "what it decodes is drawn, or doesn't follow from latents alone"

#: A form, or the reference: maps a tensor (B, ...) to a tuple of tensors.
Run = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass
class Tried:
    """What was found of a form.

    - speed: rows a second, on a CPU a processor second, as a multiple of the reference's; the median of several turns
    - agreement: percent of rows on which the labeler names the same class as with the reference
    - kl: mean KL divergence from the reference, in nats
    - turned: mean of 1 - cosine between the labeler's embeddings and those with the reference
    - start_s: what it takes to be made ready in a new process, with the first call
    - work_s: what `WORK_ROWS` rows take the reference
    - worth: `speed` with `start_s` counted once for so many rows
    - lacking: why it wasn't measured
    """

    form: str
    speed: float | None = None
    agreement: float | None = None
    kl: float | None = None
    turned: float | None = None
    start_s: float | None = None
    work_s: float | None = None
    worth: float | None = None
    lacking: str | None = None

    @property
    def keeps_labels(self) -> bool:
        same_class = self.agreement is not None and self.agreement >= LEAST_AGREEMENT
        return same_class and (self.kl or 0.0) <= MOST_KL and (self.turned or 0.0) <= MOST_TURNED


@dataclass(frozen=True)
class Rows:
    """Held-out rows on which forms are compared.

    - inputs: (N, ...), on the teacher's device
    - pixels: whether they are images, see `tgt_ray.teacher.synthesizer.Recipe`
    """

    inputs: Tensor
    pixels: bool = False


def with_forms(
    teacher: Teacher, record: dict[str, Any], rows: Callable[[], Rows], name: str, storage: Storage, made_on: Any
) -> tuple[Teacher, dict[str, Any]]:
    """Bring each part of a teacher into the form that was chosen, or is chosen now.

    - record: the teacher's
    - rows: gives the rows to choose on
    - name: fingerprint of these
    - made_on: see `tgt_ray.teacher.bank.key.machine`
    - returns: the teacher, and the record with `forms`
    """
    found = {}
    for role in ("labeler", "generator"):
        if record[role] is None:
            continue
        about = {"role": role, "identity": record[role]["identity"], "held_out": name, "made_on": made_on}
        if role == "generator":
            about["labeler"] = record["labeler"]["identity"]
        found[role] = _chosen(teacher, role, rows, about, storage)
        for line in described(role, found[role]):
            log.info("%s", line)
    record = {**record, "forms": found}
    return teacher.in_forms({role: each["form"] for role, each in found.items()}), record


def _chosen(
    teacher: Teacher, role: str, rows: Callable[[], Rows], about: dict[str, Any], storage: Storage
) -> dict[str, Any]:
    """Read a choice from the storage, or make and store it."""
    libraries = {form: facts_of(form) for form in FORMS}
    file = f"{role}-{digest('form', REVISION, about, libraries)}.json"
    there = records.find(storage, "form", FOLDER, file)
    if there is not None:
        return there
    log.info("teacher.run_as: comparing forms of the %s on held-out rows, once", role)
    given = rows()
    compared = Compared.of(teacher, role, given)
    tried = compared.tried() if compared is not None else []
    # Of two that measure at the same time, the second one takes what the first one has found.
    there = records.find(storage, "form", FOLDER, file)
    if there is not None:
        return there
    best = chosen(tried)
    choice = {"form": best, "facts": facts_of(best), "rows": len(given.inputs)}
    more = {} if compared is not None else {"lacking": NOT_COMPARED}
    record = formats.stamped("form", {**choice, **more, "tried": [asdict(each) for each in tried], **about})
    records.write_json(storage, record, FOLDER, file)
    return record


def chosen(tried: list[Tried]) -> str:
    """Return the fastest form that keeps labels and is worth it; the reference where there is none."""
    fit = [each for each in tried if each.keeps_labels and (each.worth or 0.0) >= MARGIN]
    return max(fit, key=lambda each: each.worth or 0.0).form if fit else REFERENCE


def described(role: str, choice: dict[str, Any]) -> Iterator[str]:
    """Say in a line how a part runs, and why."""
    for each in choice["tried"]:
        if each["form"] == choice["form"]:
            yield f"teacher.run_as: the {role} runs in the form '{each['form']}', {_figures(each, choice['rows'])}"
    if choice["form"] != REFERENCE:
        return
    if "lacking" in choice:
        yield f"teacher.run_as: the {role} runs as the reference: {choice['lacking']}"
        return
    seen = [each for each in choice["tried"] if each["worth"] is not None]
    nearest = max(seen, key=lambda each: (Tried(**each).keeps_labels, each["worth"]), default=None)
    best = f"; the nearest is '{nearest['form']}', {_figures(nearest, choice['rows'])}" if nearest else ""
    yield (
        f"teacher.run_as: the {role} runs as the reference: no form keeps its answers (agreement {LEAST_AGREEMENT:g} %,"
        f" mean KL {MOST_KL:g}, embeddings turned by {MOST_TURNED:g}) and is {MARGIN:g} times as fast{best}"
    )


def _figures(tried: dict[str, Any], rows: int) -> str:
    turned = tried.get("turned")  # choices of format 1 don't compare embeddings
    return (
        f"{tried['speed']:.2f} times as fast ({tried['worth']:.2f} with {tried['start_s']:.1f} s to start), agreement"
        f" {tried['agreement']:.2f} %, mean KL {tried['kl']:.2g}"
        f"{'' if turned is None else f', embeddings turned by {turned:.2g}'} on {rows} held-out rows"
    )


@dataclass
class Compared:
    """Compares forms of a part.

    - module: the part, see `InForm`
    - inputs: what it is given, (N, ...)
    - said: maps its outputs to the labeler's logits (B, K) and embedding (B, E)
    - size: how many rows it is given at once
    """

    module: nn.Module
    inputs: Tensor
    said: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]
    size: int
    forms: tuple[str, ...] = FORMS
    runs: dict[str, Run] = field(default_factory=dict)

    @classmethod
    @torch.no_grad()
    def of(cls, teacher: Teacher, role: str, rows: Rows) -> Compared | None:
        """Take a teacher's part; None where its forms can't be compared."""
        size = rows_at_once(rows.inputs.shape[1:], teacher.labeler)
        if role == "labeler":
            return cls(Says(teacher.labeler), rows.inputs, lambda said: said, size)
        if teacher.contextual or teacher.samples:
            return None
        latents = torch.cat([teacher.generator.encode(part) for part in rows.inputs.split(size)])

        says = Says(teacher.labeler)

        def said(decoded: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            of_labeler: tuple[Tensor, ...] = says(on_pixels(decoded[0]) if rows.pixels else decoded[0])
            return of_labeler

        return cls(Decodes(teacher.generator), latents, said, size)

    @torch.no_grad()
    def tried(self) -> list[Tried]:
        """Try each form: first whether it keeps the labels, then, by turns, how fast it is."""
        reference = self._said(self.module)
        found = [self._try(form, reference) for form in self.forms]
        self._time(found)
        return found

    def _said(self, run: Run) -> tuple[Tensor, Tensor]:
        parts = [self.said(run(part)) for part in self.inputs.split(self.size)]
        logits, embedding = (torch.cat(each) for each in zip(*parts, strict=True))
        return logits, embedding

    def _try(self, form: str, reference: tuple[Tensor, Tensor]) -> Tried:
        run = InForm(form, self.module)
        try:
            libraries_s = sum(seconds_to_import(step) for step in form.split("+"))
            started = time.perf_counter()
            run(self.inputs[: self.size])
            _wait(self.inputs)
            start_s = libraries_s + time.perf_counter() - started
            logits, embedding = self._said(run)
        except Exception as err:  # libraries raise anything for a model that they can't take
            reason = str(err) if isinstance(err, NoSuchForm) else f"{type(err).__name__}: {err}"
            return Tried(form, lacking=" ".join(reason.split())[:200])
        self.runs[form] = run
        agreement = 100 * int((logits.argmax(1) == reference[0].argmax(1)).sum()) / len(logits)
        kl = max(0.0, float(kl_rows(reference[0], logits).mean()))
        return Tried(form, agreement=agreement, kl=kl, turned=_turned(reference[1], embedding), start_s=start_s)

    def _time(self, found: list[Tried]) -> None:
        """Measure speeds by turns, so that what else the machine does slows all forms alike."""
        few = self.inputs[: self.size]
        self._seconds(self.module, few, 1)  # a first call may take longer
        took = self._seconds(self.module, few, 1)
        few = few[: max(1, min(len(few), int(len(few) * LONG_TURN_S / took)))]
        calls = max(1, round(SHORT_TURN_S / took))
        times: dict[str, list[float]] = {form: [] for form in (REFERENCE, *self.runs)}
        for _ in range(ROUNDS):
            for form, each in times.items():
                each.append(self._seconds(self.runs.get(form, self.module), few, calls))
        for tried in found:
            if tried.form in self.runs:
                pairs = zip(times[REFERENCE], times[tried.form], strict=True)
                tried.speed = median(reference / own for reference, own in pairs)
                tried.work_s = median(times[REFERENCE]) / (calls * len(few)) * WORK_ROWS
                tried.worth = tried.work_s / ((tried.start_s or 0.0) + tried.work_s / tried.speed)

    def _seconds(self, run: Run, rows: Tensor, calls: int) -> float:
        # On a CPU the seconds of all threads of this process count, whatever else the machine does meanwhile.
        clock = time.process_time if rows.device.type == "cpu" else time.perf_counter
        _wait(rows)
        started = clock()
        for _ in range(calls):
            run(rows)
        _wait(rows)
        return clock() - started


def _turned(reference: Tensor, embedding: Tensor) -> float:
    """Compute the mean of 1 - cosine between embeddings (B, E); rows without an embedding are left out."""
    # float64, since near 1 cosines have few digits in float32.
    one, other = reference.double().flatten(1), embedding.double().flatten(1)
    there = one.norm(dim=1) > 0
    if not there.any():
        return 0.0
    return max(0.0, float(1 - torch.nn.functional.cosine_similarity(one[there], other[there]).mean()))


def _wait(rows: Tensor) -> None:
    if rows.device.type == "cuda":
        torch.cuda.synchronize(rows.device)
