"""Define the config types of an experiment's blocks `pool` and `fit_check`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ByteSize, Field, TypeAdapter, ValidationError, model_validator

from tgt_ray.core.batch import Precision
from tgt_ray.core.config import SINCE_0_2, Config

_SIZE = TypeAdapter(ByteSize)
_WRITTEN = "write a number of bytes, or a text such as 20GB or 500MiB"


def number_of_bytes(value: Any) -> Any:
    """Return a size that is written with a unit, such as "20GB", as a number of bytes; other values as they are."""
    if isinstance(value, bool):
        raise ValueError(_WRITTEN)
    try:
        return int(_SIZE.validate_python(value)) if isinstance(value, str) else value
    except ValidationError as err:
        raise ValueError(_WRITTEN) from err


class BankConfig(Config):
    """The bank keeps synthetic rows in the storage, for all runs that would make the same ones."""

    mode: Literal["exact", "reuse", "shared", "none"] = Field(
        "exact",
        description="exact: a run trains on the rows that it would make itself, and makes only those that no run has"
        " made before; reuse: a run takes `rows` rows again and again, each once in an epoch; shared: as exact, and"
        " rows that were explored for one student also serve others at about the same share of their training; none:"
        " rows are not kept; with exact, rows of explorers that look at the student are not kept either",
    )
    rows: Annotated[int, Field(ge=1, strict=True)] | Annotated[float, Field(gt=0, lt=1)] = Field(
        0.25,
        description="with reuse, how many rows the bank has: a number, or below 1 a share of what a run takes; fewer:"
        " less work for the teacher, and a student that sees the same rows more often",
    )
    max_bytes: (
        Annotated[int, Field(ge=2**20), BeforeValidator(number_of_bytes, json_schema_input_type=int | str)] | None
    ) = Field(
        20_000_000_000,
        description="bytes of all banks of the storage together, or a text such as 20GB or 500MiB; beyond that,"
        " banks that were used longest ago are removed, but none that a running trial uses; null: no limit",
        json_schema_extra=SINCE_0_2,
    )


class PoolConfig(Config):
    """The pool of generator actors feeds each student worker with synthetic rows."""

    actors: int = Field(1, ge=1, le=2**20, description="generator actors of each student worker")
    cpus_per_actor: float = Field(
        0.4, gt=0, le=1e6, description="CPUs that Ray reserves for each actor; may be a fraction"
    )
    gpus_per_actor: float = Field(
        0,
        ge=0,
        le=1e6,
        description="GPUs that Ray reserves for each actor; may be a fraction; 0: it computes on the CPU",
    )
    actor_resources: dict[str, float] = Field(
        default_factory=dict,
        description="custom Ray resources that each actor needs, to place the pool on certain nodes",
    )
    precision: Precision = Field(
        "float32", description="number format in which generator and labeler compute, as train.precision"
    )
    rows_per_request: int = Field(
        2048,
        ge=1,
        le=2**20,
        description="synthetic rows of one generator call, which should take tenths of a second: fewer rows for larger"
        " images (less memory, fresher snapshots), more for smaller ones (each call costs some milliseconds)",
    )
    window: int = Field(
        3,
        ge=1,
        le=2**20,
        description="requests granted beyond those used up, at least `actors`; higher: less waiting for rows;"
        " lower: less memory and lag",
    )
    slot_length: int = Field(
        32,
        ge=1,
        le=2**20,
        description="requests of one pool task; higher: fewer tasks; lower: less work is repeated after a crash",
    )
    snapshot_every: int = Field(
        20,
        ge=1,
        description="steps between snapshots of the student, for explorers that look at it; lower: fresher snapshots,"
        " more data sent",
    )

    bank: BankConfig = Field(
        default_factory=BankConfig,
        description="how synthetic rows are kept for other runs",
        json_schema_extra=SINCE_0_2,
    )

    @model_validator(mode="after")
    def _enough(self) -> PoolConfig:
        if self.window < self.actors:
            raise ValueError(f"window {self.window} is below actors {self.actors}, so some actors would never work")
        return self


def threads_of(pool: PoolConfig) -> int:
    """Return the number of threads of a generator's process."""
    return max(1, int(pool.cpus_per_actor))


class FitCheckConfig(Config):
    """The fit check measures on held-out rows, before training, whether the teacher fits its task.

    It counts how often the labeler predicts the same class for the generator's rows as for the rows that they were
    made from, and how often it is right.
    """

    rows: int = Field(
        512,
        ge=1,
        description="validation rows to measure on, at most, and rows that are explored from anchors; more: a more"
        " exact result that takes longer",
    )
    seconds: float = Field(
        300,
        gt=0,
        description="time limit in seconds, after which no further rows are measured; it holds for held-out rows, and"
        " again for rows explored from anchors",
    )
    minimum: float = Field(
        80.0,
        ge=0,
        le=100,
        description="percent of reconstructions on which the labeler must agree with its prediction on the original,"
        " where the largest class holds up to a tenth of the rows; where it holds more, agreement by chance is likelier"
        " and as much is asked for above chance: 88.9 in place of 80 for two equal classes; the default is our choice,"
        " from measurements on Fashion-MNIST-LT",
    )
    minimum_accuracy: float = Field(
        30.0,
        ge=0,
        le=100,
        description="percent of held-out rows that the labeler must get right; in any case it must be better than"
        " naming the largest class always; not asked for where classes are documents; the default is our choice, and"
        " finds labelers that have hardly learnt",
        json_schema_extra=SINCE_0_2,
    )
    minimum_explored: float | None = Field(
        None,
        ge=0,
        le=100,
        description="the same for explored rows, which may well be of another class; absent: half of `minimum` (our"
        " choice), and none of `augment` and `compose`, whose rows are mixed; 0: none is required",
        json_schema_extra=SINCE_0_2,
    )
    on_low: Literal["warn", "fail", "skip"] = Field(
        "warn", description="what happens below a minimum; skip measures nothing; the option `--strict` sets fail"
    )

    @property
    def least_explored(self) -> float:
        """Return the percentage of explored rows on which the labeler must agree with itself."""
        return self.minimum / 2 if self.minimum_explored is None else self.minimum_explored
