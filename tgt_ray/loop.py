"""Floor 3: the training loop, without Ray. Which rows a step sees depends on (seed, step) alone, so a run resumes exactly."""

from __future__ import annotations

import io
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv
import safetensors.torch
import torch
from torch import Tensor, nn

from tgt_ray import gallery
from tgt_ray.augmentation import Augmentation, RealRows
from tgt_ray.core.batch import Batch, Block, InputRows, rows_at_once
from tgt_ray.core.errors import ConfigError
from tgt_ray.experiment import Experiment, TrainConfig
from tgt_ray.gallery import Gallery
from tgt_ray.models.numerics import autocast
from tgt_ray.models.optimise import warmup_cosine
from tgt_ray.models.weights import whole
from tgt_ray.student import Student, build_student
from tgt_ray.tasks import inputs_of
from tgt_ray.teacher.transfer_set import StudentData, to_matrix
from tgt_ray.training.files import DETAILS_FILES, STATE_FILE, TOKENIZER_FILE, WEIGHTS_FILE

log = logging.getLogger(__name__)


class Diverged(RuntimeError):
    """The loss is no longer a finite number."""


class Stopped(Exception):
    """Whoever wanted the run doesn't any more."""


@dataclass(frozen=True)
class Plan:
    """Which rows each step of one worker takes. Counts are a function of the step, so nothing needs remembering."""

    batch_size: int  # of this worker
    ratio: float
    rank: int
    world_size: int
    num_real: int
    seed: int
    #: From which step on, how likely each of the real rows is drawn; None: each once an epoch.
    phases: tuple[tuple[int, np.ndarray | None], ...] = ((0, None),)

    def synthetic_before(self, step: int) -> int:
        """Synthetic rows that this worker has used before `step`: rounding errors never add up beyond one row."""
        # The small number keeps 0.3 * 10 * step from falling below the whole number it stands for.
        return math.floor(step * self.batch_size * self.ratio + 1e-9)

    def synthetic_count(self, step: int) -> int:
        return self.synthetic_before(step + 1) - self.synthetic_before(step)

    def real_indices(self, step: int) -> np.ndarray:
        """Rows of the train split: the workers' parts of an endless sequence of seeded permutations."""
        count = self.batch_size - self.synthetic_count(step)
        first = (step * self.batch_size - self.synthetic_before(step)) * self.world_size + self.rank * count
        positions = np.arange(first, first + count)
        out = np.empty(count, np.int64)
        for epoch in np.unique(positions // self.num_real):
            here = positions // self.num_real == epoch
            out[here] = self._drawn(int(epoch), step)[positions[here] % self.num_real]
        return out

    def _drawn(self, epoch: int, step: int) -> np.ndarray:
        """The rows of an epoch in their order; where the phase has probabilities, as many with replacement."""
        cached = self.__dict__.setdefault("_cache", {})
        phase = max(index for index, (first, _) in enumerate(self.phases) if step >= first)
        if (epoch, phase) not in cached:
            if len(cached) > 2:
                cached.clear()
            rng, p = np.random.default_rng([self.seed, epoch]), self.phases[phase][1]
            cached[epoch, phase] = (
                rng.permutation(self.num_real) if p is None else rng.choice(self.num_real, self.num_real, p=p)
            )
        return cached[epoch, phase]


def row_probabilities(sampling: str, labels_N: np.ndarray) -> np.ndarray | None:
    """How likely each row is drawn so that classes come by n_c^q: q = 1 natural, 1/2 square_root, 0 balanced; None: natural."""
    if sampling == "natural":
        return None
    counts = np.bincount(labels_N)[labels_N].astype(float)
    weights = counts ** (-0.5 if sampling == "square_root" else -1.0)
    return weights / weights.sum()


class SyntheticReader:
    """Serves synthetic rows n at a time from blocks that come in request order, and measures what they cost."""

    def __init__(self, blocks: Iterator[Block], skip_rows: int = 0):
        self.blocks = blocks
        self.skip_rows = skip_rows
        self.rest: Block | None = None
        self.offset = 0
        self.start_wait_s = 0.0  # until the first block: the pool's start
        self.wait_s = 0.0  # after it
        self.lags: Counter[int] = Counter()
        self.num_blocks = 0
        self.gallery = Gallery()

    def take(self, count: int, step: int) -> tuple[Tensor, ...]:
        """(inputs, teacher_logits) of the next `count` rows, used at `step`; and teacher_embedding, document and anchor_inputs, where the
        blocks have them."""
        parts = []
        while count:
            block = self._block(step)
            part = slice(self.offset, self.offset + count)
            more = (name for name in ("teacher_embedding", "document", "anchor_inputs") if name in block)
            names = ("inputs", "teacher_logits", *more)
            parts.append([torch.from_numpy(block[name][part]) for name in names])
            versions = block["version"][part]
            self.lags.update((step - versions[versions >= 0]).tolist())
            count -= len(versions)
            self.offset += len(versions)
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def _block(self, step: int) -> Block:
        if self.rest is None or self.offset >= len(self.rest["request"]):
            started = time.perf_counter()
            self.rest = next(self.blocks)
            waited = time.perf_counter() - started
            if self.num_blocks:
                self.wait_s += waited
            else:
                self.start_wait_s += waited
            self.num_blocks += 1
            self.gallery.look_at(self.rest, step)
            self.offset, self.skip_rows = self.skip_rows, 0
        return self.rest

    def lag(self) -> dict[str, float]:
        """Student steps between a row's snapshot and its use; empty where no explorer looks at the student."""
        if not self.lags:
            return {}
        lags = np.repeat(list(self.lags), list(self.lags.values()))
        return {f"lag_{name}": value for name, value in percentiles(lags).items()}


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


class Hooks(Protocol):
    """What the loop tells the world."""

    def snapshot(self, run: StudentRun) -> None:
        """Every pool.snapshot_every steps, where the explorer looks at the student."""

    def report(self, run: StudentRun, metrics: dict[str, Any]) -> None:
        """At each evaluation; a checkpoint can be taken here."""

    def stream_metrics(self) -> dict[str, float]:
        """What the generators say of themselves."""

    def stopped(self) -> bool:
        """Whether to end before the last step; asked about every pool.snapshot_every steps."""


def train_student(run: StudentRun, reader: SyntheticReader | None, hooks: Hooks, is_main: bool = True) -> None:
    """Train to the last step. Evaluates on validation at each report, and on test once, at the end. Raises Diverged, Stopped."""
    train, pool = run.experiment.train, run.experiment.pool
    run.student.train()
    if run.step == train.steps and run.history:
        # Killed between its last report and its end: who waits for the report may have missed it.
        hooks.report(run, run.history[-1])
    lap = time.perf_counter()
    while run.step < train.steps:
        run.train_step(reader)
        last = run.step == train.steps
        due = last or run.step % train.eval_every == 0
        if due or run.step % pool.snapshot_every == 0:
            run.check(hooks.stopped())
            if run.experiment.explorer.on_policy and not last:
                hooks.snapshot(run)
        if due:
            elapsed = time.perf_counter() - lap
            run.train_s += elapsed
            run.session_s += elapsed
            report = _report(run, reader, hooks, last) if is_main else {}
            run.history.append(report)
            hooks.report(run, report)
            lap = time.perf_counter()


def _report(run: StudentRun, reader: SyntheticReader | None, hooks: Hooks, last: bool) -> dict[str, Any]:
    report: dict[str, Any] = {"step": run.step, **run.train_metrics(), **run.evaluate("validation")}
    report["train_s"] = run.train_s
    if reader is not None:
        busy = max(run.session_s - reader.start_wait_s, 1e-9)
        report |= {
            "wait_share": reader.wait_s / busy,
            "start_wait_s": reader.start_wait_s,
            **reader.lag(),
            **hooks.stream_metrics(),
        }
    if last:
        run.samples = reader.gallery.samples if reader is not None else []
        # The only look at the test split, after the last decision about this student.
        report |= {f"test_{name}": value for name, value in run.evaluate("test").items()}
    return report


def make_optimizer(
    student: Student, train: TrainConfig, steps: int | None = None, learning_rate: float | None = None
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Optimizer of what trains, and linear warm-up followed by cosine decay to zero over `steps`.

    steps, learning_rate: of the second phase, which has no warm-up; None: of the first.
    """
    steps = train.first_phase_steps if steps is None else steps
    rate, decay = learning_rate or train.learning_rate, train.weight_decay
    parameters = [each for each in student.parameters() if each.requires_grad]
    optimizer: torch.optim.Optimizer
    if train.optimizer == "adamw":
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)
    else:
        optimizer = torch.optim.SGD(
            parameters, lr=rate, weight_decay=decay, momentum=train.momentum, nesterov=train.momentum > 0, fused=True
        )
    later = student.frozen_backbone
    factor = warmup_cosine(0 if later else round(train.warmup * steps), steps)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def percentiles(values: np.ndarray) -> dict[str, float]:
    """p50, p99 and max of a non-empty array."""
    return {
        "p50": float(np.percentile(values, 50)),
        "p99": float(np.percentile(values, 99)),
        "max": float(values.max()),
    }
