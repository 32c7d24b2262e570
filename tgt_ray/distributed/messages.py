"""What trials, boards, lanes, coordinators and generators hand to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tgt_ray.experiment.experiment import Experiment

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One experiment to be trained. `prepared` holds a reference to a Prepared; `folder`: of its checkpoint."""

    id: str
    experiment: Experiment
    prepared: tuple[Any, ...]
    folder: str


@dataclass(frozen=True)
class Answer:
    """To a trial: the next report of its run, or, where there is none any more, how the run ended."""

    metrics: Metrics | None = None
    reason: str | None = None  # why it failed
    history: list[Metrics] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """What the generators of one student worker are to do. Requests of worker `rank` are rank, rank + world_size, ..."""

    number: int  # counts the jobs of a stream
    experiment: Experiment
    prepared: tuple[Any, ...]  # holds a reference to a Prepared: one that stands alone would be fetched on the way
    rank: int
    world_size: int
    first: int  # index of the first request, after a resume
    count: int  # indices below this are wanted

    def request(self, index: int) -> int:
        return index * self.world_size + self.rank


@dataclass(frozen=True)
class Grant:
    """Leave to make one request, or the answer that there is nothing to make in its place.

    request: None where a retried task asks for what is used up or was an earlier job's, or where the stream has ended.
    job: of the request, where the generator doesn't have it. snapshot: holds a reference to the student's state, where a newer
    one is at hand.
    """

    number: int
    request: int | None = None
    job: Job | None = None
    version: int = -1
    snapshot: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Spent:
    """What a generator spent on its last request, of job `number`, and in all since the one before."""

    number: int = -1
    busy_s: float = 0.0
    total_s: float = 0.0
