"""Runs a sweep as one Ray Tune experiment, whose light trials queue their runs for lanes that outlive them."""

from __future__ import annotations

import logging
import shlex
from contextlib import suppress
from typing import Any

import pandas as pd
import ray
from ray import tune

from tgt_ray.core import formats, records
from tgt_ray.core.environment import environment
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.kept import KeptStudent
from tgt_ray.core.loading import dump_yaml
from tgt_ray.core.owner import Held
from tgt_ray.core.storage import Storage
from tgt_ray.distributed import lanes
from tgt_ray.distributed.board import board_name
from tgt_ray.distributed.cluster import nodes
from tgt_ray.distributed.measuring import measured_by_a_lane
from tgt_ray.distributed.ray_train import filter_tune_messages
from tgt_ray.distributed.resources import TRIAL_CPUS
from tgt_ray.results.ledger import ledger
from tgt_ray.sweeps.banks import about_banks, row_bytes
from tgt_ray.sweeps.concurrency import check_concurrency, checked, typical
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.curves import Curves
from tgt_ray.sweeps.leaderboard import Leaderboard
from tgt_ray.sweeps.schedulers import make_scheduler
from tgt_ray.sweeps.search import STUDY_FILE, make_search, study_path
from tgt_ray.sweeps.table import ENDED, best_first
from tgt_ray.sweeps.trial import LaneTrial
from tgt_ray.tasks import TaskData
from tgt_ray.teacher.fingerprints import Begun, check_data, check_same
from tgt_ray.teacher.transfer_set import Prepared, log_teacher
from tgt_ray.training import fit_check
from tgt_ray.training.files import kept_files

log = logging.getLogger(__name__)


class CancelRuns(tune.Callback):
    """Cancels the runs of trials that Tune stops, which frees their lanes."""

    def __init__(self, board: str):
        # The board's name and not its handle: Tune stores its callbacks, and a restored sweep has another board.
        self.board = board

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._cancel(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._cancel(trial)

    def _cancel(self, trial: Any) -> None:
        with suppress(ValueError):  # the board was lost: it has no runs any more, and its trials have failed
            ray.get_actor(self.board).cancel.remote(trial.trial_id)


def start(sweep: SweepConfig, data: TaskData, storage: Storage, name: str, resume: bool, held: Held) -> pd.DataFrame:
    """Run a sweep on the connected cluster.

    - storage, name: the sweep's files lie in `storage`/`name`, as docs/run-results.md lists them
    - resume: continue the sweep that is there, whose files are mended (see tgt_ray.sweeps.resume)
    - held: its folder, which this command owns
    - returns: the table of its trials
    - raises ConfigError: where the cluster is too small, or a sweep to resume has changed
    """
    folder = storage.within(name)
    concurrent = check_concurrency(sweep)
    before = records.read_json(folder, "record.json") if resume else None
    if before is not None:
        check_goes_on(sweep, before, concurrent, data)
    how = sweep.search
    with lanes.open_prepared_lanes(
        board_name(folder),
        checked(sweep),
        data,
        typical(sweep),
        concurrent,
        storage,
        how.max_rebuilds,
        how.warm_lanes,
        sweep.objectives(),
        sweep.unchanged_anchors(),
        begun=Begun.of(before, "sweep") if before is not None else None,
        changes=sweep.augmented_rows(),
    ) as (board, prepared):
        log_teacher(prepared)
        student = prepared.student
        banks = about_banks(sweep, row_bytes(student.input_shape, student.num_classes))
        if banks is not None:
            log.info("%s", banks)
        if before is not None:
            check_same(before, prepared.fingerprints, prepared.teacher)
        else:
            folder.write(dump_yaml(sweep).encode(), "sweep.yaml")
            fit_check.keep(prepared.teacher, storage, folder)
            records.write_json(folder, record(sweep, prepared, name, concurrent), "record.json")
            study_path(folder).unlink(missing_ok=True)
            for line in sweep.moved_to_levels():
                log.info("%s", line)
        log.info(
            "to continue it after an interruption: python -m tgt_ray sweep --resume --storage %s --name %s",
            shlex.quote(storage.shown),
            name,
        )
        reference = (ray.put(prepared),)
        make_tuner(sweep, reference, board, held, concurrent, resume).fit()
        held.check()
        table = finish(sweep, folder)
        measure_best(sweep, table, board, reference, folder)
    return table


def check_goes_on(sweep: SweepConfig, before: dict[str, Any], concurrent: int, data: TaskData) -> None:
    """Raise ConfigError where a sweep can't go on, whichever the teacher is.

    - before: its record
    - concurrent: how many trials the cluster holds
    """
    if concurrent < before["concurrent"]:
        raise ConfigError(
            f"--resume: the sweep runs {before['concurrent']} trials at once, but this cluster holds {concurrent};"
            " use a larger one"
        )
    check_data(before, data.fingerprints)
    if before.get("started_from", {}) != (now := starts_of(sweep)):
        raise ConfigError(
            f"--resume: the weights that its trials start from were {before.get('started_from')}, and are {now};"
            " restore them, or begin a new sweep"
        )


def make_tuner(
    sweep: SweepConfig, prepared: tuple[Any, ...], board: Any, held: Held, concurrent: int, resume: bool
) -> tune.Tuner:
    """Make Tune's experiment, or with `resume` restore it from the sweep's folder.

    Tune stores its own arguments, so it is given a file system and callbacks without secrets.

    - prepared: holds a reference to a Prepared
    """
    filter_tune_messages()
    folder, search = held.folder, sweep.search
    quiet = folder.without_secrets()
    trainable = tune.with_resources(
        tune.with_parameters(LaneTrial, sweep=sweep, board=board, prepared=prepared, held=held),
        {"CPU": TRIAL_CPUS},
    )
    # Made anew for a resume as well: Tune's file of it may be damaged, and the sweep's folder may have moved.
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric=search.metric,
            mode=search.mode,
            search_alg=make_search(sweep, folder, resume),
            scheduler=make_scheduler(sweep),
            num_samples=sweep.num_trials,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=_run_config(sweep, quiet, None if quiet is folder else quiet.fs),
    )
    if not resume:
        return tuner
    return tune.Tuner.restore(
        folder.within("tune").root if quiet is folder else quiet.path("tune"),
        trainable=trainable,
        resume_unfinished=True,
        restart_errored=False,
        storage_filesystem=None if quiet is folder else quiet.fs,
    )


