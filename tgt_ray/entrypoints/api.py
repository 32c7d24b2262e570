"""Provides `run` and `run_sweep`, which the command line and notebooks call."""

from __future__ import annotations

import json
import logging
import os
import shlex
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from tgt_ray.core import formats, lines, owner, records
from tgt_ray.core.config import Config, as_stored, validate
from tgt_ray.core.environment import environment
from tgt_ray.core.errors import ConfigError, RunFailed, concerning
from tgt_ray.core.kept import STUDENT_FILE, KeptStudent
from tgt_ray.core.loading import dump_yaml, kept_by_new_types, load_yaml, parse_yaml, with_overrides
from tgt_ray.core.owner import Held
from tgt_ray.core.patience import patiently
from tgt_ray.core.progress import progress
from tgt_ray.core.storage import Storage, check_name
from tgt_ray.data import MapParts, in_this_process
from tgt_ray.data.answers import CLASS, FLOOR, Answers
from tgt_ray.entrypoints.summary import RunResult, SweepResult, say_result
from tgt_ray.entrypoints.terminal import libraries_to_file, messages
from tgt_ray.experiment.advice import say_resized_images, warn_of_cut_texts, warn_of_odd_settings
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives import Objective
from tgt_ray.results.ledger import ledger
from tgt_ray.results.report import REPORT_FILE, report
from tgt_ray.sweeps.config import SweepConfig, default_sweep
from tgt_ray.sweeps.going_on import settings_of, written
from tgt_ray.sweeps.journal import JOURNAL, Journal
from tgt_ray.tasks import Task, TaskData, with_calibration
from tgt_ray.teacher.fingerprints import Begun, check_data, check_same
from tgt_ray.teacher.transfer_set import Prepared, log_teacher
from tgt_ray.training import fit_check, states
from tgt_ray.training.files import keep_files

log = logging.getLogger(__name__)


def default_storage() -> str:
    """Return the storage that is used where none is given: `results` in the working directory.

    In a Ray job it is a folder of the user's home, since Ray deletes a job's working directory.
    """
    if "RAY_ADDRESS" in os.environ:  # set in every job
        from tgt_ray.distributed.ray_train import in_a_job

        if in_a_job():
            return str(Path.home() / "tgt_ray_results")
    return "results"


@dataclass(frozen=True)
class Source:
    """Holds plain data of a config, and overrides to it.

    - where: the file that the data comes from, for messages
    - overrides: dotted keys and values
    """

    data: dict[str, Any]
    where: str = ""
    overrides: list[tuple[str, Any]] = field(default_factory=list)

    def build(self, cls: type[Any]) -> Any:
        """Build a config of this class; ConfigError for bad data or overrides."""
        # The file is checked alone first, so that a mistake in it is not blamed on an override. Overrides then apply to
        # the full config, so that they may set one key of a block that the file leaves to its defaults.
        written = validate(cls, self.data, self.where)
        if not self.overrides:
            return written
        kept, left_out = kept_by_new_types(written, self.data, self.overrides)
        for key, names in left_out.items():
            log.warning("--set %s: leaves out %s, which the new type doesn't have", key, ", ".join(names))
        return validate(cls, with_overrides(written.model_dump(mode="json"), [*kept, *self.overrides]), "--set")


def run(
    experiment: Experiment | dict[str, Any] | str | Source | None = None,
    storage: str | None = None,
    name: str | None = None,
    local: bool = False,
    resume: bool = False,
    start_from: str | None = None,
) -> RunResult:
    """Train one experiment.

    - experiment: a config, plain data or a YAML file; None: the default one, or with `resume` that of the run
    - storage: folder or URI for results, teachers and caches; None: `results`
    - name: the run's folder below it; None: a new one
    - local: run in this process, without Ray
    - resume: continue the run of that name
    - start_from: the folder of a student whose weights the training begins with, as `train.start_from`; where the
      experiment has no block `student`, that student's is taken
    - raises ConfigError: for bad input, before anything is started
    - raises RunFailed: where the run was started and failed
    """
    if resume and experiment is None:
        root, name = _find(storage, name, "train", resume)
        where = root.where(name, "experiment.yaml")
        with as_stored():
            experiment = validate(Experiment, parse_yaml(root.read(name, "experiment.yaml"), where), where)
    if start_from is not None:
        experiment = _starting_from(start_from, experiment if experiment is not None else {})
    config: Experiment = _build(Experiment, experiment if experiment is not None else {})
    with messages():
        return _run(config, storage, name, local, resume)


