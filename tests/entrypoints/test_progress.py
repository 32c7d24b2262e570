"""What a single run on Ray says of its progress, without Ray: its reports come from a list."""

from types import SimpleNamespace

import pytest

from tgt_ray.core import progress
from tgt_ray.distributed.messages import Answer
from tgt_ray.entrypoints import api
from tgt_ray.experiment.experiment import Experiment


@pytest.mark.parametrize(
    "steps, lines",
    [
        ((50, 100, 150, 200), ["100 of 1,000 steps in 10 s, about 3 min left", "150 of 1,000 steps in 20 s"]),
        ((600, 650), ["650 of 1,000 steps in 10 s, about 1 min 10 s left"]),  # resumed
        ((), []),
    ],
)
def test_a_run_on_ray_says_at_its_reports_what_is_left(monkeypatch, caplog, steps, lines):
    caplog.set_level("INFO", "tgt_ray")
    now, history = [100.0], [{"step": step, "balanced_accuracy": 50.0} for step in steps]
    answers = [*(Answer(each) for each in history), Answer(None, None, history)]

    def call(method: str, run_id: str, after: int) -> Answer:
        assert method == "next_report"
        now[0] += 10
        return answers[sum(step <= after for step in steps)]

    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    config = Experiment.model_validate({"train": {"steps": 1000}})
    assert api._followed(config, SimpleNamespace(call=call), "run") == answers[-1]
    assert [line for line in caplog.messages if line.startswith("step ")] == [
        f"step {step}: balanced_accuracy 50" for step in steps
    ]
    said = [line for line in caplog.messages if line.startswith("training: ")]
    assert len(said) == len(lines) and all(part in line for part, line in zip(lines, said, strict=True))
