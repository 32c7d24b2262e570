"""Write a run's state to files and read it back, and write what is shown of a finished run."""

from __future__ import annotations

import io
import logging
import math
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.csv
import safetensors.torch
import torch

from tgt_ray.core import formats
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.stored import Damaged
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.text.encoder import TextBackbone
from tgt_ray.models.weights import whole
from tgt_ray.results import gallery
from tgt_ray.tasks import inputs_of
from tgt_ray.teacher.fingerprints import Begun
from tgt_ray.training.description import describe, documents_file
from tgt_ray.training.files import DOCUMENTS_FILE, STATE_FILE, STUDENT_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from tgt_ray.training.first_weights import start_of
from tgt_ray.training.reader import SyntheticReader
from tgt_ray.training.run import StudentRun
from tgt_ray.training.student import Student

log = logging.getLogger(__name__)

#: Bytes of records, reports and pages of a run, about (our choice).
SMALL_FILES = 2**20
#: Rows that a worker has got and not used yet; None: it has none.
Rest = dict[str, Any] | None


def files_of(
    run: StudentRun, reader: SyntheticReader | None = None, rests: Sequence[Rest] | None = None
) -> dict[str, bytes]:
    """Give the checkpoint's files by name, in the order to write them.

    The state comes last: a checkpoint that has it is complete, and the state alone is enough to resume.

    - reader, rests: as for `state`
    """
    student, tokenizer = {WEIGHTS_FILE: weights(run.student)}, b""
    if isinstance(run.student.backbone, TextBackbone):
        tokenizer = run.student.backbone.tokens.tokenizer.backend_tokenizer.to_str().encode()
        student[TOKENIZER_FILE] = tokenizer
    if is_over(run) and run.experiment.task.has_documents:
        student[DOCUMENTS_FILE] = documents_file(run.data, run.student.criterion.ranked().numpy(force=True))
    report = run.history[-1] if is_over(run) and run.history else None
    student[STUDENT_FILE] = describe(run.experiment, run.data, run.student, tokenizer, report)
    return {**last_files(run), **student, STATE_FILE: state(run, reader, rests)}


def rest_of(run: StudentRun, reader: SyntheticReader | None) -> Rest:
    """Give the rows that this worker has and that can't be made again, where a step will use them."""
    return None if reader is None or is_over(run) else reader.unused()


def is_over(run: StudentRun) -> bool:
    """Tell whether the last step is made."""
    return run.step == run.experiment.train.steps


def state(run: StudentRun, reader: SyntheticReader | None = None, rests: Sequence[Rest] | None = None) -> bytes:
    """Serialize everything that training needs to resume. torch loads it with weights_only=True.

    - reader: serves the synthetic rows; None: the run has none
    - rests: of `rest_of`, for each worker; None: the run has this worker alone
    """
    rests = [rest_of(run, reader)] if rests is None else list(rests)
    assert reader is None or len(rests) == run.plan.world_size
    buffer = io.BytesIO()
    torch.save(
        {
            formats.KEY: formats.FORMATS["checkpoint"],
            "model": run.student.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "schedule": run.schedule.state_dict(),
            "rng": torch.get_rng_state(),
            # Dropout on a GPU draws from a generator of its own.
            "cuda_rng": torch.cuda.get_rng_state() if run.device.startswith("cuda") else None,
            # The order of sums depends on it, and so do last digits.
            "threads": torch.get_num_threads(),
            "teacher": run.data.taught_by,
            "data": run.data.fingerprints,
            "start": (run.student.started_from or {}).get("weights"),
            "step": run.step,
            "position": run.position,
            "workers": run.plan.world_size,
            "history": run.history,
            "train_s": run.train_s,
            # After the last step nothing is read, and rows that are shown have files of their own.
            "reading": None if reader is None or is_over(run) else _stored({**reader.state(), "rests": rests}),
            "experiment": run.experiment.fingerprint(),
        },
        buffer,
    )
    return buffer.getvalue()


