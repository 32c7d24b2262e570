"""The block `train` of an experiment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tgt_ray.core.batch import Precision
from tgt_ray.core.config import Config

#: How real rows are drawn.
Sampling = Literal["natural", "square_root", "balanced"]


class AugmentConfig(Config):
    """Of real rows of images. Synthetic rows are as the generator makes them; the teacher's cached outputs are of the image as it is."""

    shift: int = Field(0, ge=0, description="largest random shift in pixels, each way")
    flip: bool = Field(False, description="random horizontal flips")
    randaugment: str | None = Field(
        None,
        pattern=r"^rand(-((m|n|inc|mmax)\d+|(mstd|p)[\d.]+))*$",
        description="timm's RandAugment, e.g. rand-m9-mstd0.5",
    )
    mixup: float = Field(0.0, ge=0, description="MixUp's alpha; 0: none. Also mixes the teacher's probabilities")


class SecondPhase(Config):
    """The last part of a run trains the head alone on a frozen backbone (Kang et al. 2020, arXiv 1910.09217)."""

    type: Literal["crt", "lws"] = Field(description="crt: a new head; lws: a factor for each class of the old one")
    share: float = Field(0.1, gt=0, lt=1, description="of the run's steps")
    learning_rate: float | None = Field(None, gt=0, description="its peak; absent: the first phase's")
    sampling: Sampling = Field("balanced", description="of real rows, as train.sampling")


class TrainConfig(Config):
    """How the student trains."""

    steps: int = Field(500, ge=1, description="optimizer steps")
    batch_size: int = Field(64, ge=1, description="rows of a step over all workers, real and synthetic together")
    synthetic_ratio: float = Field(
        0.5, ge=0, le=1, description="share of synthetic rows; exact over the run, to a row in a batch"
    )
    sampling: Sampling = Field(
        "natural",
        description="how real rows are drawn: each equally often, by the square root of their class's size, or each class equally"
        " often",
    )
    augment: AugmentConfig | None = Field(None, description="of real rows; absent: as they are")
    second_phase: SecondPhase | None = Field(None, description="a last part of the run that trains the head alone")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(1e-2, gt=0, description="peak; cosine decay to 0 after the warm-up")
    weight_decay: float = Field(1e-2, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd (Nesterov)")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps with linearly rising learning rate")
    eval_every: int = Field(
        100,
        ge=1,
        description="steps between evaluations on the validation split; each is a report and a checkpoint",
    )
    workers: int = Field(1, ge=1, description="student workers (data parallel)")
    cpus_per_worker: float = Field(0.5, gt=0)
    gpus_per_worker: float = Field(0, ge=0)
    max_failures: int = Field(3, ge=0, description="lost workers from which a run resumes before it fails")
    channels_last: bool = Field(True, description="memory layout of the student's convolutions")
    batch_norm: Literal["shared", "per_source"] = Field(
        "shared",
        description="per_source: the student's batch norms keep statistics of their own for synthetic rows (our choice)",
    )
    precision: Precision = Field(
        "float32", description="bfloat16: autocast, worth it on GPUs and CPUs that compute in it"
    )
    compile: bool = Field(
        False,
        description="torch.compile the student: half a minute at its first step, so for long runs; needs a C++ compiler",
    )
    seed: int = Field(0, ge=0, description="of student weights, batches, anchors and noise")

    @model_validator(mode="after")
    def _divisible(self) -> TrainConfig:
        if self.batch_size % self.workers:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of workers {self.workers}")
        return self

    @property
    def first_phase_steps(self) -> int:
        return self.steps - (max(1, round(self.second_phase.share * self.steps)) if self.second_phase else 0)