def _starting_from(folder: str, what: Experiment | dict[str, Any] | str | Source) -> Source:
    """Return an experiment that begins with the weights of a student; parameters as for `run`."""
    if isinstance(what, Experiment):
        source = Source(what.model_dump(mode="json"))
    elif isinstance(what, Source):
        source = what
    else:
        source = Source(what) if isinstance(what, dict) else Source(load_yaml(what), str(what))
    with concerning("--from"):
        theirs = KeptStudent.at(folder).setting("student")
    if "student" not in source.data and not any(key.split(".")[0] == "student" for key, _ in source.overrides):
        if ":" in theirs["type"]:  # nothing that a folder names is imported
            raise ConfigError(
                f"--from {folder}: the student there is a class of your own, {theirs['type']}; name it in the"
                " experiment's block student"
            )
        source = replace(source, data={**source.data, "student": theirs})
    return replace(source, overrides=[*source.overrides, ("train.start_from", folder)])


def _run(config: Experiment, storage: str | None, name: str | None, local: bool, resume: bool) -> RunResult:
    config.check_files()
    warn_of_odd_settings(config)
    scan = config.task.scan()
    with _opened(storage, name, "train", resume) as (root, name, held):
        try:
            return _run_in(config, scan, root, name, local, resume, held)
        except KeyboardInterrupt:
            _say_how_to_go_on("train --local" if local else "train", root, name, root.exists(name, "experiment.yaml"))
            raise


def _run_in(
    config: Experiment, scan: Any, root: Storage, name: str, local: bool, resume: bool, held: Held
) -> RunResult:
    import pandas as pd

    folder = root.within(name)
    begun = folder.where("experiment.yaml")
    before = _check_state(folder, name) if resume else None
    with as_stored():
        there = validate(Experiment, parse_yaml(folder.read("experiment.yaml"), begun), begun) if resume else config
    if there != config:
        raise ConfigError(f"--name {name}: the run there has another experiment; resume it with its own {begun}")
    with libraries_to_file(root, name):
        history, prepared, about = (_run_local if local else _run_ray)(config, scan, root, held, before)
    if before is not None:
        check_same(before, prepared.fingerprints, prepared.teacher, "run")
    record = {
        formats.KEY: formats.FORMATS["run"],
        "kind": "run",
        "name": name,
        "mode": "local" if local else "ray",
        "experiment": config.model_dump(mode="json"),
        "metric": config.task.metric_names[0],
        "fingerprints": prepared.fingerprints,
        "data": prepared.account,
        "teacher": prepared.teacher,
        **_started(folder),
        "result": history[-1],
        "ledger": ledger([history[-1]]),
        **about,
        "environment": environment(),
    }

    def write() -> None:
        fit_check.keep(prepared.teacher, root, folder)
        records.write_jsonl(folder, history, "metrics.jsonl")
        records.write_json(folder, record, "record.json")

    held.patiently(write)
    _write_report(folder)
    return RunResult(folder.root, pd.DataFrame(history), record)


def _started(folder: Storage) -> dict[str, Any]:
    """Return the entry of a run's record that says whose weights its student has begun with, if it has."""
    known = records.read_json(folder, STUDENT_FILE)
    return {"started_from": known["started_from"]} if "started_from" in known else {}


def _check_state(folder: Storage, name: str) -> dict[str, Any] | None:
    """Raise ConfigError where a later version has written the run, or nothing whole is left to resume it from.

    - returns: its record, where it was finished before
    """
    content = folder.find("record.json")  # written anew at the end
    before: dict[str, Any] | None = None if content is None else json.loads(content)
    if before is not None:
        formats.check_not_newer("run", before, f"--resume: run '{name}'")
    states.check(folder.within("checkpoint"))
    return before


