"""Trials as Tune shows them to a table."""

from dataclasses import dataclass, field
from typing import Any

from tgt_ray.core.config import validate
from tgt_ray.sweeps.config import SweepConfig

METRIC = "balanced_accuracy"


@dataclass
class FakeTrial:
    """What the table reads of a trial of Tune's."""

    trial_id: str
    status: str = "TERMINATED"
    config: dict[str, Any] = field(default_factory=dict)
    last_result: dict[str, Any] | None = None
    error: Exception | None = None
    experiment_tag: str = ""

    error_file = None  # nothing beside the driver

    def get_error(self) -> Exception | None:
        return self.error


def trial(name: str, score: float | None, status: str = "TERMINATED", tested: bool = True, **more: Any) -> FakeTrial:
    result: dict[str, Any] = {"step": 500, "pid": 1, "time_total_s": 2.5, "config": {"x": 1}}
    if score is not None:
        result[METRIC] = score
    if tested and score is not None:
        result[f"test_{METRIC}"] = score - 1
    config = {"train.synthetic_ratio": 0.5, "objective.temperature": 2.0, "explorer.step_size": 0.1}
    return FakeTrial(name, status, **{"config": config, "last_result": result, **more})


def sweep(mode: str = "max") -> SweepConfig:
    return validate(SweepConfig, {"search": {"mode": mode, "trials": 4}})
