"""Floor 6: a sweep as one Ray Tune experiment. Its trials are light: they queue their runs for lanes, which outlive them."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import ray
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from tgt_ray import cluster, trainer
from tgt_ray.core import records
from tgt_ray.core.environment import environment
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.fingerprint import digest
from tgt_ray.core.loading import dump_yaml
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.leaderboard import Leaderboard
from tgt_ray.search import SweepConfig
from tgt_ray.tasks import TaskData
from tgt_ray.teacher.transfer_set import Prepared
from tgt_ray.training import fit_check
from tgt_ray.training.files import KEPT_FILES
from tgt_ray.trial import LaneTrial

log = logging.getLogger(__name__)

STUDY_FILE = "optuna_journal.log"


class ControlledSearch(OptunaSearch):
    """Optuna's suggestions, after the controls: trials whose config is {"control": name} and which the study doesn't see."""

    def __init__(self, controls: list[str], **options: Any):
        super().__init__(**options)
        self._controls_left = list(controls)
        self._control_ids: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self._controls_left:
            self._control_ids.add(trial_id)
            return {"control": self._controls_left.pop(0)}
        return super().suggest(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id not in self._control_ids:
            super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id not in self._control_ids:
            super().on_trial_complete(trial_id, result, error)


class ControlledASHA(ASHAScheduler):
    """ASHA that lets controls run to their end: they are there to be compared with, not to win."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "control" in trial.config:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        # A control's final score in a rung would raise the bar there for the trials of the search.
        if "control" not in trial.config:
            super().on_trial_complete(tune_controller, trial, result)


