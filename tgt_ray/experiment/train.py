"""Define the config types of an experiment's block `train`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tgt_ray.core.batch import Precision
from tgt_ray.core.config import SINCE_0_2, Config, Seed
from tgt_ray.core.kept import StudentFolder
from tgt_ray.teacher.versions import Changes

#: Ways to draw real rows.
Sampling = Literal["natural", "square_root", "balanced"]


class AugmentConfig(Config):
    """Augmentation changes the images of real rows at random.

    Synthetic rows are not augmented. The teacher's outputs are cached, so they are those of the original image, unless
    `consistent` is set; MixUp also mixes the teacher's probabilities (our choice).
    """

    shift: int = Field(0, ge=0, le=1024, description="largest random shift in each direction, in pixels; 0: none")
    flip: bool = Field(False, description="flip each image horizontally with probability 1/2")
    randaugment: str | None = Field(
        None,
        pattern=r"^rand(-((m|n|inc|mmax)\d+|(mstd|p)[\d.]+))*$",
        description="timm's RandAugment by its config string, such as rand-m9-mstd0.5; absent: none",
    )
    mixup: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="alpha of MixUp (Zhang et al. 2018, arXiv 1710.09412); higher mixes more evenly; 0: none",
    )
    consistent: bool = Field(
        False,
        description="the teacher labels real rows as the student sees them, shifted, flipped and changed by RandAugment"
        " (Beyer et al. 2022, arXiv 2106.05237); labels of the data stay. For each row it is asked about `versions`"
        " ways to change it, once for all runs",
        json_schema_extra=SINCE_0_2,
    )
    versions: int = Field(
        16,
        ge=1,
        le=1024,
        description="with `consistent`: how many ways of changing each row there are, the same ones in all runs; each"
        " epoch takes the next; more: rows repeat less, and the teacher is asked about more rows (our choice)",
        json_schema_extra=SINCE_0_2,
    )

    @model_validator(mode="after")
    def _labelled_as_seen(self) -> AugmentConfig:
        if self.consistent and self.mixup:
            raise ValueError(
                f"mixup: {self.mixup:g}, but with consistent: true the teacher labels each row by itself; use 0, or"
                " explorer.type augment, which mixes"
            )
        if not self.consistent and self.versions != type(self).model_fields["versions"].default:
            raise ValueError(f"versions: {self.versions} has no effect without consistent: true; leave it out")
        return self


class SecondPhase(Config):
    """The second phase trains the head alone on a frozen backbone (Kang et al. 2020, arXiv 1910.09217)."""

    type: Literal["crt", "lws"] = Field(
        description="crt trains a new head; lws trains one factor for each class of the old head"
    )
    share: float = Field(0.1, gt=0, lt=1, description="share of the run's steps, at the end, that this phase takes")
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1e30,
        description="peak learning rate of this phase, without warm-up; absent: as in the first phase",
    )
    sampling: Sampling = Field("balanced", description="how real rows are drawn in this phase, as train.sampling")


class TrainConfig(Config):
    """These settings control how the student is trained."""

    steps: int = Field(500, ge=1, le=10**9, description="number of optimizer steps")
    batch_size: int = Field(
        64,
        ge=1,
        le=2**20,
        description="rows of a step over all workers, real and synthetic together; a multiple of workers",
    )
    synthetic_ratio: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of synthetic rows, kept exactly over the run and to within one row in each batch",
    )
    sampling: Sampling = Field(
        "natural",
        description="how real rows are drawn: natural draws each row equally often, square_root draws classes in"
        " proportion to the square root of their size, balanced draws each class equally often",
    )
    augment: AugmentConfig | None = Field(
        None, description="augmentation of real rows, for images only; absent: rows stay as they are"
    )
    second_phase: SecondPhase | None = Field(
        None, description="a last part of the run that trains the head alone; absent: none"
    )
    start_from: StudentFolder | None = Field(
        None,
        description="folder (or URI) of a run, a trial, a sweep or an export, which all nodes see: training begins with"
        " the weights of its student, which has the settings of `student`; the head starts anew where classes differ;"
        " absent: the student's own first weights. `--from` sets it",
        json_schema_extra=SINCE_0_2,
    )
    optimizer: Literal["adamw", "sgd"] = Field(
        "adamw", description="adamw, or sgd: stochastic gradient descent with Nesterov momentum"
    )
    learning_rate: float = Field(
        1e-2, gt=0, le=1e30, description="peak learning rate; rises linearly to it, then decays to 0 along a cosine"
    )
    weight_decay: float = Field(
        1e-2, ge=0, le=1e6, description="weight decay of the optimizer; higher regularises more; 0: none"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum of sgd; adamw ignores it; 0: no momentum")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps during which the learning rate rises")
    eval_every: int = Field(
        100,
        ge=1,
        description="steps between evaluations on the validation split; each makes a report and a checkpoint",
    )
    workers: int = Field(1, ge=1, le=2**20, description="student workers that train together (data parallel)")
    cpus_per_worker: float = Field(
        0.5, gt=0, le=1e6, description="CPUs that Ray reserves for each worker; may be a fraction"
    )
    gpus_per_worker: float = Field(
        0,
        ge=0,
        le=1e6,
        description="GPUs that Ray reserves for each worker; may be a fraction; 0: it computes on the CPU",
    )
    max_failures: int = Field(
        3, ge=0, description="how often a run resumes from its last checkpoint after losing workers before it fails"
    )
    watchdog: float = Field(
        60,
        ge=10,
        le=86400,
        description="seconds without a sign of life after which a process of a run on Ray is taken to hang: it is ended"
        " and replaced, and the run goes on; one that works on something long gives signs all the same",
        json_schema_extra=SINCE_0_2,
    )
    channels_last: bool = Field(
        True, description="store the student's convolutions in channels-last memory format, which is often faster"
    )
    batch_norm: Literal["shared", "per_source"] = Field(
        "shared",
        description="statistics of the student's batch norms: shared by real and synthetic rows, or per_source, kept"
        " apart for each (our choice)",
    )
    precision: Precision = Field(
        "float32",
        description="number format in which the student computes; bfloat16 uses autocast and pays on hardware that"
        " supports it",
    )
    compile: bool = Field(
        False,
        description="compile the student with torch.compile: costs about half a minute at the first step, so it pays in"
        " long runs; needs a C++ compiler",
    )
    seed: Seed = Field(0, description="random seed of the student's weights, batches, anchors and noise")

    @model_validator(mode="after")
    def _divisible(self) -> TrainConfig:
        if self.batch_size % self.workers:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of workers {self.workers}")
        return self

    @property
    def relabelled(self) -> Changes | None:
        """How real rows are changed that the teacher labels as the student sees them; None where it doesn't."""
        how = self.augment
        if how is None or not how.consistent or not (how.shift or how.flip or how.randaugment):
            return None
        return Changes(how.shift, how.flip, how.randaugment, how.versions)

    @property
    def first_phase_steps(self) -> int:
        """Count the steps before the second phase, or all steps where there is none."""
        return self.steps - (max(1, round(self.second_phase.share * self.steps)) if self.second_phase else 0)
