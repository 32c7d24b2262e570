"""A student somewhere in its training."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import safetensors.torch
import torch
from torch import Tensor, nn

from tgt_ray.core.batch import Batch, InputRows, rows_at_once
from tgt_ray.core.errors import ConfigError
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.models.numerics import autocast
from tgt_ray.models.weights import whole
from tgt_ray.results import gallery
from tgt_ray.tasks import inputs_of
from tgt_ray.teacher.transfer_set import StudentData, to_matrix
from tgt_ray.training.augmentation import Augmentation, RealRows
from tgt_ray.training.files import DETAILS_FILES, STATE_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from tgt_ray.training.optimizer import make_optimizer
from tgt_ray.training.plan import Plan, row_probabilities
from tgt_ray.training.reader import SyntheticReader
from tgt_ray.training.student import build_student


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


class Stopped(Exception):
    """Whoever wanted the run doesn't any more."""


class StudentRun:
    """A student with its optimizer, schedule and data, somewhere in its training."""

    def __init__(
        self,
        experiment: Experiment,
        data: StudentData,
        rank: int = 0,
        world_size: int = 1,
        device: str = "cpu",
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    ):
        self.experiment, self.task, self.data, self.device = experiment, experiment.task, data, device
        train = experiment.train
        self.student = build_student(experiment, data).to(device)
        self.wrap = (lambda module: torch.compile(wrap(module))) if train.compile else wrap
        self.model = self.wrap(self.student)
        self.optimizer, self.schedule = make_optimizer(self.student, train)
        table = data.tables["train"]
        self.inputs = inputs_of(self.task, table, data.input_shape)
        # What a student of texts makes of them before its weights come in: once for each row, and not at each step.
        self.prepare = getattr(self.student.backbone, "prepare", None)
        # Of queries and documents, whose rows may be of other widths.
        self.joined = getattr(self.student.backbone, "joined", lambda *parts: torch.cat(parts))
        self._prepared: dict[str, Tensor] = {}
        if experiment.objective.needs_documents and self.prepare is None:
            raise ConfigError(
                f"objective.document_encoder: student, but student.type '{experiment.student.type}' has no `prepare`, which makes queries and"
                " documents of one size"
            )
        self.labels = torch.from_numpy(table["label"].to_numpy().copy())
        self.teacher_logits = (
            torch.from_numpy(to_matrix(table["logits"]))
            if self.task.answers == "classes"
            else torch.empty(len(table), 0)
        )
        self.teacher_embeddings: np.ndarray | None = None
        if experiment.objective.needs_embedding:
            assert data.embedding_statistics is not None, "prepared for objectives that need no embeddings"
            self.teacher_embeddings = data.embedding_statistics.embedding_ND
        phases = [(0, row_probabilities(train.sampling, self.labels.numpy()))]
        if train.second_phase is not None:
            later = row_probabilities(train.second_phase.sampling, self.labels.numpy())
            phases.append((train.first_phase_steps, later))
        self.plan = Plan(
            train.batch_size // world_size,
            experiment.synthetic_ratio,
            rank,
            world_size,
            len(table),
            train.seed,
            tuple(phases),
        )
        self.augmentation = (
            Augmentation(train.augment, data.num_classes, train.seed, rank) if train.augment is not None else None
        )
        self.details: pa.Table | None = None
        self.samples: list[gallery.Sample] = []
        self.advance = getattr(self.student.criterion, "advance", None)
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.train_s = 0.0  # in all sessions of this run
        self.session_s = 0.0  # in this process
        self._parts: dict[str, Tensor] = {}
        self._steps_since_report = 0

    @property
    def position(self) -> tuple[int, int]:
        """(index of this worker's next request, rows of it that are used up)."""
        return divmod(self.plan.synthetic_before(self.step), self.experiment.pool.rows_per_request)

    def train_step(self, reader: SyntheticReader | None) -> None:
        """One optimizer step on the step's real and synthetic rows."""
        train = self.experiment.train
        if self.step >= train.first_phase_steps and not self.student.frozen_backbone:
            self._begin_second_phase()
        if self.advance is not None:
            self.advance(self.step / train.steps)
        batch = self._batch(reader)
        with autocast(self.device, train.precision):
            loss = self.model(batch.inputs, batch.labels, batch.teacher_logits, *batch.more)
        self.optimizer.zero_grad()
        loss.value.backward()
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        self._steps_since_report += 1
        for name, part in {"loss": loss.value.detach(), **loss.parts}.items():
            self._parts[name] = self._parts[name] + part if name in self._parts else part

    def _begin_second_phase(self) -> None:
        train = self.experiment.train
        assert train.second_phase is not None
        self.student.train_head_alone(train.second_phase.type, train.seed + 1)
        self.model = self.wrap(self.student)  # data parallelism must know which weights still train
        steps = train.steps - train.first_phase_steps
        self.optimizer, self.schedule = make_optimizer(self.student, train, steps, train.second_phase.learning_rate)

    def _batch(self, reader: SyntheticReader | None) -> Batch:
        indices = self.plan.real_indices(self.step)
        rows = torch.from_numpy(indices)
        inputs, labels, logits = self._student_inputs("train")[rows], self.labels[rows], self.teacher_logits[rows]
        if self.augmentation is not None:
            real = self.augmentation(RealRows(inputs, labels, logits), self.step)
            inputs, labels, logits = real.inputs, real.labels, real.teacher_logits
        teacher = [logits]
        if self.teacher_embeddings is not None:
            # Of the row as it is, like its logits.
            teacher.append(torch.from_numpy(self.teacher_embeddings[indices]))
        if self.task.answers == "documents":
            teacher.append(labels)
        synthetic = self.plan.synthetic_count(self.step)
        if synthetic:
            assert reader is not None
            more_inputs, *more = reader.take(synthetic, self.step)
            if self.experiment.objective.needs_anchors:
                more_inputs = torch.cat([more_inputs, more.pop()])
            if self.prepare is not None:
                more_inputs = self.prepare(more_inputs)
            inputs = torch.cat([inputs, more_inputs])
            teacher = [torch.cat(parts) for parts in zip(teacher, more, strict=True)]
        if self.experiment.objective.needs_documents:
            inputs = self.joined(inputs, self._student_inputs("documents")[teacher[-1].unique()])
        inputs, labels, logits, *more = (each.to(self.device) for each in (inputs, labels, *teacher))
        return Batch(inputs, labels, logits, tuple(more))

    def _student_inputs(self, split: str) -> InputRows:
        """The inputs of a split, as the student takes them."""
        if split in self._prepared:
            return self._prepared[split]
        rows = self.inputs if split == "train" else inputs_of(self.task, self.data.tables[split], self.data.input_shape)
        if self.prepare is None:
            return rows
        self._prepared[split] = torch.cat([self.prepare(part) for part in rows.split(1024)])
        return self._prepared[split]

    def check(self, stop: bool) -> None:
        """Raise Diverged where the loss has become infinite or NaN since the last report, Stopped where a worker says `stop`."""
        flags = torch.stack(
            [torch.isfinite(self._parts["loss"]).float(), torch.tensor(float(not stop), device=self.device)]
        )
        if self.plan.world_size > 1:
            # Together: a worker that stopped alone would leave the others waiting for its gradients.
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MIN)
        finite, wanted = flags.tolist()
        if not finite:
            raise Diverged(
                f"the training loss is not finite by step {self.step}; lower train.learning_rate or check the data"
            )
        if not wanted:
            raise Stopped

    def train_metrics(self) -> dict[str, float]:
        """Mean loss and parts since the last call."""
        out = {f"train_{name}": float(total) / self._steps_since_report for name, total in self._parts.items()}
        self._parts, self._steps_since_report = {}, 0
        return out

    def evaluate(self, split: str) -> dict[str, Any]:
        """The task's metrics of the student on a split; those of test also in detail, for the checkpoint."""
        scores, table = self.scores(split), self.data.tables[split]
        if split == "test":
            self.details = self.task.details(scores, self.data.tables, self.data.class_counts, self.data.class_names)
        return self.task.evaluate(scores, table, self.data.class_counts)

    @torch.no_grad()
    def scores(self, split: str) -> np.ndarray:
        """The student's scores of a split's rows, as the task's `evaluate` takes them."""
        self.student.eval()
        if self.experiment.objective.needs_documents:
            self._embed_documents()
        inputs = self._student_inputs(split)
        with autocast(self.device, self.experiment.train.precision):
            parts = [
                self.task.reduce(self.student.scores(part.to(self.device))).cpu()
                for part in inputs.split(rows_at_once(self.data.input_shape, self.student, most=1024))
            ]
        scores = torch.cat(parts)
        self.student.train()
        return scores.numpy()

    def _embed_documents(self) -> None:
        """The student's documents, as it is now."""
        student, parts = self.student, self._student_inputs("documents").split(256)
        with autocast(self.device, self.experiment.train.precision):
            embedded = [student.criterion.embed(student.backbone(part.to(self.device))) for part in parts]  # type: ignore[operator]
        student.criterion.documents = torch.cat(embedded)

    def state(self) -> dict[str, bytes]:
        """The checkpoint's files, in the order to write them: the state is enough to resume. It loads with weights_only=True."""
        buffer = io.BytesIO()
        torch.save(
            {
                "model": self.student.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "rng": torch.get_rng_state(),
                # Dropout on a GPU draws from a generator of its own.
                "cuda_rng": torch.cuda.get_rng_state() if self.device.startswith("cuda") else None,
                "step": self.step,
                "position": self.position,
                "workers": self.plan.world_size,
                "history": self.history,
                "train_s": self.train_s,
                "experiment": self.experiment.fingerprint(),
            },
            buffer,
        )
        return {**self.last_files(), WEIGHTS_FILE: self.weights(), STATE_FILE: buffer.getvalue()}

    def last_files(self) -> dict[str, bytes]:
        """What is to be looked at once the test split has been measured."""
        out: dict[str, bytes] = {}
        if self.step == self.experiment.train.steps and hasattr(self.student.backbone, "tokens"):
            out[TOKENIZER_FILE] = self.student.backbone.tokens.tokenizer.backend_tokenizer.to_str().encode()  # type: ignore[union-attr, operator]
        if self.details is not None:
            sink = io.BytesIO()
            pyarrow.csv.write_csv(self.details, sink)
            out[DETAILS_FILES[self.task.answers]] = sink.getvalue()
        if self.samples:
            anchors, anchor_labels = self.real_rows(np.array([sample.anchor for sample in self.samples]))
            explored = torch.from_numpy(np.stack([sample.explored for sample in self.samples]))
            self.student.eval()
            with torch.no_grad(), autocast(self.device, self.experiment.train.precision):
                parts = [
                    self.student.scores(part.to(self.device)).float().cpu()
                    for part in explored.split(rows_at_once(self.data.input_shape, self.student, most=64))
                ]
            scores = torch.cat(parts).numpy()
            self.student.train()
            table = gallery.rows_table(self.samples, scores, anchor_labels)
            longest = self.experiment.teacher.generator.longest_text
            out |= gallery.files(self.samples, table, anchors, self.data.class_names, longest)
        return out

    def real_rows(self, ids_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (N, ...) and labels (N,) of anchors by their ids; the label is -1 where an anchor has none."""
        places, inputs, labels = [], [], []
        for table in self.data.anchor_tables:
            there = table["id"].to_numpy()
            order = np.argsort(there)
            mine = np.flatnonzero(np.isin(ids_N, there))
            rows = table.take(order[np.searchsorted(there, ids_N[mine], sorter=order)])
            places.append(mine)
            inputs.append(inputs_of(self.task, rows, self.data.input_shape)[torch.arange(len(mine))].numpy())
            labels.append(rows["label"].to_numpy())
        back = np.argsort(np.concatenate(places))
        return np.concatenate(inputs)[back], np.concatenate(labels)[back]

    def weights(self) -> bytes:
        return safetensors.torch.save(whole(self.student.state_dict()))

    def snapshot(self) -> dict[str, np.ndarray]:
        """What generators need of the student. Arrays: Ray ships them as they are, in a fraction of the time of a file."""
        return {name: tensor.numpy(force=True) for name, tensor in self.student.state_dict().items()}

    def load_state(self, content: bytes) -> None:
        """Continue where `state` was taken. ValueError if it belongs to another experiment, ConfigError for another number of
        workers: which rows a worker sees depends on it."""
        state = torch.load(io.BytesIO(content), weights_only=True, map_location=self.device)
        if state["experiment"] != self.experiment.fingerprint():
            raise ValueError(
                f"the checkpoint belongs to experiment {state['experiment']}, this is {self.experiment.fingerprint()}"
            )
        if state["workers"] != self.plan.world_size:
            raise ConfigError(
                f"--resume: the run was begun with {state['workers']} worker(s), here it has {self.plan.world_size};"
                " go on with it as it was begun"
            )
        if state["step"] > self.experiment.train.first_phase_steps:
            self._begin_second_phase()
        self.student.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"].cpu())
        if state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu())
        self.step, self.history, self.train_s = state["step"], state["history"], state["train_s"]
        assert tuple(state["position"]) == self.position, "the request offset follows from the step"
