"""Hold the state of a training run, and make its optimizer steps."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tgt_ray.core.batch import Block, Loss
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.numerics import autocast
from tgt_ray.results.gallery import Sample
from tgt_ray.teacher.transfer_set import StudentData
from tgt_ray.training.batches import Batches, StudentInputs
from tgt_ray.training.evaluation import Evaluation
from tgt_ray.training.first_weights import said
from tgt_ray.training.optimizer import make_optimizer
from tgt_ray.training.plan import plan_of
from tgt_ray.training.reader import SyntheticReader
from tgt_ray.training.student import build_student

log = logging.getLogger(__name__)


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


class Stopped(Exception):
    """The run was cancelled."""


class StudentRun:
    """Hold a student with its optimizer and schedule after `step` steps.

    - rank, world_size: index of this worker, and the number of workers
    - wrap: turns the student into the module that a step calls, for data parallelism
    - samples: synthetic rows for the gallery, after the last step
    - history: the reports so far
    - train_s: seconds of training in all sessions of the run
    - reading: what its checkpoint says of the reader of synthetic rows; None: it has begun here
    """

    def __init__(
        self,
        experiment: Experiment,
        data: StudentData,
        rank: int = 0,
        world_size: int = 1,
        device: str = "cpu",
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    ):
        self.experiment, self.data, self.device = experiment, data, device
        self.student = build_student(experiment, data).to(device)
        if rank == 0 and experiment.task.has_documents and self.student.started_from is not None:
            log.info("%s", said(self.student.started_from))  # elsewhere it is known, and said, before the teacher is
        self.wrap = (lambda module: torch.compile(wrap(module))) if experiment.train.compile else wrap
        self.model: Callable[..., Loss] = self.wrap(self.student)
        self.optimizer, self.schedule = make_optimizer(self.student, experiment.train)
        self.plan = plan_of(experiment, data.tables["train"]["label"].to_numpy(), rank, world_size)
        inputs = StudentInputs(experiment.task, data, self.student.backbone)
        self.batches = Batches(experiment, data, self.plan, inputs)
        self.evaluation = Evaluation(experiment, data, self.student, inputs, device)
        self.samples: list[Sample] = []
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.train_s = 0.0
        self.reading: dict[str, Any] | None = None
        self._parts: dict[str, Tensor] = {}
        self._steps_since_report = 0

    @property
    def position(self) -> tuple[int, int]:
        """Locate this worker in its stream of synthetic rows.

        - returns: the index of its next request, and how many rows of that are used up
        """
        return divmod(self.plan.synthetic_before(self.step), self.experiment.pool.rows_per_request)

    def train_step(self, reader: SyntheticReader | None) -> None:
        """Make one optimizer step on the step's real and synthetic rows."""
        train = self.experiment.train
        if self.step >= train.first_phase_steps and not self.student.frozen_backbone:
            self.begin_second_phase()
        self.student.criterion.advance(self.step / train.steps)
        batch = self.batches.batch(self.step, reader).to(self.device)
        with autocast(self.device, train.precision):
            loss = self.model(batch.inputs, batch.labels, batch.teacher, batch.further)
        self.optimizer.zero_grad()
        loss.value.backward()
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        self._steps_since_report += 1
        for name, part in {"loss": loss.value.detach(), **loss.parts}.items():
            self._parts[name] = self._parts[name] + part if name in self._parts else part

    @torch.no_grad()
    def loss_with(self, block: Block) -> float:
        """Compute the loss of the last step's real rows with synthetic rows of a block, averaged over these."""
        step, reader = self.step - 1, SyntheticReader(itertools.repeat(block))
        times = max(1, len(block) // max(1, self.plan.synthetic_count(step)))
        self.student.eval()
        losses = []
        for _ in range(times):
            batch = self.batches.batch(step, reader).to(self.device)
            with autocast(self.device, self.experiment.train.precision):
                losses.append(float(self.student(batch.inputs, batch.labels, batch.teacher, batch.further).value))
        self.student.train()
        return sum(losses) / times

    def begin_second_phase(self) -> None:
        """Freeze the backbone, and make a new optimizer for what still trains."""
        train = self.experiment.train
        assert train.second_phase is not None
        self.student.train_head_alone(train.second_phase.type, train.seed + 1)
        self.model = self.wrap(self.student)  # data parallelism needs the new set of trained weights
        steps = train.steps - train.first_phase_steps
        self.optimizer, self.schedule = make_optimizer(self.student, train, steps, train.second_phase.learning_rate)

    def check(self, stop: bool) -> None:
        """Check whether the run can go on. All workers must call this at the same step.

        - stop: whether this worker wants to stop
        - raises Diverged: where the loss has become infinite or NaN since the last report
        - raises Stopped: where some worker wants to stop
        """
        flags = torch.stack(
            [torch.isfinite(self._parts["loss"]).float(), torch.tensor(float(not stop), device=self.device)]
        )
        if self.plan.world_size > 1:
            # Workers decide together: one that stopped alone would leave the others waiting for its gradients.
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MIN)
        finite, wanted = flags.tolist()
        if not finite:
            raise Diverged(
                f"the training loss is not finite by step {self.step}; lower train.learning_rate or check the data"
            )
        if not wanted:
            raise Stopped

    def train_metrics(self) -> dict[str, float]:
        """Average the loss and its parts over the steps since the last call."""
        out = {f"train_{name}": float(total) / self._steps_since_report for name, total in self._parts.items()}
        self._parts, self._steps_since_report = {}, 0
        return out
