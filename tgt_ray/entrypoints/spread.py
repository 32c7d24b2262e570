"""Predicts many inputs over a Ray cluster, for the command `predict --ray`."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING

from tgt_ray.core.errors import RunFailed
from tgt_ray.core.progress import progress
from tgt_ray.core.storage import Storage
from tgt_ray.entrypoints.terminal import libraries_to_file
from tgt_ray.inference.sources import NAMED, Wanted

if TYPE_CHECKING:
    from tgt_ray.inference.prediction import Asked, Student

log = logging.getLogger(__name__)


def predict(
    student: Student, folder: str, path: str, columns: Wanted, asked: Asked, out: str, device: str, size: int
) -> None:
    """Write predictions as numbered Parquet files, each made by one of many processes of a Ray cluster.

    What is there already of the same predictions is kept.

    - folder: of the student
    - out: the folder of the files, or a URI
    - device: of torch, in these processes
    - size: rows of a file
    - raises RunFailed: where no input can be used, or a part can't be made
    """
    from tgt_ray.core.kept import find
    from tgt_ray.distributed import cluster, predictions
    from tgt_ray.inference import parts

    cluster.check_device(device)
    job = parts.prepare(student, find(folder), path, columns, asked, Storage(out), device, size)
    done = list(parts.finished(job))
    missing = parts.left(job, done)
    if done:
        log.info("%s: %d of %d parts are there already", out, len(done), job.parts)
    before, named = sum(each.rows for each in done), 0
    with (
        libraries_to_file(job.out, "predict", parts.LOGS) if missing else nullcontext(),
        cluster.connect() if missing else nullcontext(),
        progress("predicting", job.total, "rows", done=before) as phase,
    ):
        for each in predictions.predict(job, missing) if missing else ():
            done.append(each)
            phase.advance(each.rows)
            named = _name_bad(each.bad, named)
    parts.tidy(job)
    cut, bad = sum(each.cut for each in done), sum(len(each.bad) for each in done)
    if cut:
        log.warning("%d of %d texts are longer than the student reads, and are cut", cut, job.total - bad)
    if bad == job.total:
        raise RunFailed(f"{path}: none of {bad:,} inputs can be used")
    left_out = f"; {bad:,} can't be used and are left out" if bad else ""
    log.info("%s%s; %d parts in %s", f"{job.total - bad:,} rows predicted", left_out, job.parts, out)


def _name_bad(bad: list[tuple[str, str]], named: int) -> int:
    """Name inputs that can't be used, as long as few were named before; return how many were seen by now."""
    for number, (where, why) in enumerate(bad, start=named):
        if number < NAMED:
            log.warning("%s: %s; it is left out", where, why)
        elif number == NAMED:
            log.warning("further inputs that can't be used are only counted")
    return named + len(bad)