def _begun(of_state: Begun | None, before: dict[str, Any] | None, data: TaskData) -> Begun | None:
    """Return with which teacher a run was begun, where that is known; ConfigError where its data have changed.

    - of_state: what its checkpoint says
    - before: its record, where it was finished before; it says more
    """
    if before is None:
        return of_state
    check_data(before, data.fingerprints, "run")
    return Begun.of(before, "run")


def _run_local(
    config: Experiment, scan: Any, root: Storage, held: Held, before: dict[str, Any] | None
) -> tuple[list[dict[str, Any]], Prepared, dict[str, Any]]:
    """Train in this process; return the reports, what was prepared, and how small and fast the student is."""
    from tgt_ray.inference.speed import measured
    from tgt_ray.teacher.speed import rows_to_time
    from tgt_ray.training.local import begun_locally, devices, prepare_local, train_local
    from tgt_ray.training.run import Diverged

    devices(config)
    folder = held.folder
    data = _read(config, [config.objective], scan, root, in_this_process)
    _check_start([config], data)
    begun = _begun(begun_locally(config, data, folder.within("checkpoint")), before, data)
    prepared = prepare_local(config, data, root, begun=begun)
    patiently(lambda: folder.write(dump_yaml(config).encode(), "experiment.yaml"), held.check)
    try:
        run = train_local(
            config,
            prepared,
            root,
            folder.within("checkpoint"),
            report=partial(_log_report, config.task.metric_names[0]),
            name=Path(folder.root).name,
            held=held,
        )
    except Diverged as err:
        raise RunFailed(str(err)) from err
    held.patiently(lambda: keep_files(config.task, folder, ("checkpoint",)))
    rows = partial(rows_to_time, config.task, data.tables["validation"], data.input_shape)
    return run.history, prepared, {"speed": measured(folder.root, rows, prepared.teacher)}


def _run_ray(
    config: Experiment, scan: Any, root: Storage, held: Held, before: dict[str, Any] | None
) -> tuple[list[dict[str, Any]], Prepared, dict[str, Any]]:
    """Train on Ray, where a run is a lane with one job; returns what `_run_local` does."""
    import ray
    from ray.exceptions import RayActorError

    from tgt_ray.distributed import cluster
    from tgt_ray.distributed.board import board_name
    from tgt_ray.distributed.lanes import open_prepared_lanes
    from tgt_ray.distributed.link import following
    from tgt_ray.distributed.measuring import measured_by_a_lane
    from tgt_ray.distributed.messages import Run
    from tgt_ray.distributed.resources import check_fits
    from tgt_ray.distributed.teacher_tasks import begun_on_ray, run_on_ray

    folder, checkpoints = held.folder, held.folder.within("checkpoint")
    with cluster.connect():
        check_fits(config, cluster.nodes())
        cluster.check_shared(root)
        data = _read(config, [config.objective], scan, root, run_on_ray)
        _check_start([config], data)
        begun = _begun(begun_on_ray(config, data, checkpoints), before, data)
        with open_prepared_lanes(board_name(folder), config, data, config, 1, root, begun=begun) as (lanes, prepared):
            log_teacher(prepared)
            patiently(lambda: folder.write(dump_yaml(config).encode(), "experiment.yaml"), held.check)
            reference, speed = (ray.put(prepared),), dict[str, Any]()
            run = Run(folder.root, config, reference, checkpoints.root, held=held)
            link = following(lanes.board, run)
            try:
                link.call("submit", run)
                answer = _followed(config, link, run.id)
            except RayActorError as err:
                raise RunFailed(
                    "the actor between this process and the run's workers was lost; continue with --resume"
                ) from err
            if answer.reason is None:
                speed = measured_by_a_lane(lanes.board, config, reference, checkpoints)
    if answer.reason is not None:
        raise RunFailed(answer.reason)
    held.patiently(lambda: keep_files(config.task, folder, ("checkpoint",)))
    return answer.history, prepared, {"speed": speed, "replaced": dict(lanes.replaced)}


def _followed(config: Experiment, link: Any, run_id: str) -> Any:
    """Log the reports of a run on Ray until it is over, say how far it is, and return how it ended."""
    answer = link.call("next_report", run_id, -1)
    # From the first report on: before it lies the start of the lane, or what was done before a resume.
    done = answer.metrics["step"] if answer.metrics is not None else 0
    with progress("training", config.train.steps, "steps", done=done) as phase:
        while answer.metrics is not None:
            _log_report(config.task.metric_names[0], answer.metrics)
            phase.to(answer.metrics["step"])
            answer = link.call("next_report", run_id, answer.metrics["step"])
    return answer


