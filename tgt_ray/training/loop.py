"""The training loop, without Ray."""

from __future__ import annotations

import time
from typing import Any, Protocol

from tgt_ray.training.reader import SyntheticReader
from tgt_ray.training.run import StudentRun


class Hooks(Protocol):
    """What the loop tells the world."""

    def snapshot(self, run: StudentRun) -> None:
        """Every pool.snapshot_every steps, where the explorer looks at the student."""

    def report(self, run: StudentRun, metrics: dict[str, Any]) -> None:
        """At each evaluation; a checkpoint can be taken here."""

    def stream_metrics(self) -> dict[str, float]:
        """What the generators say of themselves."""

    def stopped(self) -> bool:
        """Whether to end before the last step; asked about every pool.snapshot_every steps."""


def train_student(run: StudentRun, reader: SyntheticReader | None, hooks: Hooks, is_main: bool = True) -> None:
    """Train to the last step. Evaluates on validation at each report, and on test once, at the end. Raises Diverged, Stopped."""
    train, pool = run.experiment.train, run.experiment.pool
    run.student.train()
    if run.step == train.steps and run.history:
        # Killed between its last report and its end: who waits for the report may have missed it.
        hooks.report(run, run.history[-1])
    lap = time.perf_counter()
    while run.step < train.steps:
        run.train_step(reader)
        last = run.step == train.steps
        due = last or run.step % train.eval_every == 0
        if due or run.step % pool.snapshot_every == 0:
            run.check(hooks.stopped())
            if run.experiment.explorer.on_policy and not last:
                hooks.snapshot(run)
        if due:
            elapsed = time.perf_counter() - lap
            run.train_s += elapsed
            run.session_s += elapsed
            report = _report(run, reader, hooks, last) if is_main else {}
            run.history.append(report)
            hooks.report(run, report)
            lap = time.perf_counter()


def _report(run: StudentRun, reader: SyntheticReader | None, hooks: Hooks, last: bool) -> dict[str, Any]:
    report: dict[str, Any] = {"step": run.step, **run.train_metrics(), **run.evaluation.metrics("validation")}
    report["train_s"] = run.train_s
    if reader is not None:
        busy = max(run.session_s - reader.start_wait_s, 1e-9)
        report |= {
            "wait_share": reader.wait_s / busy,
            "start_wait_s": reader.start_wait_s,
            **reader.lag(),
            **hooks.stream_metrics(),
        }
    if last:
        run.samples = reader.gallery.samples if reader is not None else []
        # The only look at the test split, after the last decision about this student.
        report |= {f"test_{name}": value for name, value in run.evaluation.metrics("test").items()}
    return report
