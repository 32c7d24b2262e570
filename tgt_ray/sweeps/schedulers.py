"""Decides which trials are stopped early."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from tgt_ray.sweeps.config import SweepConfig


class ControlledASHA(ASHAScheduler):
    """Applies ASHA, but lets controls run to their end, since the best trial is compared with them."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "control" in trial.config:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        # A control's final score in a rung would raise the bar there for the trials of the search.
        if "control" not in trial.config:
            super().on_trial_complete(tune_controller, trial, result)


def make_scheduler(sweep: SweepConfig) -> TrialScheduler:
    """Make the sweep's scheduler; one that stops nothing where trials are no longer than asha's grace period."""
    search, steps = sweep.search, int(sweep.largest("train.steps"))
    grace = search.grace_evaluations * int(sweep.largest("train.eval_every"))
    if search.scheduler == "none" or grace >= steps:
        return FIFOScheduler()
    return ControlledASHA(time_attr="step", max_t=steps, grace_period=grace, reduction_factor=search.reduction_factor)
