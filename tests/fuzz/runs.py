"""How many cases the fuzzers try: some hundred by default, thousands with `make test-all`."""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

FEW, MANY = 100, 10_000


def fuzzed(few: int = FEW, many: int = MANY) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let a property test run with few examples, and as a slow test with many; the same ones each time."""

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        def run(given_test: Any, count: int) -> None:
            how = settings(
                max_examples=count,
                derandomize=True,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            how(given_test)()

        sizes = [few, pytest.param(many, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]

        @pytest.mark.parametrize("examples", sizes)
        def sized(examples: int) -> None:
            run(test, examples)

        sized.__name__, sized.__doc__ = test.__name__, test.__doc__
        return sized

    return decorate


def scratch(name: str) -> Path:
    """A folder for what all cases of this process start from; it is removed at the process's end."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
