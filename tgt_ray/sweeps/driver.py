"""Runs a sweep as one Ray Tune experiment, whose light trials queue their runs for lanes that outlive them.

Each command makes a new experiment from the sweep's journal. What Tune stores lies in a temporary folder.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import ray
from ray import tune

from tgt_ray.core import ends, formats, records
from tgt_ray.core.environment import environment
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
from tgt_ray.sweeps.going_on import check_goes_on, check_states, starts_of
from tgt_ray.sweeps.journal import Journal
from tgt_ray.sweeps.leaderboard import Leaderboard
from tgt_ray.sweeps.recorder import CancelRuns, Recorder
from tgt_ray.sweeps.schedulers import make_scheduler
from tgt_ray.sweeps.search import JournalSearch
from tgt_ray.sweeps.study import STUDY_FILE, make_study, study_path
from tgt_ray.sweeps.table import ENDED, best_first, trial_table
from tgt_ray.sweeps.trial import LaneTrial
from tgt_ray.tasks import TaskData
from tgt_ray.teacher.fingerprints import Begun, check_same
from tgt_ray.teacher.transfer_set import Prepared, log_teacher
from tgt_ray.training import fit_check
from tgt_ray.training.files import keep_files

log = logging.getLogger(__name__)

#: How many processes of Tune's a trial may have: as many as are lost are replaced.
PROCESSES_OF_A_TRIAL = 4


def start(sweep: SweepConfig, data: TaskData, storage: Storage, held: Held, journal: Journal) -> pd.DataFrame:
    """Run a sweep on the connected cluster, or go on with it where its journal has begun.

    - storage: that has the teacher, and the sweep's folder in it
    - held: the sweep's folder, which this command owns; its files are those that docs/run-results.md lists
    - journal: of the sweep, which this command begins to write
    - returns: the table of its trials
    - raises ConfigError: where the cluster is too small, or a sweep to resume has changed
    """
    concurrent, how, before = check_concurrency(sweep), sweep.search, journal.record
    if before is not None:
        check_goes_on(sweep, before, data)
    with lanes.open_prepared_lanes(
        board_name(held.folder),
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
    ) as (link, prepared):
        log_teacher(prepared)
        student = prepared.student
        banks = about_banks(sweep, row_bytes(student.input_shape, student.num_classes))
        if banks is not None:
            log.info("%s", banks)
        if before is not None:
            check_same(before, prepared.fingerprints, prepared.teacher)
        begin(sweep, prepared, storage, held, journal, concurrent)
        log.info(
            "to continue it after an interruption: python -m tgt_ray sweep --resume --storage %s --name %s",
            shlex.quote(storage.shown),
            Path(held.folder.base).name,
        )
        reference = (ray.put(prepared),)
        search_trials(sweep, reference, link, held, journal, concurrent)
        table = finish(sweep, held, journal, link.replaced)
        measure_best(sweep, table, link.board, reference, held)
    return table


def begin(
    sweep: SweepConfig, prepared: Prepared, storage: Storage, held: Held, journal: Journal, concurrent: int
) -> None:
    """Note in the sweep's folder that this command works on it, and write what it lacks."""
    folder, settings = held.folder, sweep.model_dump(mode="json")
    extended = journal.settings != settings
    journal.begin_command(held, settings)
    if journal.record is None:
        held.patiently(lambda: fit_check.keep(prepared.teacher, storage, folder))
        journal.keep_record(record(sweep, prepared, Path(folder.base).name, concurrent))
        for line in sweep.moved_to_levels():
            log.info("%s", line)
    assert journal.record is not None
    if extended or not folder.holds("sweep.yaml"):
        held.patiently(lambda: folder.write(dump_yaml(sweep).encode(), "sweep.yaml"))
    if records.find(folder, "sweep", "record.json") is None:
        held.patiently(lambda: records.write_json(folder, journal.record or {}, "record.json"))
    check_states(journal, folder)


def search_trials(
    sweep: SweepConfig,
    prepared: tuple[Any, ...],
    link: lanes.DriverLink,
    held: Held,
    journal: Journal,
    concurrent: int,
) -> None:
    """Train the trials that have not ended.

    - prepared: holds a reference to a Prepared
    - raises what keeping the sweep's files has raised
    """
    folder, left = held.folder, sweep.num_trials - journal.ended
    search = JournalSearch(sweep, journal, make_study(sweep, folder, journal))
    leaderboard, curves = Leaderboard(sweep, held, journal, board_name(folder)), Curves(sweep, folder)
    recorder = Recorder(
        sweep,
        held,
        journal,
        search,
        reported=[curves.reported],
        ended=[leaderboard.ended, curves.ended],
        looked=leaderboard.look,
        closed=[leaderboard.close, curves.close],
    )
    if left <= 0:
        recorder.on_experiment_end([])
    else:
        # Tune's own files, which nothing reads.
        with TemporaryDirectory(prefix="tgt_ray_tune_") as place:
            tuner = make_tuner(sweep, prepared, link, held, search, recorder, min(concurrent, left), left, place)
            try:
                with ends.restored(signal.SIGINT):  # Tune leaves its own handler of Ctrl-C behind
                    tuner.fit()
            except Exception:
                if recorder.error is None:
                    raise
    if recorder.error is not None:
        raise recorder.error


