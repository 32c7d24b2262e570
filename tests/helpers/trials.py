"""Trials as a sweep's journal has them."""

from typing import Any

from tests.helpers.owners import held
from tgt_ray.core.config import validate
from tgt_ray.core.storage import Storage
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.journal import Journal, Known
from tgt_ray.sweeps.search import JournalSearch
from tgt_ray.sweeps.study import make_study

METRIC = "balanced_accuracy"
VALUES = {"train.synthetic_ratio": 0.5, "objective.temperature": 2.0, "explorer.step_size": 0.1}


def trial(
    name: str,
    score: float | None,
    status: str | None = "finished",
    tested: bool = True,
    number: int = 1,
    values: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    reason: str | None = None,
) -> Known:
    """A trial with one report; without a score, the report has none.

    - status: None: it goes on
    - tested: whether the report has the test split
    """
    own = {"step": 500, "pictures": ["x"]} if result is None else dict(result)
    if score is not None:
        own.setdefault(METRIC, score)
        own |= {f"test_{METRIC}": score - 1} if tested and result is None else {}
    return Known(name, number, dict(VALUES) if values is None else values, 0, [own], status, reason, 2.5)


def fresh(name: str, number: int = 1, values: dict[str, Any] | None = None) -> Known:
    """A trial without a report, which goes on."""
    return Known(name, number, values or {})


def sweep(mode: str = "max", **search: Any) -> SweepConfig:
    return validate(SweepConfig, {"search": {"mode": mode, "trials": 4, **search}})


def opened(folder: Storage, config: SweepConfig) -> Journal:
    """The journal of a sweep, to which a new command writes."""
    out = Journal.read(folder)
    out.begin_command(held(folder), config.model_dump(mode="json"))
    return out


def search_of(folder: Storage, config: SweepConfig, journal: Journal | None = None) -> JournalSearch:
    """The search of a sweep that begins, or goes on with its journal."""
    journal = journal or opened(folder, config)
    return JournalSearch(config, journal, make_study(config, folder, journal))