def _run_config(sweep: SweepConfig, folder: Storage, file_system: Any) -> tune.RunConfig:
    """Make Tune's settings of the experiment.

    - folder: whose pickle has no secrets
    - file_system: on which the folder lies; None: Tune finds it by itself
    """
    return tune.RunConfig(
        name="tune",
        storage_path=folder.root if file_system is None else folder.base,
        storage_filesystem=file_system,
        verbose=0,
        callbacks=[Leaderboard(sweep, folder), CancelRuns(board_name(folder)), Curves(sweep, folder)],
        # A lane replaces its lost workers; a trial that fails in spite of that would fail again.
        failure_config=tune.FailureConfig(max_failures=0),
        # The runs write checkpoints themselves.
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
    )


def record(sweep: SweepConfig, prepared: Prepared, name: str, concurrent: int) -> dict[str, Any]:
    """Return what a reader needs to judge and repeat the numbers."""
    return {
        formats.KEY: formats.FORMATS["sweep"],
        "kind": "sweep",
        "name": name,
        "config": sweep.model_dump(mode="json"),
        "concurrent": concurrent,
        "fingerprints": prepared.fingerprints,
        "data": prepared.account,
        "teacher": prepared.teacher,
        **({"started_from": starts} if (starts := starts_of(sweep)) else {}),
        "cluster": nodes(),
        "environment": environment(),
    }


def starts_of(sweep: SweepConfig) -> dict[str, str]:
    """Return what stands for the weights that trials start from, by the folder of the student."""
    folders = [each.train.start_from for each in sweep.starting()]
    return {folder: KeptStudent.at(folder).weights_digest for folder in folders if folder is not None}


def finish(sweep: SweepConfig, folder: Storage) -> pd.DataFrame:
    """Keep the best trial's config, metrics and student in `best`, and sum up its rows; return the trials' table."""
    table = records.read_table(folder, "trials")
    said = records.read_json(folder, "record.json")
    records.write_json(folder, {**said, "ledger": ledger(table.to_dict("records"))}, "record.json")
    if not folder.is_local:
        folder.write(study_path(folder).read_bytes(), STUDY_FILE)
    best = best_trial(sweep, table)
    if best is not None:
        # The values as Tune had them, since the table flattens them.
        values = records.read_json(folder, "tune", best.trial, "params.json")
        folder.write(dump_yaml(sweep.trial_experiment(values)).encode(), "best", "experiment.yaml")
        metrics = {str(key): value for key, value in best.to_dict().items() if pd.notna(value)}
        records.write_json(folder, metrics, "best", "metrics.json")
        for name in kept_files(sweep.experiment.task):
            if folder.exists("train", best.trial, name):
                folder.write(folder.read("train", best.trial, name), "best", name)
    return table


def measure_best(
    sweep: SweepConfig, table: pd.DataFrame, board: Any, prepared: tuple[Any, ...], folder: Storage
) -> None:
    """Record how small and how fast the best student is, once the sweep is over.

    - table: its trials
    - prepared: as for `make_tuner`
    """
    best, said = best_trial(sweep, table), records.read_json(folder, "record.json")
    before, over = said.get("speed", {}), len(table) == sweep.num_trials and table.status.isin(ENDED).all()
    if best is None or not over or (before.get("trial") == best.trial and "student" in before):
        return
    if sweep.search.warm_lanes:
        speed = measured_by_a_lane(board, sweep.experiment, prepared, folder.within("best"))
    else:
        speed = {"lacking": "search.warm_lanes is false, so no process of a lane is left to do it"}
    records.write_json(folder, {**said, "speed": {"trial": best.trial, **speed}}, "record.json")


def best_trial(sweep: SweepConfig, table: pd.DataFrame) -> pd.Series | None:
    """Return the row of the finished trial with the best validation metric, controls left out; None without one.

    Of equal ones it is the trial that was chosen first.
    """
    finished = table[(table.status == "finished") & table.control.isna()]
    return best_first(sweep, finished).iloc[0] if len(finished) else None
