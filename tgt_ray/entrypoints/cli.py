"""Provides the command line: `python -m tgt_ray COMMAND`, or `tgt-ray COMMAND`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from tgt_ray.core import ends
from tgt_ray.core.errors import ConfigError, RunFailed
from tgt_ray.entrypoints import terminal
from tgt_ray.entrypoints.options import QuietOption, VerboseOption, level
from tgt_ray.entrypoints.students import evaluate, export, predict, serve

if TYPE_CHECKING:
    from tgt_ray.core.config import Config
    from tgt_ray.entrypoints.api import Source

Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a dotted key, such as train.steps=500. Repeatable."),
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Folder or URI for results, teachers and the teacher cache."
        " Default: results; in a Ray job: ~/tgt_ray_results.",
    ),
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Folder of this run inside the storage. Default: a new one.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue the run of that --name.")]
StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse to start where the teacher fits badly, or data leaks between splits.",
    ),
]
SchemaOption = Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the file and exit.")]
TeacherOption = Annotated[
    str,
    typer.Option(
        "--teacher", metavar="NAME", help="Who has labelled them; explorer: {type: imported, teacher: NAME} uses them."
    ),
]
LogitsOption = Annotated[
    str | None,
    typer.Option(
        "--logits",
        metavar="COLUMN",
        help="The column with a list of a logit for each class; with {class} in its name, a column for each class.",
    ),
]
ClassOption = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        metavar="NAME",
        help="Names of the classes in the order of a list's numbers. Repeatable. Default: the data's order.",
    ),
]
FloorOption = Annotated[
    float | None,
    typer.Option(
        "--floor",
        min=1e-30,
        max=0.1,
        help="Probabilities below are raised to it, since the logarithm of 0 isn't finite. Default: 1e-6.",
    ),
]

#: With what a command ends that was interrupted, before it is said by which signal.
INTERRUPTED = 130

#: What `--strict` sets.
STRICT = ("fit_check.on_low=fail", "task.on_leaks=fail")


def train(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="EXPERIMENT.yaml", help="An experiment. Default: long-tailed digits."),
    ] = None,
    sets: Sets = None,
    storage: StorageOption = None,
    name: NameOption = None,
    resume: ResumeOption = False,
    strict: StrictOption = False,
    local: Annotated[bool, typer.Option("--local", help="Run in this process, without Ray.")] = False,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FOLDER",
            help="Begin with the weights of the student of a run, a trial, a sweep or an export (train.start_from).",
        ),
    ] = None,
    schema: SchemaOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train one student with its teacher, and measure it on the test split once, at the end."""
    # Imported here, as in the other commands, since these imports would make --help slow.
    from tgt_ray.core.memory import keep_freed_memory
    from tgt_ray.entrypoints import api
    from tgt_ray.experiment.experiment import Experiment

    if schema:
        return _print_schema(Experiment)
    sets = [*(sets or []), *(STRICT if strict else [])]
    source = None if resume and file is None and not sets and start_from is None else _data(file, sets, {})
    if local:
        keep_freed_memory()  # safe, since nothing else runs in this process
    with terminal.messages(level(quiet, verbose)):
        result = api.run(source, storage=storage, name=name, local=local, resume=resume, start_from=start_from)
    print(result)
    return None


