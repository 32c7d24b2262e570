"""Options that several commands have."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from tgt_ray.core.errors import ConfigError

QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and the result.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print every message, also those of Ray and other libraries.")
]


def level(quiet: bool, verbose: bool) -> int:
    """Return from which level on messages are shown."""
    if quiet and verbose:
        raise ConfigError("--quiet, --verbose: give one of them, or neither")
    return logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
