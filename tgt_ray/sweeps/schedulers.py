"""Decides which trials are stopped early."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.journal import Journal
from tgt_ray.sweeps.unstored import Unstored


class ControlledASHA(Unstored, ASHAScheduler):
    """Applies ASHA, but lets controls run to their end, since the best trial is compared with them.

    It knows trials by our ids, and begins with what the journal has of them: a trial that goes on is compared with all
    those before it.

    - journal: of the sweep
    """

    def __init__(self, journal: Journal, **options: Any):
        super().__init__(**options)
        self.journal = journal

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        done: bool = super().set_search_properties(metric, mode, **spec)
        self.replay()
        return done

    def replay(self) -> None:
        """Take the reports of the journal, in their order.

        The last one of a trial that goes on is left out: its lane says it again, and it may have to stop there.
        """
        again = {each.number: each.result for each in self.journal.unfinished}
        for number, metrics in self.journal.in_order:
            known = self.journal.trials[number]
            if known.control is not None or again.get(number) is metrics:
                continue
            trial = SimpleNamespace(trial_id=known.name)
            if known.name not in self._trial_info:
                super().on_trial_add(None, trial)
            score = metrics.get(self._metric)
            said = {**metrics, self._metric: math.nan if score is None else score}  # JSON has no such number
            super().on_trial_result(None, trial, said)
            if metrics is known.result and known.status in ("finished", "stopped early"):
                super().on_trial_complete(None, trial, said)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _ours(trial))

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_remove(tune_controller, _ours(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "control" in trial.config:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, _ours(trial), result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        # A control's final score in a rung would raise the bar there for the trials of the search.
        if "control" not in trial.config:
            super().on_trial_complete(tune_controller, _ours(trial), result)


def _ours(trial: Any) -> Any:
    """Return what ASHA needs of a trial of Tune's, with our id."""
    return SimpleNamespace(trial_id=trial.config["trial"])


def make_scheduler(sweep: SweepConfig, journal: Journal) -> TrialScheduler:
    """Make the sweep's scheduler; one that stops nothing where trials are no longer than asha's grace period."""
    search, steps = sweep.search, int(sweep.largest("train.steps"))
    grace = search.grace_evaluations * int(sweep.largest("train.eval_every"))
    if search.scheduler == "none" or grace >= steps:
        return FIFOScheduler()
    how = {"time_attr": "step", "max_t": steps, "grace_period": grace, "reduction_factor": search.reduction_factor}
    return ControlledASHA(journal, **how)