def read_data(
    experiment: Experiment | dict[str, Any] | str | Source, storage: str | None = None
) -> tuple[Task, TaskData]:
    """Read the data of an experiment in this process, as a run on it would, and train nothing.

    - storage: folder or URI that keeps decoded images; None: `results`
    - raises ConfigError: for bad input
    """
    config: Experiment = _build(Experiment, experiment)
    with messages():
        config.check_files()
        scan = config.task.scan()
        root = Storage(storage if storage is not None else default_storage())
        root.check_folder()
        return config.task, _read(config, [config.objective], scan, root, in_this_process)


def import_rows(
    files: Sequence[Path | str],
    experiment: Experiment | dict[str, Any] | str | Source,
    teacher: str,
    logits: str | None = None,
    probabilities: str | None = None,
    inputs: str | None = None,
    classes: Sequence[str] = (),
    floor: float | None = None,
    storage: str | None = None,
) -> tuple[Storage, dict[str, Any]]:
    """Bring synthetic rows that were made and labelled elsewhere into the storage, for the explorer `imported`.

    - files: Parquet files
    - experiment: with the task that the rows are for
    - teacher: the name under which the rows are kept
    - logits, probabilities: the column that has them, one of the two; with `{class}` in its name, one for each class
    - inputs: the column with the texts or images; None: as in the task's data
    - classes: their names in the order of a list's numbers; none: the order of the data's classes
    - floor: what probabilities are raised to before their logarithm is taken; None: 1e-6
    - storage: folder or URI; None: `results`
    - returns: the folder of the rows, and the record of what is there
    - raises ConfigError: for bad input, after which nothing of it is in the storage
    """
    from tgt_ray.teacher.bank import imported
    from tgt_ray.teacher.bank.importing import GivenRows

    imported.check_name(teacher)
    _check_answers(logits, probabilities, classes, floor)
    root = Storage(storage if storage is not None else default_storage())
    root.check_writable()
    task, data = read_data(experiment, storage)
    own = data.class_names or tuple(map(str, range(data.num_classes)))
    order, least = tuple(classes) or own, FLOOR if floor is None else floor
    if logits is not None:
        answers = Answers(logits, "logits", own, order, least, "--logits")
    else:
        answers = Answers(str(probabilities), "probabilities", own, order, least, "--probabilities")
    answers.check_order()
    given = GivenRows([Path(file) for file in files], answers, _input_columns(task, inputs), task, data)
    with messages():
        record = imported.keep(root, teacher, given.parts, imported.facts(data))
        given.say_not_used()
    return root.within(imported.FOLDER, teacher), record


def _check_answers(logits: str | None, probabilities: str | None, classes: Sequence[str], floor: float | None) -> None:
    """Raise ConfigError where it isn't said what rows' answers are, or something is said that has no effect."""
    if (logits is None) == (probabilities is None):
        raise ConfigError("--logits, --probabilities: give one of them, with the column that has the answers")
    if floor is not None and logits is not None:
        raise ConfigError("--floor: has no effect on logits; leave it out, or give --probabilities")
    if classes and CLASS in (logits or probabilities or ""):
        raise ConfigError(f"--class: has no effect where {CLASS} in the column's name says the class; leave it out")


def _input_columns(task: Task, inputs: str | None) -> tuple[str, ...]:
    """Return the columns that have a row's inputs, by default those of the task's data."""
    source = getattr(task, "data", None)
    if task.has_documents or task.modality not in ("image", "text"):
        raise ConfigError(f"task.type: '{task.type}' has no classes of images or texts, for which rows can be imported")
    own = "image_column" if task.modality == "image" else "text_column"
    first = inputs or str(getattr(source, own, own.partition("_")[0]))
    return (first,) if task.pair_column is None else (first, task.pair_column)


