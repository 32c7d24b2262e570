"""Defines a sweep: an experiment, a space over its keys, and how to search it; imports neither torch nor ray."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationInfo, field_validator, model_validator

from tgt_ray.core.config import Config, Seed, validate
from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.core.loading import summary, with_overrides
from tgt_ray.experiment.controls import CONTROLS, control
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.objectives import Objective
from tgt_ray.sweeps.space import Distribution, lookup
from tgt_ray.teacher.versions import Changes

#: The key of the augmentation of real rows.
AUGMENT = "train.augment"


class SearchConfig(Config):
    """How the space of a sweep is searched, and which controls run beside the search."""

    algorithm: Literal["tpe", "random", "grid"] = Field(
        "tpe",
        description="how the values of trials are chosen; tpe: by Optuna's tree-structured Parzen estimator, random: by"
        " independent draws, grid: every combination of the choices",
    )
    trials: int = Field(
        12,
        ge=1,
        description="trials besides the controls; more: better values are found at more cost; grid ignores it and runs"
        " all combinations",
    )
    concurrent: int | Literal["auto"] = Field(
        "auto",
        description="trials that run at once; auto: as many as the cluster holds; more: the sweep takes less time, but"
        " fewer results are known when tpe chooses values",
    )
    warm_lanes: bool = Field(
        True,
        description="true: processes outlive trials, as many lanes as trials run at once are started at the beginning;"
        " false: each trial starts its own processes, which takes longer",
    )
    max_rebuilds: int = Field(
        8,
        ge=0,
        description="how often lanes may be started again during the sweep, for trials whose workers or resources no"
        " lane has; further trials of that kind fail",
    )
    scheduler: Literal["asha", "none"] = Field(
        "asha",
        description="which trials are stopped early; asha: those that are behind (Li et al. 2018), none: every trial"
        " runs to its end",
    )
    grace_evaluations: int = Field(
        2,
        ge=1,
        description="evaluations before asha may stop a trial; higher: fewer good trials are stopped too early, at more"
        " cost",
    )
    reduction_factor: float = Field(
        3,
        gt=1,
        description="asha lets one trial in this many go on at each rung; higher: more trials are stopped early",
    )
    startup_trials: int = Field(
        5, ge=1, description="random trials before tpe's model takes over; higher: more of the space is explored first"
    )
    metric: str = Field(
        "auto",
        description="what trials are compared by, measured on the validation split; auto: the task's first metric",
    )
    mode: Literal["max", "min"] = Field(
        "max", description="whether higher (max) or lower (min) values of the metric are better"
    )
    seed: Seed = Field(0, description="seed of the search: of random draws and of tpe")
    controls: list[str] = Field(
        ["one_hot", "distillation"],
        description=f"trials beside the search that show what it must beat, of {', '.join(CONTROLS)}; where the key is"
        " absent, distillation_balanced is one of them if trials draw anchors in a balanced way and train.sampling is"
        " not balanced, and anchors if explorers start from rows without labels",
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
    """One sweep: an experiment, the keys of it that differ between trials, and how their values are searched."""

    experiment: Experiment = Field(
        default_factory=Experiment,
        description="the experiment that all trials share; each trial replaces the keys of the space",
    )
    space: dict[str, Distribution] = Field(
        default_factory=lambda: {
            "train.synthetic_ratio": Distribution(uniform=(0.1, 0.9)),
            "objective.temperature": Distribution(loguniform=(1.0, 8.0)),
            "explorer.step_size": Distribution(loguniform=(0.05, 1.0)),
        },
        min_length=1,
        description="dotted keys of the experiment, such as train.synthetic_ratio, and where each is searched; keys of"
        " task and teacher are refused, since all trials share these",
    )
    search: SearchConfig = Field(
        default_factory=SearchConfig, description="how values are chosen, and when trials are stopped early"
    )

    def __repr__(self) -> str:
        return summary(self)

    __str__ = __repr__

    @classmethod
    def hint(cls, key: str) -> str:
        if key in Experiment.model_fields:
            return f"in a sweep it stands below experiment: experiment.{key}"
        return super().hint(key)

    @field_validator("space", mode="after")
    @classmethod
    def _choices_of_the_key_s_type(
        cls, space: dict[str, Distribution], info: ValidationInfo
    ) -> dict[str, Distribution]:
        """Let each choice be what the key makes of it: '1e-3' for a number is the number."""
        base = info.data.get("experiment")
        return {key: d if base is None or d.choice is None else _typed(base, key, d) for key, d in space.items()}

    @field_validator("search", mode="after")
    @classmethod
    def _task_s_own(cls, search: SearchConfig, info: ValidationInfo) -> SearchConfig:
        """Fill in the metric and the controls from the experiment where the sweep doesn't say."""
        if "experiment" not in info.data:
            return search
        experiment, space, update = info.data["experiment"], info.data.get("space", {}), dict[str, Any]()
        if search.metric == "auto":
            update["metric"] = experiment.task.metric_names[0]
        if "controls" not in search.model_fields_set:
            update["controls"] = [*search.controls, *_more_controls(experiment, space)]
        return search.model_copy(update=update)

    @model_validator(mode="after")
    def _space_is_legal(self) -> SweepConfig:
        for key in self.space:
            if key.startswith(("task.", "teacher.")):
                raise ValueError(f"space.{key}: the trials of a sweep share task and teacher; run one sweep for each")
        for point in self._probes(self.space):
            self._check_point(point)
        self._augments_by_values()
        for name in self.search.controls:
            try:
                self.trial_experiment({"control": name})
            except ConfigError as err:
                raise ValueError(f"search.controls: '{name}': {err}") from err
        if self.search.algorithm == "grid":
            ranges = [key for key, distribution in self.space.items() if distribution.all_values() is None]
            if ranges:
                raise ValueError(f"space.{ranges[0]}: grid search needs a choice of values, or levels of the range")
        legal = self.experiment.task.metric_names
        if self.search.metric not in legal:
            raise ValueError(f"search.metric: unknown '{self.search.metric}'; {nearest(self.search.metric, legal)}")
        return self

    def _augments_by_values(self) -> None:
        how = self.experiment.train.augment
        may = (how is not None and how.consistent) or f"{AUGMENT}.consistent" in self.space
        for key, distribution in self.space.items():
            if may and key.startswith(AUGMENT) and distribution.all_values() is None:
                raise ValueError(
                    f"space.{key}: with train.augment.consistent the teacher labels augmented rows before trials start,"
                    " so all values must be known; give a choice, or levels"
                )

    def _probes(self, space: dict[str, Distribution]) -> Iterator[dict[str, Any]]:
        """Yield points to check before a sweep starts: each combination of types with each probe of each other key."""
        types = {key: d.probes() for key, d in space.items() if key.endswith(".type")}
        others = [{key: value} for key, d in space.items() if key not in types for value in d.probes()]
        for chosen in itertools.product(*types.values()):
            for other in others or [{}]:
                yield {**dict(zip(types, chosen, strict=True)), **other}

    def objectives(self) -> list[Objective]:
        """Return the objectives that trials and controls may have, as far as the probes of the space show."""
        own = {key: d for key, d in self.space.items() if key.split(".")[0] == "objective"}
        points = [*self._probes(own), *({"control": name} for name in self.search.controls)]
        return [self.trial_experiment(point).objective for point in points]

    def unchanged_anchors(self) -> bool:
        """Tell whether some trial takes anchors unchanged, as the control `anchors` does."""
        own = {key: d for key, d in self.space.items() if key == "explorer.type"}
        points = [*self._probes(own), *({"control": name} for name in self.search.controls)]
        return any(self.trial_experiment(point).explorer.unchanged for point in points)

    def augmented_rows(self) -> list[Changes]:
        """Return how trials augment rows that the teacher labels as students see them, before trials start."""
        own = {key: d.all_values() for key, d in self.space.items() if key.startswith(AUGMENT)}
        found = list[Changes]()
        for values in itertools.product(*(each or () for each in own.values())):
            with suppress(ConfigError):  # some values are legal only together with those of other keys
                how = self.trial_experiment(dict(zip(own, values, strict=True))).train.relabelled
                found += [how] if how is not None else []
        return found

    def generating(self) -> Experiment | None:
        """Return the experiment of a trial that needs the teacher's generator; None where none does."""
        return self._first(lambda trial: trial.uses_generator)

    def making(self) -> Experiment | None:
        """Return the experiment of a trial whose synthetic rows the teacher makes or labels; None where none does."""
        return self._first(lambda trial: trial.makes_new_rows)

    def _first(self, wanted: Callable[[Experiment], bool]) -> Experiment | None:
        deciding = [key for key in ("explorer", "explorer.type", "train.synthetic_ratio") if key in self.space]
        for values in itertools.product(*(self.space[key].ends() for key in deciding)):
            decided = dict(zip(deciding, values, strict=True))
            # Some values are legal only together with those of other keys.
            for others in ({}, *self._probes(self.space)):
                with suppress(ConfigError):
                    trial = self.trial_experiment({**others, **decided})
                    if wanted(trial):
                        return trial
                    break
        return None

    def of_one_type(self) -> dict[str, list[str]]:
        """Return keys of the experiment that trials of another type of their block don't have, by the key of the type.

        Where the space chooses a block's type, the block of another type begins with its own defaults.
        """
        out = dict[str, list[str]]()
        for key in (key for key in self.space if key.endswith(".type") and self.space[key].choice is not None):
            block, others = key.removesuffix(".type"), self.space[key].ends()
            found: Any = self.experiment
            for part in block.split("."):
                found = getattr(found, part, None)
            if not isinstance(found, Config) or all(kind == getattr(found, "type", None) for kind in others):
                continue
            own = [name for name in found.changed() if name != "type" and f"{block}.{name}" not in self.space]
            if own:
                out[key] = own
        return out

    def why_no_anchors(self) -> str | None:
        """Say why no control takes anchors as they are, although explorers may start from rows without labels.

        None where there is one, where no row is without a label, and where the user has chosen the controls.
        """
        usual = [*SearchConfig().controls, *_more_controls(self.experiment, self.space)]
        tried = _explored(self.experiment, self.space)
        if self.search.controls != usual or "anchors" in usual:
            return None
        missed = any(each.task.has_unlabelled and each.streams for each in tried)
        return _why_not(self.experiment, "anchors") if missed else None

    def check_files(self) -> None:
        """Check the files that the experiment and each kind of trial name.

        - raises ConfigError: where a file is missing, or models don't fit together
        """
        self.experiment.check_files()
        chosen = {key: d for key, d in self.space.items() if key.endswith(".type") or key == START}
        for point in self._probes(chosen):
            try:
                self.trial_experiment(point).check_files()
            except ConfigError as err:
                raise ConfigError(f"{_said(point)}: {err}") from err

    def starting(self) -> list[Experiment]:
        """Return an experiment for each student whose weights trials start from."""
        values = [*self.space[START].probes()] if START in self.space else [self.experiment.train.start_from]
        return [self.trial_experiment({START: value}) for value in values if value is not None]

    def _check_point(self, values: dict[str, Any]) -> None:
        try:
            self.trial_experiment(values)
        except ConfigError as err:
            raise ValueError(f"{_said(values)}: {err}") from err

    @property
    def num_trials(self) -> int:
        """The number of trials of the search and of controls together."""
        searched = (
            math.prod(len(d.all_values() or ()) for d in self.space.values())
            if self.search.algorithm == "grid"
            else self.search.trials
        )
        return searched + len(self.search.controls)

    def first_points(self) -> list[dict[str, Any]]:
        """Return the points to try before the algorithm's own.

        For grid these are all points; else the experiment's own values, or the levels nearest to them, where they lie
        in the space.
        """
        if self.search.algorithm == "grid":
            values = itertools.product(*(d.all_values() or () for d in self.space.values()))
            return [dict(zip(self.space, point, strict=True)) for point in values]
        base = self.experiment.model_dump(mode="json")
        point = {key: lookup(base, key) for key in self.space}
        if not all(self.space[key].contains(value) for key, value in point.items()):
            return []
        return [{key: self.space[key].as_tried(value) for key, value in point.items()}]

    def moved_to_levels(self) -> list[str]:
        """Say which of the experiment's own values are tried as the level that is nearest to them."""
        base = self.experiment.model_dump(mode="json")
        return [
            f"{key}: {lookup(base, key):g} is tried as {tried:g}, the nearest of {self.space[key].levels} levels"
            for point in self.first_points()[: self.search.algorithm != "grid"]
            for key, tried in point.items()
            if self.space[key].levels is not None and tried != lookup(base, key)
        ]

    def trial_experiment(self, values: dict[str, Any]) -> Experiment:
        """Return the experiment of a trial.

        - values: dotted keys of the space and their values, or {"control": name}
        - raises ConfigError: where the values don't fit together
        """
        if "control" in values:
            return control(self._as_trials(), values["control"])
        return validate(Experiment, with_overrides(self.experiment.model_dump(mode="json"), sorted(values.items())))

    def _as_trials(self) -> Experiment:
        """Return the experiment with what all trials have and controls must share, such as their augmentation.

        Its own value stays where the space holds it; otherwise it is one from the middle of the space.
        """
        plain, shared = self.experiment.model_dump(mode="json"), list[tuple[str, Any]]()
        for key, distribution in self.space.items():
            if key.startswith(SHARED) and not distribution.contains(lookup(plain, key)):
                values = distribution.probes()
                shared.append((key, values[len(values) // 2] if distribution.choice else values[2]))
        return validate(Experiment, with_overrides(plain, shared)) if shared else self.experiment

    def largest_values(self) -> dict[str, Any]:
        """Return the largest value of each key of the space; any of its values where they are not numbers."""
        return {
            key: max(ends) if all(isinstance(end, int | float) for end in ends) else ends[0]
            for key, distribution in self.space.items()
            for ends in [distribution.ends()]
        }

    def largest(self, key: str) -> float:
        """Return the largest value that a numeric key takes in any trial."""
        here = lookup(self.experiment.model_dump(mode="json"), key)
        return max(self.space[key].ends()) if key in self.space else here


#: Whose weights trials start from.
START = "train.start_from"
#: Keys whose values controls share with trials, since they have nothing to do with synthetic rows.
SHARED = (AUGMENT, "train.sampling", "train.steps", START, "explorer.anchors")
#: Anchors whose classes are drawn in proportion to their size to at most this power count as balanced (our choice).
BALANCED = 0.5


def _explored(base: Experiment, space: dict[str, Distribution]) -> Iterator[Experiment]:
    """Yield the experiment, and what the space makes of its explorer, as far as each value fits alone."""
    yield base
    plain = base.model_dump(mode="json")
    ratios = space["train.synthetic_ratio"].ends() if "train.synthetic_ratio" in space else []
    numbers = [value for value in ratios if isinstance(value, int | float)]  # others are refused later
    ratio = [("train.synthetic_ratio", max(numbers))] if numbers else []
    for key in ("explorer", "explorer.type", "explorer.anchors", "train.synthetic_ratio"):
        for value in space[key].probes() if key in space else ():
            try:
                yield validate(Experiment, with_overrides(plain, [(key, value), *ratio]))
            except ConfigError:  # the sweep's own check says so
                continue


def _more_controls(base: Experiment, space: dict[str, Distribution]) -> list[str]:
    """Return the controls that a sweep has beside the usual ones where it doesn't say which."""
    tried = list(_explored(base, space))
    wanted = {
        "distillation_balanced": any(_balances(each) for each in tried),
        "anchors": any(each.has_other_anchors for each in tried) and _why_not(base, "anchors") is None,
    }
    return [name for name, is_wanted in wanted.items() if is_wanted]


def _why_not(experiment: Experiment, name: str) -> str | None:
    """Return why an experiment can't have a control; None where it can."""
    try:
        control(experiment, name)
    except ConfigError as err:
        return str(err)
    return None


def _balances(experiment: Experiment) -> bool:
    """Tell whether an experiment's synthetic rows have balanced classes, and its real rows don't."""
    anchors, sampling = experiment.explorer.anchors, experiment.train.sampling
    even = anchors == "balanced" or (isinstance(anchors, int | float) and anchors <= BALANCED)
    return experiment.streams and even and sampling != "balanced"


def _typed(base: Experiment, key: str, distribution: Distribution) -> Distribution:
    plain = base.model_dump(mode="json")
    values = []
    for value in distribution.choice or ():
        try:
            taken = validate(Experiment, with_overrides(plain, [(key, value)])).model_dump(mode="json")
        except ConfigError:  # fits another type of its block, or nowhere: the sweep's own check says so
            values.append(value)
            continue
        # A whole block may be a choice; it keeps what its file says.
        values.append(value if isinstance(value, dict) else lookup(taken, key))
    return distribution.model_copy(update={"choice": values})


def _said(point: dict[str, Any]) -> str:
    return ", ".join(f"space.{key} = {value!r}" for key, value in reversed(point.items()))


def default_sweep() -> dict[str, Any]:
    """Return the sweep that runs where no file is given, as it ships with the package."""
    text = resources.files("tgt_ray").joinpath("default_sweep.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)
