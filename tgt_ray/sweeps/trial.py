"""Runs a trial in Tune's process; imports little, since there is such a process for each lane."""

from __future__ import annotations

from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError

from tgt_ray.core.owner import Held
from tgt_ray.distributed.messages import Run
from tgt_ray.sweeps.config import SweepConfig


class TrialFailed(RuntimeError):
    """A trial ended without a result; the message is the reason that the table shows."""


class LaneTrial(tune.Trainable):
    """Does one trial after another in Tune's process, without torch, since a lane does all the work."""

    def setup(
        self, config: dict[str, Any], sweep: SweepConfig, board: Any, prepared: tuple[Any, ...], held: Held
    ) -> None:
        self.sweep, self.board, self.prepared, self.held = sweep, board, prepared, held
        self._submit(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial that Tune gives to this process."""
        self._submit(new_config)
        return True

    def _submit(self, values: dict[str, Any]) -> None:
        experiment = self.sweep.trial_experiment(values)
        self.seen, self.last_step = 0, experiment.train.steps
        folder, called = self.held.folder.within("train", self.trial_id).root, f"trial {self.trial_id}"
        run = Run(self.trial_id, experiment, self.prepared, folder, called, held=self.held)
        self._call("submit", run)

    def step(self) -> dict[str, Any]:
        """Wait for the run's next report and return it."""
        answer = self._call("next_report", self.trial_id, self.seen)
        if answer.metrics is None:
            raise TrialFailed(answer.reason or "its run was stopped")
        self.seen += 1
        return {**answer.metrics, "done": answer.metrics["step"] >= self.last_step}

    def _call(self, method: str, *args: Any) -> Any:
        try:
            return ray.get(getattr(self.board, method).remote(*args))
        except RayActorError as err:
            raise TrialFailed("the actor between trials and lanes was lost") from err
