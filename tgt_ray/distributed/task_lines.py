"""Runs a function in a task of Ray, and says here what it says there: its messages, and how far it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.queue import Queue

from tgt_ray.distributed.cluster import beside_the_caller
from tgt_ray.distributed.lines import handed_on, say

#: Seconds between two looks at what the task has said.
LOOK_EVERY_S = 0.5


def run_and_say(function: Callable[..., Any], options: dict[str, Any], *args: Any) -> Any:
    """Run a function in a task, in a process that ends with it, and log here what the project logs there.

    - options: the task's, as Ray takes them
    - args: what the function is called with, or references to it
    - raises ray.exceptions.RayTaskError: for an error of the function
    """
    lines = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": beside_the_caller()})
    task = ray.remote(max_calls=1)(_said).options(**options).remote(function, lines, *args)
    try:
        while not ray.wait([task], timeout=LOOK_EVERY_S)[0]:
            _log(lines)
        return ray.get(task)
    finally:
        _log(lines)
        lines.shutdown(force=True)


def _log(lines: Queue) -> None:
    with suppress(RayError):  # its actor was lost: the task goes on, without a word
        say(lines.get_nowait_batch(lines.qsize()))


def _said(function: Callable[..., Any], lines: Queue, *args: Any) -> Any:
    with handed_on(lines.put):
        return function(*args)
