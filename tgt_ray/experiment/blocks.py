"""The blocks of an experiment, and what follows from them together. Imports neither torch nor ray."""

from __future__ import annotations

from pydantic import Field

from tgt_ray.core.config import Config
from tgt_ray.data import LongTail
from tgt_ray.experiment.pool import FitCheckConfig, PoolConfig
from tgt_ray.experiment.train import TrainConfig
from tgt_ray.models.students import AnyStudent, ConvStudent
from tgt_ray.objectives import AnyObjective, Distillation
from tgt_ray.tasks import AnyTask, ImageClassification
from tgt_ray.teacher.config import TeacherConfig
from tgt_ray.teacher.explorers import AnyExplorer, Gradient


class Blocks(Config):
    """The blocks of an experiment, before it is checked that they fit together."""

    task: AnyTask = Field(
        default_factory=lambda: ImageClassification(long_tail=LongTail(head=80, imbalance=20, seed=0)),
        description="what is learnt: the data, its splits, and the metrics",
    )
    teacher: TeacherConfig = Field(
        default_factory=TeacherConfig,
        description="the two frozen models that make synthetic rows and label them",
    )
    student: AnyStudent = Field(default_factory=ConvStudent, description="the model that is trained")
    explorer: AnyExplorer = Field(
        default_factory=Gradient,
        description="how synthetic rows are made from anchors, or none for no synthetic rows",
    )
    objective: AnyObjective = Field(default_factory=Distillation, description="the loss that the student minimises")
    train: TrainConfig = Field(default_factory=TrainConfig, description="how the student is trained")
    pool: PoolConfig = Field(
        default_factory=PoolConfig, description="the generator actors that stream synthetic rows to the student"
    )
    fit_check: FitCheckConfig = Field(
        default_factory=FitCheckConfig, description="the check of the teacher that runs before training"
    )

    @property
    def streams(self) -> bool:
        """Tell whether the run has synthetic rows."""
        return self.explorer.synthesizes and self.train.synthetic_ratio > 0

    @property
    def uses_pool(self) -> bool:
        """Tell whether somebody must make the run's synthetic rows, unless the bank has them."""
        return self.streams and not self.explorer.ready

    @property
    def uses_generator(self) -> bool:
        """Tell whether the run needs the teacher's generator, which anchors don't, changed or not."""
        return self.uses_pool and self.explorer.decodes

    @property
    def makes_new_rows(self) -> bool:
        """Tell whether the run trains on rows that nobody has given, whose labels the fit check looks at."""
        return self.uses_pool and not self.explorer.unchanged

    @property
    def synthetic_ratio(self) -> float:
        """Give the ratio in effect, which is 0 with an explorer that makes no rows."""
        return self.train.synthetic_ratio if self.explorer.synthesizes else 0.0

    @property
    def has_other_anchors(self) -> bool:
        """Tell whether explorers start from rows that plain distillation doesn't see, as far as the config says."""
        return self.task.has_unlabelled and self.streams and self.teacher.generator.starts_from_train
