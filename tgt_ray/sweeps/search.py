"""Chooses the values of trials: those that were begun, controls, then Optuna's samplers; tells Optuna how they end."""

from __future__ import annotations

from typing import Any

import optuna
from ray.tune.search import Searcher

from tgt_ray.core.fingerprint import digest
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.journal import Journal, Known
from tgt_ray.sweeps.space import from_optuna, to_optuna
from tgt_ray.sweeps.study import about, end, note_end, reports_of
from tgt_ray.sweeps.unstored import Unstored


class JournalSearch(Unstored, Searcher):
    """Suggests the trials that a journal has not seen ended, then controls, then what Optuna chooses.

    The config of a trial is {"trial": its id, and its values}, of a control {"trial": its id, "control": name}. A
    control is no trial of Optuna's study, which has its result as an attribute. A trial that was stopped early is
    pruned there, with its reports and no value.

    - journal: of the sweep, in which trials are noted when they begin
    - study: with the trials that have ended
    """

    def __init__(self, sweep: SweepConfig, journal: Journal, study: optuna.Study):
        super().__init__(metric=sweep.search.metric, mode=sweep.search.mode)
        self.sweep, self.journal, self.study = sweep, journal, study
        self.points = sweep.first_points()
        self._left = journal.unfinished
        self._trials: dict[str, optuna.Trial] = {}  # by our ids
        self._known: dict[str, Known] = {}  # by Tune's

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True  # the sweep has said all of it

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        known = self._again(self._left.pop(0)) if self._left else self._new()
        self._known[trial_id] = known
        return {"trial": known.name, **known.values}

    def _again(self, known: Known) -> Known:
        """Let the study have a trial that goes on."""
        if known.control is None:
            trial = self._queued(known.values)
            self._begin(known, trial)
            for step, value in reports_of(self.sweep, known).items():
                trial.report(value, step)
        return known

    def _new(self) -> Known:
        begun = self.journal.controls()
        for name in self.sweep.search.controls:
            if name in begun:
                begun.remove(name)
            else:
                return self.journal.begin({"control": name}, None)
        draws = self.journal.draws()
        draw = next(number for number in range(len(draws) + 1) if number not in draws)
        if draw < len(self.points):
            trial, values = self._queued(self.points[draw]), self.points[draw]
        else:
            self.study.sampler = make_sampler(self.sweep, draw)
            trial = self.study.ask(fixed_distributions=distributions(self.sweep))
            values = from_optuna(self.sweep.space, trial.params)
        known = self.journal.begin(values, draw)
        self._begin(known, trial)
        return known

    def _queued(self, values: dict[str, Any]) -> optuna.Trial:
        """Return a new trial of the study with these values."""
        self.study.enqueue_trial(to_optuna(self.sweep.space, values))
        return self.study.ask(fixed_distributions=distributions(self.sweep))

    def _begin(self, known: Known, trial: optuna.Trial) -> None:
        for key, value in about(self.sweep, known).items():
            trial.set_user_attr(key, value)
        self._trials[known.name] = trial

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: the study is told once the journal has the report, see `told`."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: the study is told once the journal has the end, see `ended`."""

    def told(self, known: Known) -> None:
        """Tell the study of a trial's last report, which the journal has."""
        trial = self._trials.get(known.name)
        reports = reports_of(self.sweep, known)
        if trial is not None and known.step in reports and f"test_{self.sweep.search.metric}" not in known.result:
            trial.report(reports[known.step], known.step)

    def ended(self, known: Known) -> None:
        """Tell the study how a trial has ended, as the journal has it."""
        note_end(self.sweep, self.study, known)
        trial = self._trials.pop(known.name, None)
        if trial is not None:
            end(self.sweep, self.study, trial, known)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the journal has all of it."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


def distributions(sweep: SweepConfig) -> dict[str, Any]:
    """Return the space as Optuna knows it."""
    return {key: distribution.to_optuna() for key, distribution in sweep.space.items()}


def make_sampler(sweep: SweepConfig, draw: int) -> optuna.samplers.BaseSampler:
    """Make what chooses the values of one trial: they follow from the seed, the draw and the trials before it.

    - draw: which one of the search it is
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = sweep.search
    seed = int(digest(search.seed, draw)[:8], 16)
    if search.algorithm == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.startup_trials, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


def first_values(sweep: SweepConfig) -> list[dict[str, Any]]:
    """Return the values of the trials that follow from the seed alone: of tpe those before its model takes over."""
    search, points = sweep.search, sweep.first_points()
    if search.algorithm == "grid":
        return points
    count = search.trials if search.algorithm == "random" else min(search.trials, search.startup_trials)
    out = points[:count]
    for draw in range(len(out), count):
        study = optuna.create_study(sampler=make_sampler(sweep, draw))
        found = study.ask(fixed_distributions=distributions(sweep)).params
        out.append(from_optuna(sweep.space, found))
    return out