def sweep(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="SWEEP.yaml", help="A sweep. Default: long-tailed digits."),
    ] = None,
    sets: Sets = None,
    storage: StorageOption = None,
    name: NameOption = None,
    resume: ResumeOption = False,
    fork: Annotated[
        str | None,
        typer.Option(
            "--fork",
            metavar="NAME",
            help="Start a new sweep of this name with the settings that the sweep --name has now, and with --set. It"
            " finds teacher and synthetic rows in the storage.",
        ),
    ] = None,
    strict: StrictOption = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print trials, controls, resources and what they take; train nothing."),
    ] = False,
    schema: SchemaOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Search the space of a sweep with Ray Tune, and keep the best student."""
    from tgt_ray.core.loading import parse_override
    from tgt_ray.entrypoints import api
    from tgt_ray.entrypoints.summary import print_result
    from tgt_ray.sweeps.config import SweepConfig, default_sweep

    if schema:
        return _print_schema(SweepConfig)
    if resume and (file is not None or strict):
        raise ConfigError("--resume: takes its settings from the sweep's folder; give no file and no --strict")
    if fork is not None and (resume or file is not None):
        raise ConfigError(
            "--fork: begins a new sweep with the settings of the sweep --name; give no file and no --resume"
        )
    sets = [*(sets or []), *(f"experiment.{each}" for each in STRICT if strict)]
    if dry_run:
        if resume or fork is not None:
            raise ConfigError("--dry-run: shows a new sweep; it can't go together with --resume or --fork")
        return _print_plan(_data(file, sets, default_sweep()), storage)
    with terminal.messages(level(quiet, verbose)):
        values = [parse_override(text) for text in sets] if resume or fork is not None else ()
        if fork is not None:
            result = api.run_sweep(api.fork_of(name, storage, values), storage=storage, name=fork)
        else:
            config = None if resume else _data(file, sets, default_sweep())
            result = api.run_sweep(config, storage=storage, name=name, resume=resume, sets=values)
    if quiet:  # else it was said with the messages
        print_result(result, with_table=False)
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)
    if result.best is None:
        raise typer.Exit(1)
    return None


def data(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="EXPERIMENT.yaml", help="An experiment or a sweep. Default: long-tailed digits."),
    ] = None,
    sets: Sets = None,
    storage: StorageOption = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write a page with samples of each class there.")
    ] = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show the data of an experiment before anything is trained: splits, classes, sizes, what is left out, leaks."""
    from tgt_ray.entrypoints import api
    from tgt_ray.results import data_page

    source = _experiment(file, sets)
    with terminal.messages(level(quiet, verbose)):
        task, found = api.read_data(source, storage)
    data_page.show(task, found)
    if html is not None:
        _write_page(html, "--html", data_page.page(task, found))