def _read(config: Experiment, objectives: Sequence[Objective], scan: Any, root: Storage, run: MapParts) -> TaskData:
    """Read the data, and say what was read, left out and cut.

    - objectives: all that the runs on it may have
    """
    needed = max(each.calibration_rows for each in objectives)
    data = with_calibration(config.task, config.task.read(scan, root, run), needed)
    log.info(config.task.said(data))
    warn_of_cut_texts(config, data)
    say_resized_images(config, data)
    return data


def _check_start(experiments: Sequence[Experiment], data: TaskData) -> None:
    """Look whether the students that trainings start from fit, and say what is kept of them."""
    starting = [each for each in experiments if each.train.start_from is not None]
    if starting:
        from tgt_ray.training.starting import check  # imports torch

        for each in starting:
            check(each, data)


def _write_report(folder: Storage) -> None:
    """Write the page of a run or sweep; it has ended and is recorded, so no fault of a page may lose it."""
    try:
        folder.write(report([folder]), REPORT_FILE)
    except Exception as err:
        log.warning("%s: not written (%s: %s)", folder.where(REPORT_FILE), type(err).__name__, err)


def _log_report(headline: str, metrics: dict[str, Any]) -> None:
    """Log a report's step, losses, wait share and the task's first metric, `headline`."""
    shown = {
        k: v for k, v in metrics.items() if "loss" in k or k.removeprefix("test_") == headline or k == "wait_share"
    }
    log.info("step %d: %s", metrics["step"], ", ".join(f"{k} {v:.4g}" for k, v in shown.items()))


def fork_of(
    name: str | None, storage: str | None = None, sets: dict[str, Any] | Sequence[tuple[str, Any]] = ()
) -> SweepConfig:
    """Return the settings of a sweep as its `sweep.yaml` has them now, for a new one.

    The new one finds the teacher and the synthetic rows in the same storage.

    - name, storage: of the sweep
    - sets: dotted keys and other values for them
    - raises ConfigError: where there is no such sweep, or its settings are bad
    """
    root, name = _find(storage, name, "sweep", resume=True)
    folder = root.within(name)
    return written(folder, Journal.read(folder), list(sets.items() if isinstance(sets, dict) else sets))


def run_sweep(
    config: SweepConfig | dict[str, Any] | str | Source | None = None,
    storage: str | None = None,
    name: str | None = None,
    resume: bool = False,
    sets: dict[str, Any] | Sequence[tuple[str, Any]] = (),
) -> SweepResult:
    """Run a sweep on the connected Ray cluster, or on a local one that is started for it.

    - config: a config, plain data or a YAML file; None: the default sweep
    - storage, name, resume: as for `run`; with `resume` the settings come from the sweep's folder
    - sets: with `resume`, dotted keys of the sweep and their new values, such as {"search.trials": 32}; only what
      changes no trial that was trained may change
    - raises ConfigError: for bad input, before anything is started
    - raises RunFailed: where its files can't be written, or another command has taken over
    """
    if resume and config is not None:
        raise ConfigError("resume: takes its settings from the sweep's folder; give no config")
    if sets and not resume:
        raise ConfigError("sets: changes a sweep that goes on; give resume, or put the values into the config")
    with messages(), ExitStack() as opened:
        if resume:
            root, name, held = opened.enter_context(_opened(storage, name, "sweep", resume))
            journal = Journal.read(held.folder)
            loaded = settings_of(held.folder, name, journal, list(sets.items() if isinstance(sets, dict) else sets))
            scan = loaded.experiment.task.scan()
        else:
            loaded = _build(SweepConfig, config if config is not None else default_sweep())
            loaded.check_files()
            warn_of_odd_settings(loaded.experiment, loaded.largest_values())
            for key, names in loaded.of_one_type().items():
                log.info("space.%s: trials of another type don't have the experiment's %s", key, ", ".join(names))
            if (why := loaded.why_no_anchors()) is not None:
                log.info("search.controls: there is no control 'anchors' beside these trials (%s)", why)
            scan = loaded.experiment.task.scan()
            # Before images are decoded, as far as the scan shows it; _run_sweep checks it in any case.
            _check_metric(loaded, loaded.experiment.task.metrics_of_scan(scan))
            root, name, held = opened.enter_context(_opened(storage, name, "sweep", resume))
            journal = Journal.read(held.folder)
        try:
            with libraries_to_file(root, name):
                result = _run_sweep(loaded, scan, root, held, journal)
        except KeyboardInterrupt:  # before the first trial, or for the second time
            if root.exists(name, "trials.parquet"):
                say_result(_result(loaded, root.within(name)).as_left())
            _say_how_to_go_on("sweep", root, name, root.exists(name, "sweep.yaml"))
            raise
        say_result(result)
        if result.interrupted:
            _say_how_to_go_on("sweep", root, name, True)
        return result


