"""What a task says is said where it was called."""

import logging

import pytest

from tgt_ray.core import progress
from tgt_ray.distributed.task_lines import run_and_say


def work(number: int) -> int:
    progress.FIRST_S = 0.0  # the process is the task's own
    with progress.progress("pretraining the labeler", 2, "steps") as phase:
        phase.advance()
    logging.getLogger("tgt_ray.somewhere").warning("100 %% of %s", "it")
    return number + 1


def fail() -> None:
    logging.getLogger("tgt_ray").info("so far so good")
    raise ValueError("no further")


@pytest.mark.ray
def test_lines_and_progress_of_a_task_reach_the_caller(ray_cluster, caplog):
    caplog.set_level("INFO", "tgt_ray")
    assert run_and_say(work, {"num_cpus": 0}, 1) == 2
    assert [line[:44] for line in caplog.messages] == ["pretraining the labeler: 1 of 2 steps in 0 s", "100 % of it"]
    assert [(each.name, each.levelname) for each in caplog.records][1] == ("tgt_ray.somewhere", "WARNING")


@pytest.mark.ray
def test_what_was_said_before_an_error_is_said(ray_cluster, caplog):
    caplog.set_level("INFO", "tgt_ray")
    with pytest.raises(ValueError, match="no further"):
        run_and_say(fail, {"num_cpus": 0})
    assert "so far so good" in caplog.messages