def load_state(run: StudentRun, content: bytes) -> None:
    """Restore a run to where `state` was taken.

    - raises ConfigError: where torch can't read the state, where it belongs to another experiment, teacher or data, or
      where the number of workers differs, since the rows that a worker sees depend on it
    """
    there = _loaded(content, run.device)
    _check_all_but_the_teacher(there, run.experiment, run.plan.world_size, run.data.fingerprints)
    # Older versions have not noted it.
    if there.get("teacher", run.data.taught_by) != run.data.taught_by:
        raise ConfigError(
            f"--resume: the run was begun with another teacher ({_said(there['teacher'])}) than the present one"
            f" ({_said(run.data.taught_by)}); restore its files in teachers/, or begin a new run"
        )
    if there["step"] > run.experiment.train.first_phase_steps:
        run.begin_second_phase()
    run.student.load_state_dict(there["model"])
    run.optimizer.load_state_dict(there["optimizer"])
    run.schedule.load_state_dict(there["schedule"])
    torch.set_rng_state(there["rng"].cpu())
    if there["cuda_rng"] is not None:
        torch.cuda.set_rng_state(there["cuda_rng"].cpu())
    run.step, run.history, run.train_s = there["step"], there["history"], there["train_s"]
    assert tuple(there["position"]) == run.position, "the request offset follows from the step"
    if (reading := _found(there.get("reading"))) is not None:
        rest = reading.pop("rests")[run.plan.rank]
        run.reading = {**reading, "rest": rest}
    if run.plan.rank == 0 and not is_over(run):
        _warn_where_inexact(run, there)


def begun_with(content: bytes, experiment: Experiment, workers: int, rows: Mapping[str, str]) -> Begun | None:
    """Read from a state with which teacher its run was begun, before that is prepared.

    - workers: how many the run has here
    - rows: fingerprints of the tables that students get
    - returns: None where an older version has not noted the teacher
    - raises ConfigError: as `load_state`, for all but another teacher
    """
    there = _loaded(content, "cpu")
    _check_all_but_the_teacher(there, experiment, workers, rows)
    return Begun("run", there["teacher"]) if "teacher" in there else None


def _check_all_but_the_teacher(
    there: dict[str, Any], experiment: Experiment, workers: int, rows: Mapping[str, str]
) -> None:
    """Raise ConfigError where a state can't go on, whichever the teacher is; parameters as for `begun_with`."""
    formats.check_not_newer("checkpoint", there, "--resume: the run's checkpoint", "begin a new run")
    if there["experiment"] != experiment.fingerprint():
        raise ConfigError(
            f"--resume: the checkpoint belongs to experiment {there['experiment']}, this is"
            f" {experiment.fingerprint()}; begin a new run"
        )
    if there["workers"] != workers:
        raise ConfigError(
            f"--resume: the run was begun with {there['workers']} worker(s), here it has {workers};"
            " resume it with the number that it was begun with"
        )
    _check_start(there, experiment)
    # Older versions have not noted it.
    before = there.get("data", rows)
    changed = [name for name in {**rows, **before} if rows.get(name) != before.get(name)]
    if changed:
        raise ConfigError(
            f"--resume: the rows of {', '.join(changed)} have changed since the run was begun; restore them, or begin a"
            " new run"
        )
    if formats.number(there) == 1 and experiment.objective.calibration_rows:
        raise ConfigError(
            "--resume: the checkpoint has format 1, whose version selected students also by the validation rows that"
            " the objective is calibrated on now; begin a new run"
        )


def _check_start(there: dict[str, Any], experiment: Experiment) -> None:
    """Raise ConfigError where the weights that a run began with aren't those that lie there now."""
    kept = start_of(experiment)
    if kept is not None and kept.weights_digest != there.get("start"):
        raise ConfigError(
            f"--resume: the run began with the weights {there.get('start')}, and {kept.storage.shown} has"
            f" {kept.weights_digest} now; restore them, or begin a new run"
        )


def _warn_where_inexact(run: StudentRun, there: dict[str, Any]) -> None:
    """Say what will not be as in a run without a stop."""
    begun, here = there.get("threads"), torch.get_num_threads()
    if begun not in (None, here) and run.device == "cpu":
        log.warning(
            "--resume: the checkpoint was made with %d thread(s), and the run goes on with %d, so last digits may"
            " differ from those of a run without a stop; set OMP_NUM_THREADS=%d for the same",
            begun,
            here,
            begun,
        )
    if formats.number(there) == 1 and run.experiment.streams:
        _warn_of_format_1(run)


def _warn_of_format_1(run: StudentRun) -> None:
    """Say what isn't as in a run without a stop: the state is from before it had the rows that are shown and left."""
    request, used = run.position
    inexact = ""
    if used and run.experiment.explorer.on_policy:
        inexact = f"; request {request}, of which {used} rows are used, is made again with the student as it is now"
    log.warning("--resume: the checkpoint has format 1, so the gallery and lag_* begin at step %d%s", run.step, inexact)


