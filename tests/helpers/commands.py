"""Runs commands as a user types them, in this process."""

import sys
from collections.abc import Callable

import pytest

from tgt_ray.entrypoints import cli


def command(monkeypatch: pytest.MonkeyPatch, *args: object, of: tuple[Callable[..., None], ...] = ()) -> int:
    """Run `python -m tgt_ray ARGS`, and return its exit code.

    - of: the commands that there are, as the doors `train` and `sweep` have one; none: all
    """
    monkeypatch.setattr(sys, "argv", ["tgt-ray", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        cli.main(*of)
    return int(ended.value.code or 0)
