"""Lets a lane measure a student: its process has torch already, and that of the driver has not."""

from __future__ import annotations

import time
from typing import Any

from ray.exceptions import GetTimeoutError, RayActorError

from tgt_ray.core.storage import Storage
from tgt_ray.distributed.link import Link, following
from tgt_ray.distributed.messages import Run
from tgt_ray.experiment.experiment import Experiment

#: The id of the run that measures.
NAME = "speed"
#: Seconds that lanes may take to be done with their last runs, between two looks at them, and to measure.
TO_END_S, LOOK_S, TO_MEASURE_S = 2.0, 0.05, 60.0


def measured_by_a_lane(
    board: Any, experiment: Experiment, prepared: tuple[Any, ...], folder: Storage
) -> dict[str, Any]:
    """Measure the student in a folder once no lane has anything to do, so that nothing else takes its time.

    No fault of a measurement may cost the result.

    - prepared: as for Run
    - returns: as `tgt_ray.inference.speed.measured`
    """
    run = Run(NAME, experiment, prepared, folder.root, measures=True)
    link = following(board, run)
    try:
        if not _all_idle(link):
            return {"lacking": "no lane was free"}
        link.call("submit", run)
        answer = link.call("next_report", NAME, -1, timeout=TO_MEASURE_S)
    except GetTimeoutError:
        board.cancel.remote(NAME)
        return {"lacking": f"it took more than {TO_MEASURE_S:.0f} s"}
    except RayActorError:
        return {"lacking": "the actor between this process and the lanes was lost"}
    if answer.metrics is None:
        return {"lacking": answer.reason or "it was stopped"}
    found: dict[str, Any] = answer.metrics["speed"]
    return found


def _all_idle(link: Link) -> bool:
    """Wait a moment until the lanes have started and have no run; return whether they have."""
    until = time.monotonic() + TO_END_S
    while True:
        overview = link.call("overview")
        ready = [lane for lane in overview.lanes if lane.ready]
        if ready and not overview.queued and not any(lane.run for lane in ready):
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(LOOK_S)
