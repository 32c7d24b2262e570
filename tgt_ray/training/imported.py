"""Gives a run the synthetic rows that were imported for it. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from tgt_ray.core.batch import Block
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.tasks import TaskData
from tgt_ray.teacher.bank.imported import ImportedRows, absent, facts, find
from tgt_ray.teacher.explorers import Imported
from tgt_ray.teacher.transfer_set import StudentData


def check(experiment: Experiment, data: TaskData | StudentData, storage: Storage) -> str | None:
    """Return the fingerprint of the rows that an experiment wants; None where it wants none.

    - raises ConfigError: where there are none, or they are made for other inputs or classes
    """
    explorer = experiment.explorer
    if not isinstance(explorer, Imported) or not experiment.streams:
        return None
    record = find(storage, explorer.teacher)
    if record is None:
        raise ConfigError(absent(storage, explorer.teacher))
    for what, wanted in facts(data).items():
        if record[what] != wanted:
            raise ConfigError(
                f"explorer.teacher: the rows that were imported under '{explorer.teacher}' have other {what} than the"
                f" task's: {_some(record[what])}, not {_some(wanted)}; import rows for this task under another name"
            )
    content: str = record["content"]
    return content


def _some(values: list[Any], most: int = 10) -> str:
    return ", ".join(map(str, values[:most])) + (f", ... ({len(values)} in all)" if len(values) > most else "")


def imported_blocks(
    experiment: Experiment, data: StudentData, storage: Storage, first: int, rank: int = 0, world_size: int = 1
) -> Iterator[Block]:
    """Yield a worker's blocks of imported rows, from that with the index `first` on.

    All workers together take each row once in an epoch.
    """
    check(experiment, data, storage)  # in a sweep each trial may have rows of its own
    explorer = experiment.explorer
    assert isinstance(explorer, Imported)
    rows = ImportedRows(storage, explorer.teacher, experiment.pool.rows_per_request, experiment.train.seed)
    for index in itertools.count(first):
        yield rows.block(index * world_size + rank)
