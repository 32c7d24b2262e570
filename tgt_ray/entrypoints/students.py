"""Provides the commands that use a trained student."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from tgt_ray.core.errors import ConfigError
from tgt_ray.entrypoints import spread, terminal
from tgt_ray.entrypoints.options import QuietOption, VerboseOption, level

log = logging.getLogger(__name__)

FormatName = Literal["safetensors", "transformers", "timm", "sentence-transformers", "onnx", "pt2"]
#: Inputs of a file that `predict --ray` writes.
ROWS_PER_PART = 4096
FolderArgument = Annotated[
    str,
    typer.Argument(metavar="FOLDER", help="Folder or URI of a run, a trial, a sweep (its best student), an export."),
]
ColumnOption = Annotated[
    str | None,
    typer.Option("--column", metavar="NAME", help="The column of the inputs. Default: as in the student's own data."),
]
PairOption = Annotated[
    str | None, typer.Option("--pair-column", metavar="NAME", help="The same, of second sentences of pairs.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="Of torch: cpu, cuda, cuda:1, mps.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="End at the first input that can't be used.")]
BatchOption = Annotated[
    int | None, typer.Option("--batch-size", min=1, help="Inputs at once. Default: as many as a little memory holds.")
]

RayOption = Annotated[
    bool,
    typer.Option(
        "--ray",
        help="Share the work over a Ray cluster, or all cores: --out becomes a folder with numbered Parquet files."
        " Given again, the command goes on where it was broken off.",
    ),
]


def predict(
    folder: FolderArgument,
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A folder of images; an image; a .parquet, .csv, .tsv or .jsonl file; a text file with a path or a"
            " text on each line; - for such lines from standard input.",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            help="File to write: .parquet, .csv or .jsonl. Default: CSV on standard output. With --ray: a folder or"
            " URI.",
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes, or documents, to name.")] = 1,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write the probability of each class.")
    ] = False,
    embedding: Annotated[bool, typer.Option("--embedding", help="Also write what the student's head sees.")] = False,
    column: ColumnOption = None,
    pair: PairOption = None,
    device: DeviceOption = "cpu",
    batch_size: BatchOption = None,
    strict: StrictOption = False,
    on_ray: RayOption = False,
    rows_per_part: Annotated[
        int | None, typer.Option("--rows-per-part", min=1, help="With --ray: inputs of a file. Default: 4096.")
    ] = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Predict the class of each input, or find documents for each query."""
    from tgt_ray.inference import prediction
    from tgt_ray.inference.loading import load_student
    from tgt_ray.inference.predictions import check_folder, check_target

    if rows_per_part is not None and not on_ray:
        raise ConfigError("--rows-per-part: has no effect without --ray; leave it out")
    parts, target = (check_folder(out), None) if on_ray else ("", check_target(out))
    # On Ray standard error has what libraries say, and standard output no predictions.
    with (
        terminal.messages(level(quiet, verbose), to="stdout" if on_ray else "stderr"),
        _says_interrupted(_left(parts, target)),
    ):
        student = load_student(folder, "cpu" if on_ray else device)
        wanted = prediction.wanted(student, column, pair)
        asked = prediction.Asked(top, probabilities, embedding, batch_size, strict)
        if on_ray:
            spread.predict(student, folder, source, wanted, asked, parts, device, rows_per_part or ROWS_PER_PART)
        else:
            prediction.predict(student, source, wanted, asked, target)


