"""Defines the messages between trials, boards, lanes, coordinators and generators."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tgt_ray.core.owner import Held
from tgt_ray.distributed.claims import Owner
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.bank.numbering import Numbering

Metrics = dict[str, Any]


class Forgotten(RuntimeError):
    """The board doesn't know a run or a lane: it was lost, is back, and has not been told of it yet."""


@dataclass(frozen=True)
class Opened:
    """What a lane is at the moment, which its worker and the driver tell a board that is back.

    - plan: the experiment for whose resources it was placed
    - placement: the id of its workers' placement group; None where it isn't known
    """

    name: str
    plan: Experiment
    placement: str | None = None


@dataclass(frozen=True)
class Run:
    """Describes one experiment to train.

    - prepared: holds a reference to a Prepared
    - folder: of the run's checkpoint
    - called: what lines of its workers begin with; empty where there is one run alone
    - measures: whether the student in the folder is to be measured, and nothing is to be trained
    - since: the step up to which its reports are known, where it goes on: later ones are sent again, and in any case
      the last one; None: the last one alone
    - held: what the command owns that trains it, which is checked before each checkpoint; None: nothing is checked
    """

    id: str
    experiment: Experiment
    prepared: tuple[Any, ...]
    folder: str
    called: str = ""
    measures: bool = False
    since: int | None = None
    held: Held | None = None

    def to_send_again(self, history: list[Metrics]) -> list[Metrics]:
        """Return the reports that a lane sends before the run goes on, of those that were made."""
        unknown = history if self.since is None else [each for each in history if each["step"] > self.since]
        return history[-1:] if self.since is None or not unknown else unknown


@dataclass(frozen=True)
class Answer:
    """Answers a trial with the next report of its run or, after the last one, with how the run ended.

    - metrics: the report; None where the run is over
    - reason: why the run failed; None where it didn't
    - history: all reports of a run that is over
    - unwritten: whether it failed since its files couldn't be written, so that it can go on once they can
    """

    metrics: Metrics | None = None
    reason: str | None = None
    history: list[Metrics] = field(default_factory=list)
    unwritten: bool = False


@dataclass(frozen=True)
class BankPlace:
    """Says where a job's rows are kept.

    - key: of the bank
    - made_on: what the key takes for granted of the machine that makes the rows, see `tgt_ray.teacher.bank.key.machine`
    - run: the id of the job's run, which claims requests, and stands with rows that are explored for its student
    """

    key: str
    made_on: dict[str, Any]
    run: str = ""


@dataclass(frozen=True)
class Job:
    """Tells the generators of one student worker what to make: its part of a run's requests.

    - number: counts the jobs of a stream
    - prepared: holds a reference to a Prepared, in a tuple because Ray would resolve a reference that stands alone
    - rank, world_size: of the worker; its requests are rank, rank + world_size, ...
    - first: index of the first request; above 0 after a resume, and where generators start once a row is missing
    - count: indices below this one are made
    - bank: where their rows are kept; None: nowhere
    """

    number: int
    experiment: Experiment
    prepared: tuple[Any, ...]
    rank: int
    world_size: int
    first: int
    count: int
    bank: BankPlace | None = None

    @property
    def numbering(self) -> Numbering:
        """The numbers of this worker's requests."""
        shared = self.bank is not None and self.experiment.explorer.on_policy
        return Numbering(self.rank, self.world_size, self.count * self.world_size if shared else None)

    @property
    def owner(self) -> Owner:
        """Who claims requests of the bank for this worker."""
        return (self.bank.run if self.bank is not None else "", self.rank)

    def request(self, index: int) -> int:
        """Return the number of a request in the whole run, and its bank, from its index among those of this worker."""
        return self.numbering.number(index)


@dataclass(frozen=True)
class Grant:
    """Lets a generator make one request, or tells it that there is nothing to make.

    - number: of the request's job; -1 where the stream has ended
    - request: None where a retried task asks for a consumed request or one of an earlier job, or the stream has ended
    - job: the request's job, where the generator doesn't have it yet
    - version: training steps behind the newest snapshot; -1 where the explorer doesn't use the student
    - snapshot: holds a reference to the student's state, where there is a newer one than the generator has; else empty
    """

    number: int
    request: int | None = None
    job: Job | None = None
    version: int = -1
    snapshot: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Spent:
    """Reports a generator's time.

    - number: the job of its last request; -1 before the first
    - busy_s: seconds that it worked on that request
    - total_s: seconds since the end of the job's request before, waits included
    """

    number: int = -1
    busy_s: float = 0.0
    total_s: float = 0.0