def _run_sweep(config: SweepConfig, scan: Any, root: Storage, held: Held, journal: Journal) -> SweepResult:
    from tgt_ray.distributed import cluster
    from tgt_ray.distributed.teacher_tasks import run_on_ray
    from tgt_ray.sweeps import driver

    folder = held.folder
    with cluster.connect():
        cluster.check_shared(root)
        # All trials are selected by the same rows, whether they need others to be calibrated on or not.
        data = _read(config.experiment, config.objectives(), scan, root, run_on_ray)
        _check_start(config.starting(), data)
        _check_metric(config, config.experiment.task.metrics_of(data))
        log.info("sweep %s: %d trials, in %s", Path(folder.base).name, config.num_trials, folder.shown)
        driver.start(config, data, root, held, journal)
    _write_report(folder)
    return _result(config, folder)


def _result(config: SweepConfig, folder: Storage) -> SweepResult:
    from tgt_ray.sweeps import driver

    table = records.read_table(folder, "trials")
    best = driver.best_trial(config, table)
    return SweepResult(folder.root, config, table, best, records.read_json(folder, "record.json"))


def _say_how_to_go_on(command: str, root: Storage, name: str, begun: bool) -> None:
    """Say after an interruption which command goes on.

    - begun: whether there is something to go on from
    """
    if begun:
        options = f"--storage {shlex.quote(root.shown)} --name {shlex.quote(name)}"
        log.warning("interrupted; to go on: python -m tgt_ray %s --resume %s", command, options)
    else:
        log.warning("interrupted before the training began; the same command begins anew")


def _check_metric(config: SweepConfig, given: tuple[str, ...]) -> None:
    """Raise ConfigError where the sweep compares trials by a metric that its data doesn't give."""
    if config.search.metric not in given:
        raise ConfigError(
            f"search.metric: '{config.search.metric}' needs classes that this data does not have;"
            f" it gives {', '.join(given)}"
        )


def _build(cls: type[Config], what: Any) -> Any:
    if isinstance(what, cls):
        return what
    if isinstance(what, Source):
        return what.build(cls)
    if isinstance(what, dict):
        return validate(cls, what)
    return validate(cls, load_yaml(what), str(what))


def _find(storage: str | None, name: str | None, kind: str, resume: bool) -> tuple[Storage, str]:
    """Return the storage root and the run's name: a new one, or with `resume` one that is there."""
    if name is not None:
        check_name(name)
    root = Storage(storage if storage is not None else default_storage())
    if resume and name is None:
        raise ConfigError("--resume: give the name of the run or sweep with --name")
    name = name or f"{kind}-{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"
    marker = "sweep.yaml" if kind == "sweep" else "experiment.yaml"
    try:
        begun, there = root.exists(name, marker), owner.taken(root, name)
        # Its settings can be written anew.
        begun = begun or (kind == "sweep" and bool(lines.files_of(root.within(name), JOURNAL)))
    except OSError as err:
        raise ConfigError(f"--storage {root.shown}: cannot be read ({' '.join(str(err).split())})") from err
    if resume and not begun:
        raise ConfigError(f"--resume: there is no {kind} '{name}' in {root.shown}")
    if there and not resume:
        raise ConfigError(
            f"--name {name}: exists already in {root.shown}; choose another name, or continue it with --resume"
        )
    return root, name


@contextmanager
def _opened(storage: str | None, name: str | None, kind: str, resume: bool) -> Iterator[tuple[Storage, str, Held]]:
    """Yield the storage root, the run's name, and its folder as it is owned, which no other command has meanwhile."""
    root, name = _find(storage, name, kind, resume)
    root.check_writable()
    with owner.claimed(root, name, resume) as held:
        removed = root.remove_drafts()
        if removed:
            log.info("storage: %d half-written file(s) of processes that are gone are removed", removed)
        yield root, name, held
