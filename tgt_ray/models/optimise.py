"""Trains models here: the loop, the schedule of learning rates, and states from which a stopped training goes on."""

from __future__ import annotations

import io
import logging
import math
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tgt_ray.core import formats
from tgt_ray.core.patience import patiently
from tgt_ray.core.progress import progress
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import Damaged

if TYPE_CHECKING:
    from tgt_ray.teacher.pretraining.config import Pretrain

log = logging.getLogger(__name__)

#: Seconds between two states of a training. What takes less time has none.
STATE_EVERY_S = 60.0
#: Writing states takes at most this share of the time, in which the interval grows with large models.
WRITING = 0.05


def optimise(
    model: nn.Module, optimizer: torch.optim.Optimizer, num_rows: int, how: Pretrain, rng: torch.Generator
) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of each step, from 0, and its row indices; the caller computes gradients.

    Then the optimizer steps. Inside of `training`, one that was stopped goes on after the last state that it has left.

    - rng: the generator of all random numbers of the caller, but for torch's own
    """
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(round(0.2 * how.steps), how.steps))
    here = _training.get()
    parts = _Parts(model, optimizer, schedule, rng)
    first = here.begin(parts) if here is not None else 0
    model.train()
    with progress(here.what if here is not None else "training", how.steps, "steps", done=first) as phase:
        for step in range(first, how.steps):
            optimizer.zero_grad()
            yield step, torch.randint(num_rows, (min(how.batch_size, num_rows),), generator=rng)
            optimizer.step()
            schedule.step()
            phase.advance()
            if here is not None:
                here.stepped(parts, step + 1)
    model.eval()


def warmup_cosine(warmup: int, steps: int) -> Callable[[int], float]:
    """Return the learning rate's factor by step: linear rise over `warmup` steps, then cosine decay to zero."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads inside, however many the machine has, since sums depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Parts:
    """Holds what the next step of a training depends on."""

    def __init__(self, model: nn.Module, optimizer: Any, schedule: Any, rng: torch.Generator):
        self.model, self.optimizer, self.schedule, self.rng = model, optimizer, schedule, rng

    def state(self) -> dict[str, Any]:
        # Dropout draws from torch's own generators.
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        rngs = {"rng": self.rng.get_state(), "torch_rng": torch.get_rng_state(), "cuda_rng": cuda}
        named = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
        return {**{name: part.state_dict() for name, part in named.items()}, **rngs}

    def lacks(self, state: dict[str, Any]) -> bool:
        """Whether a state lacks an entry, or is of another model, as where the code of a class was changed."""
        if not {"step", "seconds", *self.state()} <= state.keys() or not isinstance(state["model"], dict):
            return True
        both = self.model.state_dict(), state["model"]
        mine, theirs = ({k: getattr(v, "shape", None) for k, v in each.items()} for each in both)
        return bool(mine != theirs)

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.rng.set_state(state["rng"])
        torch.set_rng_state(state["torch_rng"])
        if len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda_rng"])


class Training:
    """Keeps states of the first loop of a training in the storage; see `training`."""

    def __init__(self, what: str, storage: Storage, file: str):
        self.what, self.storage, self.file = what, storage, file
        self.began = self.kept = time.monotonic()
        self.before_s = 0.0
        self.every_s = STATE_EVERY_S
        self.loops = 0

    @property
    def seconds(self) -> float:
        """How long it has taken, also before it was stopped."""
        return self.before_s + time.monotonic() - self.began

    def begin(self, parts: _Parts) -> int:
        """Begin a loop; return the number of its first step."""
        self.loops += 1
        state = self._read() if self.loops == 1 else None
        if state is None:
            return 0
        if not isinstance(state, dict) or not formats.readable("pretraining", state) or parts.lacks(state):
            log.warning("%s: is of another version or model; %s begins anew", self._where, self.what)
            return 0
        parts.restore(state)
        self.before_s = state["seconds"]
        log.info("%s: goes on after step %d of before", self.what, state["step"])
        return int(state["step"])

    def stepped(self, parts: _Parts, step: int) -> None:
        """Keep the state after so many steps where it is time to."""
        started = time.monotonic()
        if self.loops > 1 or started - self.kept < self.every_s:
            return
        buffer = io.BytesIO()
        state = {"step": step, "seconds": self.seconds, **parts.state()}
        torch.save(formats.stamped("pretraining", state), buffer)
        made_s = time.monotonic() - started

        def write() -> float:
            began = time.monotonic()
            self.storage.write(buffer.getvalue(), self.file)
            return time.monotonic() - began

        self.every_s = max(STATE_EVERY_S, (made_s + patiently(write)) / WRITING)
        self.kept = time.monotonic()

    def end(self) -> None:
        """Remove the state, since the training is over."""

        def remove() -> None:
            # There is none after a short training, or where another process that trained the same has removed it.
            with self.storage.writing(self.file), suppress(FileNotFoundError):
                self.storage.fs.delete_file(self.storage.path(self.file))

        patiently(remove)

    @property
    def _where(self) -> str:
        return self.storage.where(self.file)

    def _read(self) -> Any:
        """Read what should be the state; None where there is none, or, with a line in the log, where it is damaged."""
        try:
            content = self.storage.read(self.file)
            return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        except FileNotFoundError:
            return None
        except Damaged as err:
            log.warning("%s; %s begins anew", err.fact, self.what)
            return None
        except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as err:
            log.warning("%s: can't be read (%s); %s begins anew", self._where, " ".join(str(err).split()), self.what)
            return None


_training: ContextVar[Training | None] = ContextVar("training", default=None)


@contextmanager
def training(what: str, storage: Storage, file: str) -> Iterator[Training]:
    """Let what `optimise` trains inside go on after a stop, from a state that is kept now and then.

    A training may have several loops; only the first one has states.

    - what: the training, as in "pretraining the labeler"
    - file: of the state in the storage; it is removed at the end
    """
    here = Training(what, storage, file)
    token = _training.set(here)
    try:
        yield here
    finally:
        _training.reset(token)
    here.end()
