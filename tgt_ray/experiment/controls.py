"""Controls: what a method is compared with."""

from __future__ import annotations

from typing import Any

from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import with_overrides
from tgt_ray.experiment.experiment import Experiment

CONTROLS: dict[str, dict[str, Any]] = {
    "one_hot": {"explorer": {"type": "none"}, "objective.alpha": 0.0},
    "distillation": {"explorer": {"type": "none"}},
    "anchors": {"explorer": {"type": "identity"}},
}


def control(experiment: Experiment, name: str) -> Experiment:
    """The same experiment as plain distillation without synthetic rows, without the teacher as well (`one_hot`), or with anchors as they
    are in the place of synthetic rows (`anchors`): where some have no labels, distillation of more rows."""
    if name not in CONTROLS:
        raise ConfigError(f"control '{name}': legal are {', '.join(CONTROLS)}")
    plain = experiment.model_dump(mode="json")
    plain["objective"] = experiment.objective.plain()
    data = with_overrides(plain, list(CONTROLS[name].items()))
    if experiment.explorer.synthesizes and data["explorer"]["type"] != "none":
        data["explorer"]["anchors"] = experiment.explorer.anchors  # drawn as the trials draw them
    return validate(Experiment, data)
