"""Runs that are stopped at one of their reports, and what is left of them."""

from tgt_ray.training import checkpoint
from tgt_ray.training.run import StudentRun


class Killed(Exception):
    pass


def kill_at(step: int):
    def report(metrics):
        if metrics["step"] == step:
            raise Killed

    return report


def killed(metrics):
    raise Killed


def interrupted(headline, metrics):
    """As what is called at each report of a run that somebody looks at."""
    raise KeyboardInterrupt


def weights_of(run: StudentRun) -> bytes:
    return checkpoint.weights(run.student)
