"""Controls: the plainer runs that a method is compared with."""

from __future__ import annotations

from typing import Any

from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import with_overrides
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.experiment.train import AugmentConfig

#: What each control changes in an experiment.
CONTROLS: dict[str, dict[str, Any]] = {
    "one_hot": {"explorer": {"type": "none"}, "objective.alpha": 0.0},
    "distillation": {"explorer": {"type": "none"}},
    "distillation_balanced": {"explorer": {"type": "none"}, "train.sampling": "balanced"},
    "anchors": {"explorer": {"type": "identity"}},
}


def control(experiment: Experiment, name: str) -> Experiment:
    """Make the control of an experiment: the same student, data and steps, without part of the method.

    - name `distillation`: plain distillation without synthetic rows
    - name `distillation_balanced`: the same with classes drawn equally often, to show what that alone brings where
      anchors are drawn so
    - name `one_hot`: labels alone, without the teacher
    - name `anchors`: trains on unchanged anchors in place of synthetic rows, to show what extra data alone brings:
      some anchors may have no labels, which plain distillation leaves out
    - raises ConfigError: where the name is none of these
    """
    if name not in CONTROLS:
        raise ConfigError(f"control '{name}': legal are {', '.join(CONTROLS)}")
    plain = experiment.model_dump(mode="json")
    plain["objective"] = experiment.objective.plain()
    if name == "one_hot" and plain["train"]["augment"] is not None:
        # Rows are augmented as in the trials, with the data's own labels.
        shared = AugmentConfig.model_fields
        plain["train"]["augment"] |= {key: shared[key].default for key in ("consistent", "versions")}
    data = with_overrides(plain, list(CONTROLS[name].items()))
    if data["explorer"]["type"] != "none":
        data["explorer"]["anchors"] = experiment.explorer.anchors  # drawn as the trials draw them
    return validate(Experiment, data)
