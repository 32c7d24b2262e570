"""Writes what Tune hears of trials into the sweep's journal, before anything else follows from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ray.tune import Callback

from tgt_ray.core import patience
from tgt_ray.core.errors import NotWritten
from tgt_ray.core.owner import BEAT_S, Held
from tgt_ray.distributed.lanes import DriverLink
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.journal import Journal, Known
from tgt_ray.sweeps.search import JournalSearch
from tgt_ray.sweeps.table import reason_of
from tgt_ray.sweeps.trial import FAILURE, UNWRITTEN
from tgt_ray.sweeps.unstored import Unstored

#: What Tune adds to a report.
TUNES_OWN = {
    "trial_id", "date", "timestamp", "time_this_iter_s", "time_total_s", "pid", "hostname", "node_ip", "done",
    "time_since_restore", "iterations_since_restore", "experiment_tag", "training_iteration", "should_checkpoint",
    "config", "trial",
}  # fmt: skip

Listener = Callable[[Known], None]


class Recorder(Unstored, Callback):
    """Keeps the journal, and tells others what has become known.

    An error of theirs ends the sweep, and not a trial, to which Tune would ascribe it: it is raised at the end of
    Tune's step.

    - held: the sweep's folder
    - search: is told of reports and ends
    - reported, ended: are called after it, each with the trial
    - looked: called often, with Tune's status of trials by id
    - closed: are called when Tune ends
    """

    def __init__(
        self,
        sweep: SweepConfig,
        held: Held,
        journal: Journal,
        search: JournalSearch,
        reported: list[Listener],
        ended: list[Listener],
        looked: Callable[[dict[str, str]], None],
        closed: list[Callable[[], None]],
    ):
        self.sweep, self.held, self.journal = sweep, held, journal
        self._looked = time.monotonic()
        self.reported, self.ended, self.looked = [search.told, *reported], [search.ended, *ended], looked
        self.closed = closed
        self.error: Exception | None = None
        self._before = {each.name: each.seconds or 0.0 for each in journal.unfinished}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if FAILURE not in result:
            self._safely(self._report, trial, result)
        elif not result[UNWRITTEN]:
            self._safely(self._end, trial, "failed", result[FAILURE])
        else:  # it goes on once its files can be written; until then no other trial could do better
            self.error = self.error or NotWritten(result[FAILURE])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # An interruption stops trials as well, but without the mark that they are done: a resume goes on with them.
        result = trial.last_result or {}
        if result.get("done") and FAILURE not in result:
            tested = f"test_{self.sweep.search.metric}" in result
            self._safely(self._end, trial, "finished" if tested else "stopped early", None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # The local file first: the storage has it only after Tune has reported the failure.
        here = Path(trial.error_file) if trial.error_file else None
        said = here.read_text(encoding="utf-8") if here is not None and here.exists() else trial.get_error()
        self._safely(self._end, trial, "failed", reason_of(str(said or "")))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._safely(self._look)
        self._safely(self.looked, {each.config["trial"]: each.status.lower() for each in trials})
        if self.error is not None:
            raise self.error

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        for each in self.closed:  # also after an error: what can be kept is kept
            try:
                with patience.none_left() if isinstance(self.error, NotWritten) else nullcontext():
                    each()
            except Exception as err:
                self.error = self.error or err

    def _look(self) -> None:
        """Find out now and then whether another command has taken over: there may be nothing to write for long."""
        if time.monotonic() - self._looked > BEAT_S:
            self._looked = time.monotonic()
            self.held.check()

    def _safely(self, function: Callable[..., None], *args: Any) -> None:
        """Call a function, and keep its error; after an error nothing is called any more."""
        if self.error is None:
            try:
                function(*args)
            except Exception as err:
                self.error = err

    def _report(self, trial: Any, result: dict[str, Any]) -> None:
        known = self.journal.of(trial.config["trial"])
        metrics = {name: value for name, value in result.items() if name not in TUNES_OWN}
        seconds = self._before.get(known.name, 0.0) + result.get("time_total_s", 0.0)
        if self.journal.report(known, metrics, seconds):
            for each in self.reported:
                each(known)

    def _end(self, trial: Any, status: str, reason: str | None) -> None:
        known = self.journal.of(trial.config["trial"])
        if known.status is None:
            self.journal.end(known, status, reason)
            for each in self.ended:
                each(known)


class CancelRuns(Unstored, Callback):
    """Cancels the runs of trials that Tune stops, which frees their lanes.

    - lanes: of the sweep
    """

    def __init__(self, lanes: DriverLink):
        self.lanes = lanes

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.lanes.cancel(trial.config["trial"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.lanes.cancel(trial.config["trial"])
