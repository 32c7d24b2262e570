"""Floor 7: the command lines of `python -m tgt_ray.train` and `python -m tgt_ray.sweep`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tgt_ray.core.config import Config
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import load_yaml, parse_override
from tgt_ray.core.memory import keep_freed_memory
from tgt_ray.entrypoints import api
from tgt_ray.entrypoints.summary import print_result
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps.config import SweepConfig, default_sweep

Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a dotted key, such as train.steps=500. Repeatable."),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Folder or URI for results, teachers and the teacher cache. Default: results; in a Ray job: ~/tgt_ray_results.",
    ),
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Folder of this run below the storage. Default: a new one.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run of that --name.")]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Refuse to start where the teacher's fit check is below its minimum.")
]
SchemaOption = Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the file and exit.")]


def train(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="EXPERIMENT.yaml", help="An experiment; absent: the default on digits."),
    ] = None,
    sets: Sets = None,
    storage: StorageOption = None,
    name: NameOption = None,
    resume: ResumeOption = False,
    strict: StrictOption = False,
    local: Annotated[bool, typer.Option("--local", help="Run in this process, without Ray.")] = False,
    schema: SchemaOption = False,
) -> None:
    """Train one student with its teacher, and measure it on the test split once, at the end."""
    if schema:
        return _print_schema(Experiment)
    sets = [*(sets or []), *(["fit_check.on_low=fail"] if strict else [])]
    source = None if resume and file is None and not sets else _data(file, sets, {})
    if local:
        keep_freed_memory()  # this process is ours alone, as Ray's workers are
    result = api.run(source, storage=storage, name=name, local=local, resume=resume)
    last = result.metrics.iloc[-1]
    shown = {key: f"{last[key]:.2f}" for key in last.index if key.startswith("test_")}
    print(f"student and records in {result.folder}; {', '.join(f'{k} {v}' for k, v in shown.items())}")
    return None


def sweep(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="SWEEP.yaml", help="A sweep; absent: the default sweep on digits."),
    ] = None,
    sets: Sets = None,
    storage: StorageOption = None,
    name: NameOption = None,
    resume: ResumeOption = False,
    strict: StrictOption = False,
    schema: SchemaOption = False,
) -> None:
    """Search the space of a sweep with Ray Tune, and keep the best student."""
    if schema:
        return _print_schema(SweepConfig)
    sets = [*(sets or []), *(["experiment.fit_check.on_low=fail"] if strict else [])]
    if resume and (file is not None or sets):
        raise ConfigError(
            "--resume: takes its settings from the sweep's folder; give no file, no --set and no --strict"
        )
    result = api.run_sweep(
        None if resume else _data(file, sets, default_sweep()), storage=storage, name=name, resume=resume
    )
    print_result(result)
    if result.interrupted:
        raise typer.Exit(130)
    if result.best is None:
        raise typer.Exit(1)
    return None


def _data(file: Path | None, sets: list[str] | None, default: dict[str, Any]) -> api.Source:
    data = default if file is None else load_yaml(file)
    return api.Source(data, where=str(file) if file else "", overrides=[parse_override(text) for text in sets or []])


def _print_schema(cls: type[Config]) -> None:
    print(json.dumps(cls.model_json_schema(), indent=2))


def main(command: Callable[..., None]) -> None:
    """Run a command: bad input is one line on stderr and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("tgt_ray").setLevel(logging.INFO)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    try:
        app()
    except ConfigError as err:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {err}", markup=False)
        sys.exit(2)
    except api.RunFailed as err:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"failed: {err}", markup=False)
        sys.exit(1)
