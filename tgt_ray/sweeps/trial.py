"""Runs a trial in Tune's process; imports little, since there is such a process for each lane."""

from __future__ import annotations

from typing import Any

from ray import tune

from tgt_ray.core.owner import Held
from tgt_ray.distributed.link import following
from tgt_ray.distributed.messages import Run
from tgt_ray.distributed.pulse import Pulse
from tgt_ray.sweeps.config import SweepConfig

#: Keys of the last result of a trial that fails: why it did, and whether that was since its files couldn't be written.
FAILURE, UNWRITTEN = "failure", "unwritten"


class LaneTrial(tune.Trainable):
    """Does one trial after another in Tune's process, without torch, since a lane does all the work.

    A trial's id is ours, which its config has as `trial`; that of Tune's appears nowhere.
    """

    def setup(
        self,
        config: dict[str, Any],
        sweep: SweepConfig,
        board: Any,
        prepared: tuple[Any, ...],
        held: Held,
        known: dict[str, int],
    ) -> None:
        self.sweep, self.board, self.prepared, self.held, self.known = sweep, board, prepared, held, known
        self.name = config["trial"]
        self.pulse = Pulse(board, lambda: f"the process of trial {self.name}", "", lambda: "waits for a report")
        self._submit(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial that Tune gives to this process."""
        self._submit(new_config)
        return True

    def _submit(self, values: dict[str, Any]) -> None:
        self.name = values["trial"]
        experiment = self.sweep.trial_experiment({key: value for key, value in values.items() if key != "trial"})
        self.seen, self.last_step = -1, experiment.train.steps  # the step of the last report
        folder, called = self.held.folder.within("train", self.name).root, f"trial {self.name}"
        run = Run(
            self.name, experiment, self.prepared, folder, called, since=self.known.get(self.name, 0), held=self.held
        )
        self.link = following(self.board, run)
        self.link.call("submit", run)

    def step(self) -> dict[str, Any]:
        """Wait for the run's next report and return it, or why the run has failed.

        An error isn't raised, since Tune begins a trial again whose process was lost, and one that raises looks alike.
        """
        answer = self.link.call("next_report", self.name, self.seen)
        if answer.metrics is None:
            return {FAILURE: answer.reason or "its run was stopped", UNWRITTEN: answer.unwritten, "done": True}
        self.seen = answer.metrics["step"]
        return {**answer.metrics, "done": answer.metrics["step"] >= self.last_step}
