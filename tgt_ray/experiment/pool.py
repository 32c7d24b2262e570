"""The blocks `pool` and `fit_check` of an experiment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tgt_ray.core.batch import Precision
from tgt_ray.core.config import Config


class PoolConfig(Config):
    """The actor pool of generators that feeds one student worker."""

    actors: int = Field(1, ge=1, description="generators of each student worker")
    cpus_per_actor: float = Field(0.4, gt=0)
    gpus_per_actor: float = Field(0, ge=0)
    actor_resources: dict[str, float] = Field(
        default_factory=dict,
        description="custom resources an actor needs, to place the pool on certain nodes",
    )
    precision: Precision = Field("float32", description="of generator and labeler; as train.precision")
    rows_per_request: int = Field(
        2048,
        ge=1,
        description="synthetic rows of one generator call; a call should take tenths of a second: fewer rows for larger images"
        " (less memory, fresher snapshots), more for smaller ones (each call costs some milliseconds)",
    )
    window: int = Field(3, ge=1, description="requests granted beyond those consumed: bounds memory and lag")
    slot_length: int = Field(
        32, ge=1, description="requests of one pool task: bounds the work done twice after a crash"
    )
    snapshot_every: int = Field(
        20, ge=1, description="steps between snapshots of the student for explorers that look at it"
    )

    @model_validator(mode="after")
    def _enough(self) -> PoolConfig:
        if self.window < self.actors:
            raise ValueError(f"window {self.window} is below actors {self.actors}, so some actors would never work")
        return self


class FitCheckConfig(Config):
    """Measured on held-out rows before anything trains: whether the labeler takes the generator's rows for what they were made from."""

    rows: int = Field(512, ge=1, description="validation rows to measure on")
    seconds: float = Field(300, gt=0, description="after so long no more rows are taken, where the generator is slow")
    minimum: float = Field(
        80.0,
        ge=0,
        le=100,
        description="percent of reconstructions on which the labeler must agree with itself (our choice, from what was measured on"
        " Fashion-MNIST-LT)",
    )
    on_low: Literal["warn", "fail", "skip"] = Field(
        "warn", description="what happens below the minimum; `--strict` means fail; skip: nothing is measured"
    )
