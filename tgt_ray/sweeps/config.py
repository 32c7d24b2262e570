"""What a sweep is: an experiment, a space over its keys, and how to search it. No torch, no ray."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationInfo, field_validator, model_validator

from tgt_ray.core.config import Config, validate
from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.core.loading import summary, with_overrides
from tgt_ray.experiment.controls import CONTROLS, control
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives import Objective
from tgt_ray.sweeps.space import Distribution, lookup


class SearchConfig(Config):
    """How the space is searched."""

    algorithm: Literal["tpe", "random", "grid"] = Field(
        "tpe", description="Optuna's TPE, random draws, or every combination"
    )
    trials: int = Field(12, ge=1, description="trials besides the controls; grid runs all its points")
    concurrent: int | Literal["auto"] = Field("auto", description="trials at once; auto: as many as the cluster holds")
    warm_lanes: bool = Field(
        True,
        description="processes outlive trials: as many lanes as `concurrent` says are started once; false: anew for each trial",
    )
    max_rebuilds: int = Field(
        8, ge=0, description="lanes started anew during the sweep, for trials whose workers or resources no lane has"
    )
    scheduler: Literal["asha", "none"] = Field("asha", description="asha stops trials that are behind (Li et al. 2018)")
    grace_evaluations: int = Field(2, ge=1, description="evaluations before asha may stop a trial")
    reduction_factor: float = Field(3, gt=1, description="asha lets one trial in this many go on at each rung")
    startup_trials: int = Field(5, ge=1, description="random trials before TPE's model takes over")
    metric: str = Field("auto", description="on the validation split; auto: the first that the task gives")
    mode: Literal["max", "min"] = "max"
    seed: int = Field(0, ge=0)
    controls: list[str] = Field(
        ["one_hot", "distillation"],
        description=f"trials beside the search that show what it must beat, of {', '.join(CONTROLS)}; absent: anchors as well where explorers"
        " start from rows without labels",
    )

    @model_validator(mode="after")
    def _legal(self) -> SearchConfig:
        if isinstance(self.concurrent, int) and self.concurrent < 1:
            raise ValueError(f"concurrent {self.concurrent}: give at least 1, or auto")
        for name in self.controls:
            if name not in CONTROLS:
                raise ValueError(f"controls: unknown '{name}'; {nearest(name, CONTROLS)}")
        return self


class SweepConfig(Config):
    """One sweep."""

    experiment: Experiment = Field(default_factory=Experiment)
    space: dict[str, Distribution] = Field(
        default_factory=lambda: {
            "train.synthetic_ratio": Distribution(uniform=(0.1, 0.9)),
            "objective.temperature": Distribution(loguniform=(1.0, 8.0)),
            "explorer.step_size": Distribution(loguniform=(0.05, 1.0)),
        },
        min_length=1,
    )
    search: SearchConfig = Field(default_factory=SearchConfig)

    def __repr__(self) -> str:
        return summary(self)

    __str__ = __repr__

    @field_validator("search", mode="after")
    @classmethod
    def _task_s_own(cls, search: SearchConfig, info: ValidationInfo) -> SearchConfig:
        """What follows from the experiment where nothing is said."""
        if "experiment" not in info.data:
            return search
        experiment, update = info.data["experiment"], dict[str, Any]()
        if search.metric == "auto":
            update["metric"] = experiment.task.metric_names[0]
        if "controls" not in search.model_fields_set and experiment.has_other_anchors:
            update["controls"] = [*search.controls, "anchors"]
        return search.model_copy(update=update)

    @model_validator(mode="after")
    def _space_is_legal(self) -> SweepConfig:
        for key in self.space:
            if key.startswith(("task.", "teacher.")):
                raise ValueError(f"space.{key}: the trials of a sweep share task and teacher; run one sweep for each")
        for point in self._probes(self.space):
            self._check_point(point)
        for name in self.search.controls:
            try:
                self.trial_experiment({"control": name})
            except ConfigError as err:
                raise ValueError(f"search.controls: '{name}': {err}") from err
        if self.search.algorithm == "grid":
            ranges = [key for key, distribution in self.space.items() if distribution.choice is None]
            if ranges:
                raise ValueError(f"space.{ranges[0]}: grid search needs a choice of values, not a range")
        legal = self.experiment.task.metric_names
        if self.search.metric not in legal:
            raise ValueError(f"search.metric: unknown '{self.search.metric}'; {nearest(self.search.metric, legal)}")
        return self

    def _probes(self, space: dict[str, Distribution]) -> Iterator[dict[str, Any]]:
        """Points to try before a sweep starts: each combination of types with each probe of each other key."""
        types = {key: d.probes() for key, d in space.items() if key.endswith(".type")}
        others = [{key: value} for key, d in space.items() if key not in types for value in d.probes()]
        for chosen in itertools.product(*types.values()):
            for other in others or [{}]:
                yield {**dict(zip(types, chosen, strict=True)), **other}

    def objectives(self) -> list[Objective]:
        """What trials may minimise, as far as probes tell."""
        own = {key: d for key, d in self.space.items() if key.split(".")[0] == "objective"}
        return [self.trial_experiment(point).objective for point in self._probes(own)]

    def check_files(self) -> None:
        """ConfigError where a file isn't there, or models don't fit together, in the experiment or in any kind of trial."""
        self.experiment.check_files()
        for point in self._probes({key: d for key, d in self.space.items() if key.endswith(".type")}):
            try:
                self.trial_experiment(point).check_files()
            except ConfigError as err:
                raise ConfigError(f"{_said(point)}: {err}") from err

    def _check_point(self, values: dict[str, Any]) -> None:
        try:
            self.trial_experiment(values)
        except ConfigError as err:
            raise ValueError(f"{_said(values)}: {err}") from err

    @property
    def num_trials(self) -> int:
        """Trials of the search and controls together."""
        searched = (
            math.prod(len(d.ends()) for d in self.space.values())
            if self.search.algorithm == "grid"
            else self.search.trials
        )
        return searched + len(self.search.controls)

    def first_points(self) -> list[dict[str, Any]]:
        """Points to try before the algorithm's own: all of a grid; for others the experiment as written, if the space has it."""
        if self.search.algorithm == "grid":
            values = itertools.product(*(d.ends() for d in self.space.values()))
            return [dict(zip(self.space, point, strict=True)) for point in values]
        base = self.experiment.model_dump(mode="json")
        point = {key: lookup(base, key) for key in self.space}
        return [point] if all(self.space[key].contains(value) for key, value in point.items()) else []

    def trial_experiment(self, values: dict[str, Any]) -> Experiment:
        """The experiment of a trial: `values` of the space, or {"control": name}. ConfigError where values don't fit together."""
        if "control" in values:
            return control(self.experiment, values["control"])
        return validate(Experiment, with_overrides(self.experiment.model_dump(mode="json"), sorted(values.items())))

    def largest_values(self) -> dict[str, Any]:
        """Of each key of the space the largest value; where these are no numbers, any."""
        return {
            key: max(ends) if all(isinstance(end, int | float) for end in ends) else ends[0]
            for key, distribution in self.space.items()
            for ends in [distribution.ends()]
        }

    def largest(self, key: str) -> float:
        """The largest value that a numeric key takes in any trial."""
        here = lookup(self.experiment.model_dump(mode="json"), key)
        return max(self.space[key].ends()) if key in self.space else here


def _said(point: dict[str, Any]) -> str:
    return ", ".join(f"space.{key} = {value!r}" for key, value in reversed(point.items()))


def default_sweep() -> dict[str, Any]:
    """The sweep that runs where none is named, as it ships with the package."""
    text = resources.files("tgt_ray").joinpath("default_sweep.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)