def serve(
    folder: FolderArgument,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on. With 0.0.0.0 other machines reach it: no password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    replicas: Annotated[
        int, typer.Option("--replicas", min=1, help="Processes that answer, each on a CPU, or on a GPU.")
    ] = 1,
    device: Annotated[str, typer.Option("--device", help="Of torch: cpu, cuda, mps.")] = "cpu",
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="Inputs that are computed together.")] = 64,
    batch_wait_ms: Annotated[
        float, typer.Option("--batch-wait-ms", min=0, max=10_000, help="How long an input waits for others.")
    ] = 2.0,
    max_request_mb: Annotated[
        float, typer.Option("--max-request-mb", min=0.001, max=2000, help="Size of a request. Larger: status 413.")
    ] = 16.0,
    max_inputs: Annotated[int, typer.Option("--max-inputs", min=1, help="Inputs of a request.")] = 256,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Answer HTTP requests with a student, until Ctrl-C."""
    with terminal.messages(level(quiet, verbose)), _says_interrupted("the service had not begun, and has ended"):
        # Here, since a service is often started and ended by hand, and these take seconds.
        from tgt_ray.core.kept import find
        from tgt_ray.distributed import serving
        from tgt_ray.distributed.service_settings import Settings
        from tgt_ray.inference.loading import load_student

        settings = Settings(host, port, replicas, device, max_batch, batch_wait_ms, max_request_mb, max_inputs)
        serving.check(settings)
        load_student(folder)  # so that a bad folder is said before anything is started
        serving.run(find(folder).root, settings)


def evaluate(
    folder: FolderArgument,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A folder with a folder of images for each class, or a .parquet, .csv, .tsv or .jsonl file.",
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Also write everything as JSON there.")] = None,
    column: ColumnOption = None,
    pair: PairOption = None,
    label: Annotated[
        str | None,
        typer.Option(
            "--label-column", metavar="NAME", help="The column of classes. Default: as in the student's data."
        ),
    ] = None,
    device: DeviceOption = "cpu",
    batch_size: BatchOption = None,
    strict: StrictOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Measure a student on other data with the same names of classes."""
    from tgt_ray.inference import prediction
    from tgt_ray.inference.loading import load_student
    from tgt_ray.inference.predictions import check_file

    if out is not None:
        check_file(out)
    left = "nothing was written" if out is None else f"nothing was written to {out}"
    with terminal.messages(level(quiet, verbose), to="stderr"), _says_interrupted(left):
        student = load_student(folder, device)
        wanted = prediction.wanted(student, column, pair, label, labelled=True)
        found = prediction.evaluate(student, data, wanted, batch_size, strict)
    prediction.show(found)
    if out is not None:
        try:
            out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        except OSError as err:
            raise ConfigError(f"--out {out}: cannot be written ({err.strerror})") from err


def export(
    folder: FolderArgument,
    form: Annotated[FormatName, typer.Option("--format", help="What to write.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder.")],
    int8: Annotated[
        bool, typer.Option("--int8", help="onnx: also with 8 bits, with its accuracy, size and latency beside float's.")
    ] = False,
    with_document_tower: Annotated[
        bool, typer.Option("--with-document-tower", help="Retrieval: with what embeds new documents.")
    ] = False,
    storage: Annotated[
        str | None,
        typer.Option("--storage", help="Keeps what reading the student's data makes. Default: that of the student."),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="NAME",
            help="Of the student, for its card, such as apache-2.0. Asked for in a terminal.",
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="OWNER/NAME", help="Also upload it to the hub of Hugging Face, as private."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: everybody may see it.")] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Write a student in a format that other programs open, with a model card."""
    from tgt_ray.core.storage import Storage
    from tgt_ray.inference.export import export_student
    from tgt_ray.inference.export.base import Options
    from tgt_ray.inference.export.int8 import show
    from tgt_ray.inference.loading import load_student
    from tgt_ray.inference.origin import origin_of
    from tgt_ray.inference.sharing import check_push
    from tgt_ray.inference.sharing import push as upload

    check_push(push, public)
    with terminal.messages(level(quiet, verbose), to="stderr"), _says_interrupted(f"nothing was written to {out}"):
        student = load_student(folder)
        licence = _asked_for() if licence is None and not quiet and terminal.can_ask() else licence
        root = Storage(storage) if storage is not None else origin_of(student.storage).storage
        root = root or student.storage.above() or student.storage
        record = export_student(student, form, out, root, Options(int8, with_document_tower), licence)
        with _says_interrupted(f"the export stays in {out}, and the upload isn't over"):
            address = upload(out, push, public) if push is not None else None
    if int8:
        show(record["precisions"])
    print(out if address is None else address)


def _left(parts: str, target: Path | None) -> str:
    """Say what a prediction leaves that is interrupted.

    - parts: the folder of numbered files; "": there is none
    - target: the file; None: standard output
    """
    if parts:
        return f"what is done stays in {parts}, and the same command goes on"
    return "standard output has the first rows alone" if target is None else f"nothing was written to {target}"


@contextmanager
def _says_interrupted(left: str) -> Iterator[None]:
    """End the command with a line and the exit code of an interruption where a user presses Ctrl-C.

    - left: what is there then
    """
    try:
        yield
    except KeyboardInterrupt:
        log.warning("interrupted: %s", left)
        raise typer.Exit(130) from None


def _asked_for() -> str | None:
    """Ask for the licence of a student; None where the user gives none."""
    # On stderr, since what the command prints is the folder alone.
    typer.echo("Licence of the student, for its card, such as apache-2.0 (empty: none): ", err=True, nl=False)
    return sys.stdin.readline().strip() or None
