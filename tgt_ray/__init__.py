"""Teacher-guided training as distributed sweeps: `from tgt_ray import Experiment, run, run_sweep`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tgt_ray.entrypoints.api import RunResult, SweepResult, run, run_sweep
    from tgt_ray.experiment.experiment import Experiment
    from tgt_ray.sweeps.config import SweepConfig

__all__ = ["Experiment", "RunResult", "SweepConfig", "SweepResult", "run", "run_sweep"]

_HOME = {"Experiment": "experiment.experiment", "SweepConfig": "sweeps.config"}


def __getattr__(name: str) -> Any:
    # Looked up when asked for: a pool actor that needs one module should not pay for all.
    if name not in __all__:
        raise AttributeError(f"module 'tgt_ray' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"tgt_ray.{_HOME.get(name, 'entrypoints.api')}"), name)