def make_tuner(
    sweep: SweepConfig,
    prepared: tuple[Any, ...],
    link: lanes.DriverLink,
    held: Held,
    search: JournalSearch,
    recorder: Recorder,
    concurrent: int,
    left: int,
    place: str,
) -> tune.Tuner:
    """Make Tune's experiment of the trials that have not ended.

    - prepared: holds a reference to a Prepared
    - left: how many they are
    - place: a folder of this machine for Tune's files
    """
    filter_tune_messages()
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # the journal has what they write
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a trial that fails has no metric
    known = {each.name: each.step for each in recorder.journal.unfinished}
    shared = {"sweep": sweep, "board": link.board, "prepared": prepared, "held": held, "known": known}
    trainable = tune.with_parameters(LaneTrial, **shared)
    return tune.Tuner(
        tune.with_resources(trainable, {"CPU": TRIAL_CPUS}),
        tune_config=tune.TuneConfig(
            metric=sweep.search.metric,
            mode=sweep.search.mode,
            search_alg=search,
            scheduler=make_scheduler(sweep, recorder.journal),
            num_samples=left,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.config["trial"],
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=place,
            verbose=0,
            callbacks=[recorder, CancelRuns(link)],
            # Of its process alone: a lane replaces its lost workers, and a run that fails is no error here.
            failure_config=tune.FailureConfig(max_failures=PROCESSES_OF_A_TRIAL - 1),
            # The runs write checkpoints themselves.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
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


def finish(sweep: SweepConfig, held: Held, journal: Journal, replaced: Mapping[str, int]) -> pd.DataFrame:
    """Keep the best trial's config, metrics and student in `best`, and sum up its rows; return the trials' table.

    - replaced: how often this command has ended which process that gave no sign of life
    """
    table = trial_table(sweep, journal.trials.values())
    assert journal.record is not None
    before = records.find(held.folder, "sweep", "record.json") or {}
    speed = {name: before[name] for name in ("speed",) if name in before}
    counted = dict(Counter(before.get("replaced", {})) + Counter(replaced))
    said = {**journal.record, "config": sweep.model_dump(mode="json"), **speed, "replaced": counted}
    said["ledger"] = ledger(table.to_dict("records"))
    held.patiently(lambda: _write_results(sweep, held.folder, journal, table, said))
    return table


def _write_results(
    sweep: SweepConfig, folder: Storage, journal: Journal, table: pd.DataFrame, said: dict[str, Any]
) -> None:
    records.write_table(folder, table, "trials")
    records.write_json(folder, said, "record.json")
    if not folder.is_local:
        folder.write(study_path(folder).read_bytes(), STUDY_FILE)
    best = best_trial(sweep, table)
    if best is not None:
        values = journal.of(best.trial).values
        folder.write(dump_yaml(sweep.trial_experiment(values)).encode(), "best", "experiment.yaml")
        metrics = {str(key): value for key, value in best.to_dict().items() if pd.notna(value)}
        records.write_json(folder, metrics, "best", "metrics.json")
        keep_files(sweep.experiment.task, folder, ("train", best.trial), ("best",))


def measure_best(sweep: SweepConfig, table: pd.DataFrame, board: Any, prepared: tuple[Any, ...], held: Held) -> None:
    """Record how small and how fast the best student is, once the sweep is over.

    - table: its trials
    - prepared: as for `search_trials`
    """
    folder = held.folder
    best, said = best_trial(sweep, table), records.read_json(folder, "record.json")
    before, over = said.get("speed", {}), len(table) == sweep.num_trials and table.status.isin(ENDED).all()
    if best is None or not over or (before.get("trial") == best.trial and "student" in before):
        return
    if sweep.search.warm_lanes:
        speed = measured_by_a_lane(board, sweep.experiment, prepared, folder.within("best"))
    else:
        speed = {"lacking": "search.warm_lanes is false, so no process of a lane is left to do it"}
    measured = {**said, "speed": {"trial": best.trial, **speed}}
    held.patiently(lambda: records.write_json(folder, measured, "record.json"))


def best_trial(sweep: SweepConfig, table: pd.DataFrame) -> pd.Series | None:
    """Return the row of the finished trial with the best validation metric, controls left out; None without one.

    Of equal ones it is the trial that was chosen first.
    """
    finished = table[(table.status == "finished") & table.control.isna()]
    return best_first(sweep, finished).iloc[0] if len(finished) else None