def bank(
    action: Annotated[
        Literal["import"],
        typer.Argument(metavar="import", help="Bring rows that were made and labelled elsewhere into the storage."),
    ],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Parquet files with such rows.")],
    experiment: Annotated[
        Path,
        typer.Option("--experiment", metavar="EXPERIMENT.yaml", help="An experiment or a sweep with the rows' task."),
    ],
    teacher: TeacherOption,
    logits: LogitsOption = None,
    probabilities: Annotated[
        str | None, typer.Option("--probabilities", metavar="COLUMN", help="The same with probabilities.")
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option("--inputs", metavar="COLUMN", help="The column of texts or images. Default: that of the data."),
    ] = None,
    classes: ClassOption = None,
    floor: FloorOption = None,
    sets: Sets = None,
    storage: StorageOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Bring synthetic rows that somebody has made and labelled already into the storage, for students to learn from."""
    from tgt_ray.entrypoints import api

    with terminal.messages(level(quiet, verbose)):
        folder, record = api.import_rows(
            files, _experiment(experiment, sets), teacher, logits, probabilities, inputs, classes or (), floor, storage
        )
    print(f"{folder.shown}: {record['rows']} rows; use them by explorer: {{type: imported, teacher: {teacher}}}")


def report(
    folders: Annotated[list[str], typer.Argument(metavar="FOLDER...", help="Folders or URIs of runs and sweeps.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The page to write. Default: report.html, in the folder if there is only one."),
    ] = None,
) -> None:
    """Write one HTML page about runs and sweeps from their records: comparison, curves, trials, teacher, pictures."""
    from tgt_ray.core.storage import Storage
    from tgt_ray.results.report import REPORT_FILE
    from tgt_ray.results.report import report as page

    there = [Storage(folder) for folder in folders]
    content = page(there)
    if out is not None or len(there) > 1:
        _write_page(out or Path(REPORT_FILE), "--out", content)
    else:
        there[0].write(content, REPORT_FILE)
        print(there[0].where(REPORT_FILE))


class Action(StrEnum):
    """What the command `storage` does."""

    LS = "ls"
    RM = "rm"
    GC = "gc"
    VERIFY = "verify"


def storage(
    action: Annotated[
        Action,
        typer.Argument(
            help="ls: list kind, name, size, age and who needs it. rm: remove things by name. gc: remove what no run or"
            " sweep needs, and half-written files of processes that are gone. verify: compare all files with their"
            " checksums; exit code 1 where one is damaged."
        ),
    ],
    root: Annotated[str, typer.Argument(metavar="STORAGE", help="Folder or URI.")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="For rm: names as ls lists them.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="rm, gc: only say what would be removed.")] = False,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="TIME", help="gc: only what has been unused for so long, as 30d or 12h."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="rm: also what a run or sweep needs.")] = False,
) -> None:
    """List, remove and check what a storage holds: runs, teachers, caches, synthetic rows. Never what is in use."""
    from tgt_ray.core.storage import Storage
    from tgt_ray.entrypoints import storage as commands

    given = {"--dry-run": dry_run, "--older-than": older_than is not None, "--force": force, "NAME": bool(names)}
    takes = {Action.RM: {"--dry-run", "--force", "NAME"}, Action.GC: {"--dry-run", "--older-than"}}.get(action, set())
    if wrong := [name for name, there in given.items() if there and name not in takes]:
        raise ConfigError(f"storage {action}: takes no {wrong[0]}; see storage --help")
    if action == Action.RM and not names:
        raise ConfigError("storage rm: give the names of what is to be removed, as storage ls lists them")
    there = Storage(root)
    with terminal.messages():
        if action == Action.LS:
            commands.show(there)
        elif action == Action.RM:
            commands.remove(there, names or [], force, dry_run)
        elif action == Action.GC:
            commands.collect(there, older_than, dry_run)
        else:
            commands.verify(there)


def _write_page(target: Path, option: str, content: bytes) -> None:
    try:
        target.write_bytes(content)
    except OSError as err:
        raise ConfigError(f"{option} {target}: cannot be written ({err.strerror})") from err
    print(target)


def _data(file: Path | None, sets: list[str] | None, default: dict[str, Any]) -> Source:
    from tgt_ray.core.loading import load_yaml, parse_override
    from tgt_ray.entrypoints.api import Source

    data = default if file is None else load_yaml(file)
    return Source(data, where=str(file) if file else "", overrides=[parse_override(text) for text in sets or []])


def _experiment(file: Path | None, sets: list[str] | None) -> Source:
    """Return the experiment of a file, which may be a sweep's."""
    source = _data(file, sets, {})
    of_sweep = {"experiment", "space"} & set(source.data)
    return replace(source, data=source.data.get("experiment", {})) if of_sweep else source


def _print_plan(source: Source, storage: str | None) -> None:
    from tgt_ray.core.storage import Storage
    from tgt_ray.entrypoints.api import default_storage
    from tgt_ray.sweeps.config import SweepConfig
    from tgt_ray.sweeps.dry_run import plan

    sweep = source.build(SweepConfig)
    sweep.check_files()
    for line in plan(sweep, Storage(storage if storage is not None else default_storage())):
        print(line)


def _print_schema(cls: type[Config]) -> None:
    print(json.dumps(cls.model_json_schema(), indent=2))


COMMANDS = (train, sweep, predict, serve, evaluate, export, data, bank, report, storage)


def main(*commands: Callable[..., None]) -> None:
    """Run the command that the process was started with.

    Bad input ends it with one line on stderr and exit code 2, a run that failed with one line and exit code 1.

    - commands: those to offer; none: all
    """
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        no_args_is_help=not commands,
        help="Teacher-guided training.",
    )
    for command in commands or COMMANDS:
        app.command()(command)
    try:
        with ends.in_order():
            app()
    except (SystemExit, Exception) as err:
        if (reason := ends.failure()) is not None:  # whatever has followed from it
            _end(f"failed: {reason}", 1)
        if isinstance(err, SystemExit):
            sys.exit(ends.exit_code() if err.code == INTERRUPTED else err.code)
        if isinstance(err, ConfigError):
            _end(f"error: {err}", 2)
        if isinstance(err, RunFailed):
            _end(f"failed: {err}", 1)
        raise


def _end(line: str, code: int) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(line, markup=False, emoji=False)
    sys.exit(code)
