"""Teacher-guided training as distributed sweeps: `from tgt_ray import Experiment, run, run_sweep`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tgt_ray.core.errors import ConfigError, RunFailed
    from tgt_ray.core.loading import dump_yaml
    from tgt_ray.core.signals.base import Column, Signal
    from tgt_ray.data.images.base import ImageSource
    from tgt_ray.data.texts.base import TextSource
    from tgt_ray.entrypoints.api import run, run_sweep
    from tgt_ray.entrypoints.summary import RunResult, SweepResult
    from tgt_ray.experiment.experiment import Experiment
    from tgt_ray.inference.loading import load_student
    from tgt_ray.models.students import StudentBackbone
    from tgt_ray.objectives.base import Objective
    from tgt_ray.objectives.criteria.base import Criterion
    from tgt_ray.sweeps.config import SweepConfig
    from tgt_ray.tasks.base import Task
    from tgt_ray.teacher.explorers.base import Explorer
    from tgt_ray.teacher.generators.base import Generator
    from tgt_ray.teacher.labelers.base import Labeler

#: What a user may call, and where it lies.
_HOMES = {
    "Column": "core.signals.base",
    "ConfigError": "core.errors",
    "Criterion": "objectives.criteria.base",
    "Experiment": "experiment.experiment",
    "Explorer": "teacher.explorers.base",
    "Generator": "teacher.generators.base",
    "ImageSource": "data.images.base",
    "Labeler": "teacher.labelers.base",
    "Objective": "objectives.base",
    "RunFailed": "core.errors",
    "RunResult": "entrypoints.summary",
    "Signal": "core.signals.base",
    "StudentBackbone": "models.students",
    "SweepConfig": "sweeps.config",
    "SweepResult": "entrypoints.summary",
    "Task": "tasks.base",
    "TextSource": "data.texts.base",
    "dump_yaml": "core.loading",
    "load_student": "inference.loading",
    "run": "entrypoints.api",
    "run_sweep": "entrypoints.api",
}

__all__ = [
    "Column",
    "ConfigError",
    "Criterion",
    "Experiment",
    "Explorer",
    "Generator",
    "ImageSource",
    "Labeler",
    "Objective",
    "RunFailed",
    "RunResult",
    "Signal",
    "StudentBackbone",
    "SweepConfig",
    "SweepResult",
    "Task",
    "TextSource",
    "dump_yaml",
    "load_student",
    "run",
    "run_sweep",
]


def __getattr__(name: str) -> Any:
    # Looked up when asked for: a pool actor that needs one module should not pay for all.
    if name not in _HOMES:
        raise AttributeError(f"module 'tgt_ray' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"tgt_ray.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
