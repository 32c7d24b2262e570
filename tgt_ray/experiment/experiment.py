"""The Experiment: all that one training run depends on. No torch, no ray."""

from __future__ import annotations

from pydantic import Field, model_validator

from tgt_ray.core.config import Config
from tgt_ray.core.loading import summary
from tgt_ray.data import LongTail
from tgt_ray.experiment import checks
from tgt_ray.experiment.pool import FitCheckConfig, PoolConfig
from tgt_ray.experiment.train import TrainConfig
from tgt_ray.models.students import AnyStudent, ConvStudent
from tgt_ray.objectives import AnyObjective, Distillation
from tgt_ray.tasks import AnyTask, ImageClassification
from tgt_ray.teacher.config import TeacherConfig
from tgt_ray.teacher.explorers import AnyExplorer, Gradient


class Experiment(Config):
    """One training run. The defaults are the vetted run on long-tailed digits."""

    task: AnyTask = Field(
        default_factory=lambda: ImageClassification(long_tail=LongTail(head=80, imbalance=20, seed=0))
    )
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)
    student: AnyStudent = Field(default_factory=ConvStudent)
    explorer: AnyExplorer = Field(default_factory=Gradient)
    objective: AnyObjective = Field(default_factory=Distillation)
    train: TrainConfig = Field(default_factory=TrainConfig)
    pool: PoolConfig = Field(default_factory=PoolConfig)
    fit_check: FitCheckConfig = Field(default_factory=FitCheckConfig)

    @model_validator(mode="after")
    def _fits_together(self) -> Experiment:
        checks.check_all(self)
        return self

    def __repr__(self) -> str:
        return summary(self)

    __str__ = __repr__

    def check_files(self) -> None:
        """ConfigError where a file that is named isn't there."""
        checks.check_files(self)

    @property
    def streams(self) -> bool:
        """Whether synthetic rows are made at all."""
        return self.explorer.synthesizes and self.train.synthetic_ratio > 0

    @property
    def synthetic_ratio(self) -> float:
        """The ratio that is trained at: 0 with an explorer that makes no rows."""
        return self.train.synthetic_ratio if self.explorer.synthesizes else 0.0

    @property
    def has_other_anchors(self) -> bool:
        """Whether explorers start from rows that distillation doesn't see, as far as the config says."""
        return self.task.has_unlabelled and self.streams and self.teacher.generator.starts_from_train