class CancelRuns(tune.Callback):
    """Takes the runs of trials that Tune stops off their lanes."""

    def __init__(self, board: str):
        # By its name: Tune stores its callbacks, and a restored sweep has another board.
        self.board = board

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._cancel(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._cancel(trial)

    def _cancel(self, trial: Any) -> None:
        with suppress(ValueError):  # a board that was lost has no runs any more, and its trials have failed for that
            ray.get_actor(self.board).cancel.remote(trial.trial_id)


def start(sweep: SweepConfig, data: TaskData, storage: Storage, name: str, resume: bool) -> pd.DataFrame:
    """Run a sweep on the connected cluster in `storage`/`name`. Returns its table; files are as README.md lists them."""
    folder = storage.within(name)
    concurrent = check_concurrency(sweep)
    # Killed before its first trial, a sweep has nothing to restore and starts afresh.
    resume = resume and any("/experiment_state-" in file for file in folder.files("tune"))
    if resume and concurrent < (before := records.read_json(folder, "record.json")["concurrent"]):
        raise ConfigError(
            f"--resume: the sweep runs {before} trials at once, this cluster holds {concurrent}; use a larger one"
        )
    how = sweep.search
    with trainer.open_prepared_lanes(
        board_name(folder),
        checked(sweep),
        data,
        typical(sweep),
        concurrent,
        storage,
        how.max_rebuilds,
        how.warm_lanes,
        sweep.objectives(),
    ) as (board, prepared):
        log_teacher(prepared)
        if resume and (before := records.read_json(folder, "record.json")["fingerprints"]) != prepared.fingerprints:
            changed = next(key for key in prepared.fingerprints if before.get(key) != prepared.fingerprints[key])
            raise ConfigError(f"--resume: {changed} is not what the sweep was begun with; begin a new sweep")
        if not resume:
            folder.write(dump_yaml(sweep).encode(), "sweep.yaml")
            fit_check.keep(prepared.teacher, storage, folder)
            records.write_json(folder, record(sweep, prepared, name, concurrent), "record.json")
            study_path(folder).unlink(missing_ok=True)
            list_hyperparameters(sweep, folder)
        log.info(
            "go on after an interruption: python -m tgt_ray.sweep --resume --storage %s --name %s", storage.root, name
        )
        make_tuner(sweep, prepared, board, folder, concurrent, resume).fit()
    return finish(sweep, folder)


def list_hyperparameters(sweep: SweepConfig, folder: Storage) -> None:
    """Tell TensorBoard's HParams tab what the trials differ in. By itself it goes by one trial, which may be a control."""
    if not folder.is_local:
        return
    examples = {key: distribution.ends()[0] for key, distribution in sweep.space.items()}
    known = {
        key: value if isinstance(value, str | bool | int | float) else str(value) for key, value in examples.items()
    }
    about, _, _ = hparams(known, {f"ray/tune/{sweep.search.metric}": 0.0})
    writer = SummaryWriter(folder.within("tune").base, filename_suffix=".sweep")
    writer.file_writer.add_summary(about)
    writer.close()


def board_name(folder: Storage) -> str:
    return f"tgt-ray board of {folder.root}"


def most_demanding(sweep: SweepConfig) -> Experiment:
    """The experiment of the space that holds the most of a cluster, so that what fits for it fits for every trial."""

    def size(experiment: Experiment) -> tuple[float, ...]:
        bundles = cluster.lane_bundles(experiment)
        return tuple(sum(bundle.get(name, 0.0) for bundle in bundles) for name in ("GPU", "CPU"))

    values: dict[str, Any] = {}
    for key in sorted(sweep.space, key=lambda key: not key.endswith(".type")):
        points = [{**values, key: end} for end in sweep.space[key].ends()]
        values = max(points, key=lambda point: size(sweep.trial_experiment(point)))
    return sweep.trial_experiment(values)


def typical(sweep: SweepConfig) -> Experiment:
    """The experiment for whose resources lanes are opened: the first of the search, so that trials of another shape cost a rebuild."""
    first = [sweep.trial_experiment(point) for point in sweep.first_points()[:1]]
    return first[0] if first and first[0].streams else most_demanding(sweep)


def checked(sweep: SweepConfig) -> Experiment:
    """The experiment that the teacher is made ready and checked for: the one as written, or where it makes no rows one that does."""
    return sweep.experiment if sweep.experiment.streams else typical(sweep)


def check_concurrency(sweep: SweepConfig) -> int:
    """How many trials run at once. ConfigError where not even one fits, or fewer than the sweep asks for."""
    demanding = most_demanding(sweep)
    cluster.check_fits(demanding)
    asked = sweep.search.concurrent
    room = cluster.count_lanes(demanding, at_most=sweep.num_trials if asked == "auto" else asked)
    if asked != "auto" and room < asked:
        raise ConfigError(
            f"search.concurrent: {asked} trials at once were asked for, the cluster holds {room};"
            f" {cluster.arithmetic(demanding)}. Lower it or use auto"
        )
    return room


def make_tuner(
    sweep: SweepConfig, prepared: Prepared, board: Any, folder: Storage, concurrent: int, resume: bool
) -> tune.Tuner:
    # The leaderboard gives a failed trial's reason in one line, where Tune would print the traceback of its process.
    logging.getLogger("ray.tune.execution.tune_controller").addFilter(not_of_a_failed_trial)
    trainable = tune.with_resources(
        tune.with_parameters(
            LaneTrial, sweep=sweep, board=board, prepared=(ray.put(prepared),), folder=folder.within("train")
        ),
        {"CPU": cluster.TRIAL_CPUS},
    )
    if resume:
        return tune.Tuner.restore(
            folder.within("tune").root, trainable=trainable, resume_unfinished=True, restart_errored=False
        )
    search = sweep.search
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric=search.metric,
            mode=search.mode,
            search_alg=make_search(sweep, folder),
            scheduler=make_scheduler(sweep),
            num_samples=sweep.num_trials,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=folder.root,
            verbose=0,
            callbacks=[Leaderboard(sweep, folder), CancelRuns(board_name(folder))],
            # Lost workers are replaced by their lane; a trial that fails all the same would fail again.
            failure_config=tune.FailureConfig(max_failures=0),
            # The runs write their own.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


def not_of_a_failed_trial(message: logging.LogRecord) -> bool:
    return not str(message.msg).startswith("Trial task failed")


def make_search(sweep: SweepConfig, folder: Storage) -> ControlledSearch:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = sweep.search
    if search.algorithm == "tpe":
        sampler: Any = optuna.samplers.TPESampler(
            seed=search.seed, n_startup_trials=search.startup_trials, constant_liar=True
        )
    else:
        sampler = optuna.samplers.RandomSampler(seed=search.seed)
    return ControlledSearch(
        search.controls,
        # Given here and not to the Tuner, which would fill the keys that a control leaves out with unresolved distributions.
        space={key: distribution.to_optuna() for key, distribution in sweep.space.items()},
        metric=search.metric,
        mode=search.mode,
        sampler=sampler,
        points_to_evaluate=sweep.first_points(),
        study_name=Path(folder.root).name,
        storage=JournalStorage(JournalFileBackend(str(study_path(folder)))),
    )


def study_path(folder: Storage) -> Path:
    """Optuna's journal needs a real file: in the sweep's folder, or beside this driver where the folder is remote."""
    if folder.is_local:
        return Path(folder.base) / STUDY_FILE
    private = Path.home() / ".cache" / "tgt_ray" / digest(folder.root)
    private.mkdir(parents=True, exist_ok=True)
    return private / STUDY_FILE


def make_scheduler(sweep: SweepConfig) -> TrialScheduler:
    search, steps = sweep.search, int(sweep.largest("train.steps"))
    grace = search.grace_evaluations * int(sweep.largest("train.eval_every"))
    if search.scheduler == "none" or grace >= steps:
        return FIFOScheduler()
    return ControlledASHA(time_attr="step", max_t=steps, grace_period=grace, reduction_factor=search.reduction_factor)


def log_teacher(prepared: Prepared) -> None:
    for role in ("labeler", "generator"):
        about = prepared.teacher[role]
        source = about.get("weights") or f"pretrained on the '{about.get('pretrained_on')}' split"
        how = "reused" if about["reused"] else f"made in {about['seconds']:.1f} s" if "seconds" in about else "loaded"
        log.info("%s %s: %s, %s", role, about["fingerprint"], source, how)


def record(sweep: SweepConfig, prepared: Prepared, name: str, concurrent: int) -> dict[str, Any]:
    """What a reader needs to judge and repeat the numbers."""
    return {
        "kind": "sweep",
        "name": name,
        "config": sweep.model_dump(mode="json"),
        "concurrent": concurrent,
        "fingerprints": prepared.fingerprints,
        "teacher": prepared.teacher,
        "cluster": cluster.nodes(),
        "environment": environment(),
    }


def finish(sweep: SweepConfig, folder: Storage) -> pd.DataFrame:
    """Keep the best trial's config, metrics and student; give the table that the leaderboard has written."""
    table = records.read_table(folder, "trials")
    if not folder.is_local:
        folder.write(study_path(folder).read_bytes(), STUDY_FILE)
    best = best_trial(sweep, table)
    if best is not None:
        values = records.read_json(folder, "tune", best.trial, "params.json")  # as Tune had them: a table flattens them
        folder.write(dump_yaml(sweep.trial_experiment(values)).encode(), "best", "experiment.yaml")
        metrics = {str(key): value for key, value in best.to_dict().items() if pd.notna(value)}
        records.write_json(folder, metrics, "best", "metrics.json")
        for name in KEPT_FILES:
            if folder.exists("train", best.trial, name):
                folder.write(folder.read("train", best.trial, name), "best", name)
    return table


def best_trial(sweep: SweepConfig, table: pd.DataFrame) -> pd.Series | None:
    """The finished trial of the search, not a control, with the best validation metric."""
    finished = table[(table.status == "finished") & table.control.isna()]
    if not len(finished):
        return None
    return finished.sort_values(sweep.search.metric, ascending=sweep.search.mode == "min", kind="stable").iloc[0]
