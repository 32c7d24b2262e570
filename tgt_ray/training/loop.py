"""Run the training loop. Imports no ray."""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

from tgt_ray.core.batch import Block
from tgt_ray.core.progress import progress
from tgt_ray.results.ledger import summed
from tgt_ray.training.description import TEMPERATURE
from tgt_ray.training.reader import SyntheticReader
from tgt_ray.training.run import StudentRun

log = logging.getLogger(__name__)

#: How many times the loss on a bank's rows that on fresh ones may be before it is said (our choice).
BY_HEART = 1.1


class Hooks(Protocol):
    """What the loop calls while it trains."""

    def snapshot(self, run: StudentRun) -> None:
        """Publish the student; called every pool.snapshot_every steps where the explorer looks at it."""

    def report(self, run: StudentRun, metrics: dict[str, Any]) -> None:
        """Take a report; called at each evaluation. A checkpoint can be written here."""

    def stream_metrics(self) -> dict[str, Any]:
        """Give the generators' own metrics in this session, which become part of the report; called by all workers."""

    def seen_and_fresh(self) -> tuple[Block, Block] | None:
        """Give synthetic rows that came again and again, and some that never came; None: no row came twice."""

    def stopped(self) -> bool:
        """Tell whether to end before the last step; called about every pool.snapshot_every steps."""


def train_student(run: StudentRun, reader: SyntheticReader | None, hooks: Hooks, is_main: bool = True) -> None:
    """Train to the last step; evaluate on validation at each report, and on test once, at the end.

    - reader: serves the synthetic rows; None: the run has none
    - is_main: whether this worker evaluates; the reports of the others are empty
    - raises Diverged: where the loss is no longer finite
    - raises Stopped: where a hook of some worker says to stop
    """
    train, pool = run.experiment.train, run.experiment.pool
    run.student.train()
    if run.step == train.steps and run.history:
        # The run was killed between its last report and its end, so the report may not have arrived.
        hooks.report(run, run.history[-1])
    before = run.history[-1] if run.history else {}
    lap = time.perf_counter()
    with progress("training", train.steps, "steps", done=run.step) as phase:
        while run.step < train.steps:
            run.train_step(reader)
            phase.to(run.step)
            last = run.step == train.steps
            due = last or run.step % train.eval_every == 0
            if due or run.step % pool.snapshot_every == 0:
                run.check(hooks.stopped())
                if run.experiment.explorer.on_policy and not last:
                    hooks.snapshot(run)
            if due:
                run.train_s += time.perf_counter() - lap
                compared = _compared(run, hooks) if last and is_main and reader is not None else {}
                streamed = summed(before, hooks.stream_metrics()) if reader is not None else {}
                report = _report(run, reader, {**compared, **streamed}, last) if is_main else {}
                run.history.append(report)
                hooks.report(run, report)
                lap = time.perf_counter()


def _compared(run: StudentRun, hooks: Hooks) -> dict[str, float]:
    """Compare the student's loss on rows of its bank with that on others, and say where it has learnt them by heart.

    - returns: empty where no row came twice
    """
    rows = hooks.seen_and_fresh()
    if rows is None:
        return {}
    known, new = (run.loss_with(block) for block in rows)
    if new > BY_HEART * known:
        log.warning(
            "pool.bank.rows: the loss on synthetic rows that the student has never seen is %.3g, %.0f %% above the %.3g"
            " on those of its bank, which are too few for so many steps; give more rows",
            new,
            100 * (new / known - 1),
            known,
        )
    return {"loss_seen_rows": known, "loss_fresh_rows": new}


def _report(run: StudentRun, reader: SyntheticReader | None, streamed: dict[str, Any], last: bool) -> dict[str, Any]:
    report: dict[str, Any] = {"step": run.step, **run.train_metrics()}
    with run.evaluation.of_one_student():
        report |= run.evaluation.metrics("validation")
        # The test split is measured only here, after the last decision about this student.
        tested = run.evaluation.metrics("test") if last else {}
        if last and (temperature := run.evaluation.temperature()) is not None:
            report[TEMPERATURE] = temperature
    report["train_s"] = run.train_s
    if reader is not None:
        report |= {
            "wait_share": reader.wait_share(run.train_s),
            "start_wait_s": reader.start_wait_s,
            **reader.lag(),
            **streamed,
        }
    if last:
        run.samples = reader.gallery.samples if reader is not None else []
    return {**report, **{f"test_{name}": value for name, value in tested.items()}}
