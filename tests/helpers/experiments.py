"""Experiments that differ from others in some values."""

from tgt_ray.core.config import validate
from tgt_ray.core.loading import with_overrides
from tgt_ray.experiment.experiment import Experiment


def changed(base: Experiment, values: dict[str, object] | None = None, **more: object) -> Experiment:
    """values: by their keys. more: the same with `__` for each dot, and in place of those of `values`."""
    sets = {**(values or {}), **{key.replace("__", "."): value for key, value in more.items()}}
    return validate(Experiment, with_overrides(base.model_dump(mode="json"), list(sets.items())))


#: Each run makes its rows itself, where runs are compared.
OWN_ROWS = {"pool.bank.mode": "none"}

#: A teacher that costs nothing.
TINY = {
    "teacher.labeler.widths": [4, 4],
    "teacher.labeler.pretrain.steps": 3,
    "teacher.generator.hidden": [8],
    "teacher.generator.pretrain.steps": 3,
}


def tiny(*sets: tuple[str, object]) -> Experiment:
    return changed(Experiment(), {**TINY, **dict(sets)})


#: A run of three reports.
SHORT = {"train.steps": 12, "train.eval_every": 4, "train.batch_size": 16, "pool.rows_per_request": 24}


def short(base: Experiment, values: dict[str, object] | None = None, **more: object) -> Experiment:
    return changed(base, {**SHORT, **(values or {})}, **more)
