"""Define the config type of an experiment. Imports neither torch nor ray."""

from __future__ import annotations

from pydantic import model_validator

from tgt_ray.core.loading import summary
from tgt_ray.experiment import checks
from tgt_ray.experiment.blocks import Blocks


class Experiment(Blocks):
    """An experiment describes one training run: the task, the teacher, the student, and how the student is trained.

    The defaults are a run on long-tailed digits that is known to work.
    """

    @model_validator(mode="after")
    def _fits_together(self) -> Experiment:
        checks.check_all(self)
        return self

    @classmethod
    def hint(cls, key: str) -> str:
        if key in ("experiment", "space", "search"):
            return "it belongs to a sweep: use the command sweep"
        return super().hint(key)

    def __repr__(self) -> str:
        return summary(self)

    __str__ = __repr__

    def check_files(self) -> None:
        """Check what depends on files; see `checks.check_files`.

        - raises ConfigError: where a weights file is missing, or vocabularies that must be the same differ
        """
        checks.check_files(self)