def _stored(tree: Any) -> Any:
    """Replace arrays by tensors, which torch reads with weights_only=True."""
    if isinstance(tree, dict):
        return {name: _stored(each) for name, each in tree.items()}
    if isinstance(tree, list):
        return [_stored(each) for each in tree]
    return torch.tensor(tree) if isinstance(tree, np.ndarray) else tree


def _found(tree: Any) -> Any:
    """Give what `_stored` was given."""
    if isinstance(tree, dict):
        return {name: _found(each) for name, each in tree.items()}
    if isinstance(tree, list):
        return [_found(each) for each in tree]
    return tree.numpy(force=True) if isinstance(tree, torch.Tensor) else tree


def _said(teacher: dict[str, str | None]) -> str:
    return ", ".join(f"{role} {identity}" for role, identity in teacher.items())


def _loaded(content: bytes, device: str) -> dict[str, Any]:
    try:
        out: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True, map_location=device)
    except (RuntimeError, ValueError, EOFError, OSError, KeyError, pickle.UnpicklingError) as err:
        raise Damaged.of(where="--resume: the run's checkpoint", reason=" ".join(str(err).split())) from err
    return out


def size_of(run: StudentRun) -> int:
    """Estimate the bytes that a run's checkpoint adds on a disk.

    It has the student twice, what the optimizer keeps of trained weights, and the gallery twice; records and pages are
    small.
    """
    train, student = run.experiment.train, run.student
    whole_student = sum(each.nbytes for each in student.state_dict().values())
    trained = sum(each.nbytes for each in student.parameters() if each.requires_grad)
    kept = trained * (2 if train.optimizer == "adamw" else 1 if train.momentum else 0)
    shown = min(gallery.IN_ALL, gallery.PER_CLASS * run.data.num_classes)
    row = math.prod(run.data.input_shape) * (1 if run.data.spec.tokenizer else 4)
    pictures = min(gallery.MOST_BYTES, shown * 2 * row)
    return 2 * whole_student + kept + 2 * pictures + SMALL_FILES


def weights(student: Student) -> bytes:
    """Serialize the student's weights alone, as safetensors."""
    return safetensors.torch.save(whole(student.state_dict()))


def snapshot(student: Student) -> dict[str, np.ndarray]:
    """Copy the student's weights for the generators.

    They are arrays, because Ray sends those as they are, in a fraction of the time that a file takes.
    """
    return {name: tensor.numpy(force=True) for name, tensor in student.state_dict().items()}


def last_files(run: StudentRun) -> dict[str, bytes]:
    """Give the files for people to look at, once the test split has been measured; empty before the last step."""
    out: dict[str, bytes] = {}
    if run.evaluation.details is not None:
        sink = io.BytesIO()
        pyarrow.csv.write_csv(run.evaluation.details, sink)
        out[run.experiment.task.details_file] = sink.getvalue()
    return {**out, **gallery_files(run, run.samples)} if run.samples else out


def gallery_files(run: StudentRun, samples: list[gallery.Sample]) -> dict[str, bytes]:
    """Make the gallery's files: synthetic rows with the predictions of teacher and student."""
    anchors, anchor_labels = real_rows(run, np.array([sample.anchor for sample in samples]))
    explored = torch.from_numpy(np.stack([sample.explored for sample in samples]))
    table = gallery.rows_table(samples, run.evaluation.all_scores(explored), anchor_labels)
    longest = run.experiment.teacher.generator.longest_text
    return gallery.files(samples, table, anchors, run.data.class_names, longest)


def real_rows(run: StudentRun, ids_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Look up anchors by their ids.

    - ids_N: (N,) anchor ids
    - returns: inputs (N, ...) and labels (N,); the label is -1 where an anchor has none
    """
    places, inputs, labels = [], [], []
    for table in run.data.anchor_tables:
        there = table["id"].to_numpy()
        order = np.argsort(there)
        mine = np.flatnonzero(np.isin(ids_N, there))
        rows = table.take(order[np.searchsorted(there, ids_N[mine], sorter=order)])
        places.append(mine)
        given = inputs_of(run.experiment.task, rows, run.data.input_shape)
        inputs.append(given[torch.arange(len(mine))].numpy())
        labels.append(rows["label"].to_numpy())
    back = np.argsort(np.concatenate(places))
    return np.concatenate(inputs)[back], np.concatenate(labels)[back]
