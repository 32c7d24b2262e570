"""Lanes that do one run after another: what came before must not show."""

from dataclasses import replace
from pathlib import Path

import pytest
import ray

from tests.helpers.experiments import changed
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.storage import Storage
from tgt_ray.distributed import lanes
from tgt_ray.distributed.link import Link
from tgt_ray.distributed.messages import Run
from tgt_ray.entrypoints import api
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.results.ledger import SUMMED
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.training.files import STATE_FILE

pytestmark = pytest.mark.ray


def experiment(base: Experiment, **overrides: object) -> Experiment:
    values = {"explorer.type": "random", "train.steps": 120, "train.eval_every": 60, "pool.rows_per_request": 64}
    return changed(base, values, **overrides)


#: What depends on who was how fast.
TIMES = {"train_s", "wait_share", "start_wait_s", "generator_utilisation", "requests_granted", "dropped_blocks"}
TIMES |= {"lane", "idle_s", "setup_s", "gap_s"}
#: What depends on which rows were in the bank already.
TIMES |= {*SUMMED, "bank_bytes"}


def results(reports: list[dict]) -> list[dict]:
    return [{k: v for k, v in report.items() if k not in TIMES and v is not None} for report in reports]


def all_reports(lanes: Link, run: Run) -> list[dict]:
    lanes.call("submit", run)
    out = []
    while (answer := lanes.call("next_report", run.id, out[-1]["step"] if out else -1)).metrics is not None:
        out.append(answer.metrics)
    assert answer.reason is None, answer.reason
    return out


@pytest.mark.slow
def test_a_run_gives_the_same_alone_and_after_others_on_a_warm_lane(ray_cluster, prepared, storage):
    wanted = experiment(prepared.experiment)
    alone = api.run(wanted, storage=storage.root, name="alone")
    others = [
        experiment(prepared.experiment, explorer__type="gradient", train__seed=3),
        experiment(prepared.experiment, train__optimizer="sgd", student__widths=[4, 8], pool__rows_per_request=32),
        experiment(prepared.experiment, explorer__type="none"),
    ]
    reference = (ray.put(prepared.prepared),)
    with lanes.open_lanes("test of warm lanes", wanted, 1, storage) as link:
        for index, config in enumerate([*others, wanted]):
            run = Run(f"run {index}", config, reference, storage.within("warm", f"run-{index}").root)
            reports = all_reports(link, run)
    assert results(reports) == results(
        alone.metrics.astype(object).where(alone.metrics.notna(), None).to_dict("records")
    )
    assert reports[-1]["gap_s"] < 3, "no process was started for it"


def test_what_goes_wrong_in_a_run_stays_in_it_and_its_workers_are_heard(ray_cluster, prepared, storage, caplog):
    caplog.set_level("INFO", "tgt_ray")
    config = experiment(prepared.experiment)
    reference = (ray.put(prepared.prepared),)
    hopeless = experiment(prepared.experiment, train__optimizer="sgd", train__learning_rate=1e30)
    data = prepared.prepared.student
    unlabelled = {**data.tables, "validation": data.tables["validation"].drop_columns(["label"])}
    incomplete = (ray.put(replace(prepared.prepared, student=replace(data, tables=unlabelled))),)
    with lanes.open_lanes("test of broken runs", config, 1, storage) as link:
        for name, what, rows in (("diverges", hopeless, reference), ("raises", config, incomplete)):
            link.call("submit", Run(name, what, rows, storage.within("broken", name).root))
        good = all_reports(link, Run("good", config, reference, storage.within("broken", "good").root))
        assert "not finite" in link.call("next_report", "diverges", 999).reason
        assert link.call("next_report", "raises", 999).reason.startswith("KeyError")
        resumed = Run("again", config, reference, _damaged(storage.within("broken", "good")).root, "trial again")
        assert all_reports(link, resumed)[-1]["step"] == 120
    assert good[-1]["step"] == 120
    (line,) = [line for line in caplog.messages if "is damaged" in line]
    assert line.startswith("trial again: ") and "goes on from the state before it" in line
    assert not [line for line in caplog.messages if "steps in" in line or "Traceback" in line]


def _damaged(folder: Storage) -> Storage:
    content = Path(folder.path(STATE_FILE)).read_bytes()
    Path(folder.path(STATE_FILE)).write_bytes(content[: len(content) // 2])
    return folder


@pytest.mark.slow
def test_a_space_over_resources_opens_lanes_anew(ray_cluster, prepared, storage):
    values = {"train.steps": 60, "train.eval_every": 60, "explorer.type": "random", "pool.cpus_per_actor": 0.3}
    sweep = SweepConfig.model_validate(
        {
            "experiment": with_overrides(prepared.experiment.model_dump(mode="json"), list(values.items())),
            "space": {"pool.actors": {"choice": [1, 2]}},
            "search": {"algorithm": "grid", "controls": [], "scheduler": "none", "concurrent": 1, "max_rebuilds": 1},
        }
    )
    table = api.run_sweep(sweep, storage=storage.root, name="shapes").trials
    assert set(table.status) == {"finished"} and set(table["pool.actors"]) == {1, 2}
