"""Writes what TensorBoard shows of a sweep: curves over training steps, and a row of the HParams tab for each trial."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import hparams, scalar

from tgt_ray.core.patience import patiently
from tgt_ray.core.storage import Storage
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.journal import Known
from tgt_ray.sweeps.table import tried

#: The folder of the sweep, and those in it, each with a folder for each trial: its curves, and its scores alone, for
#: the HParams tab.
FOLDER, CURVES, SCORES = "tensorboard", "curves", "hparams"
#: Longest name of a trial's folder.
LONGEST = 120


class Curves:
    """Writes events under names that say what was tried.

    HParams takes the first table of columns that it finds below its folder, so none is written: it then makes one of
    all trials of all sweeps there. Scores have a folder of their own, since it lists whatever lies beside them.

    A storage that is no disk gets copies of the files.
    """

    def __init__(self, sweep: SweepConfig, folder: Storage):
        self.sweep, self.folder = sweep, folder
        self._temporary = None if folder.is_local else TemporaryDirectory(prefix="tgt_ray_curves_")
        here = folder.within(FOLDER).base if self._temporary is None else self._temporary.name
        self._here, self._written = Path(here), Storage(Path(here))
        self._writers: dict[str, Events] = {}

    def reported(self, known: Known) -> None:
        """Write a trial's last report."""
        if known.name not in self._writers:
            self._writers[known.name] = self._open(known, CURVES)
        writer = self._writers[known.name]
        for name, value in known.result.items():
            if name != "step" and _is_number(value):
                writer.add(scalar(name, value), known.step)
        self._flush(writer)

    def ended(self, known: Known) -> None:
        """Write the scores of a trial that has ended."""
        if writer := self._writers.pop(known.name, None):
            self._close(writer)
        metric, result = self.sweep.search.metric, known.result
        found = {k: v for k, v in result.items() if (k == metric or k.startswith("test_")) and _is_number(v)}
        if metric not in found:
            return
        # HParams shows the first five in alphabetical order, and the metric of the search may be called worst_*.
        first = {metric: f"1_validation_{metric}", f"test_{metric}": f"2_test_{metric}"}
        scores = {first.get(name, name): value for name, value in found.items()}
        values = {key: known.values[key] for key in self.sweep.space if key in known.values}
        plain = {k: v if isinstance(v, str | bool | int | float) else str(v) for k, v in values.items()}
        about = {"sweep": Path(self.folder.base).name, "control": known.control or "", **plain}
        _, begin, end = hparams(about, scores)
        writer = self._open(known, SCORES)
        for summary in (begin, end):
            writer.add(summary)
        for name, value in scores.items():
            writer.add(scalar(name, value), known.step)
        self._close(writer)

    def close(self) -> None:
        """Close the files of trials that have not ended."""
        for writer in self._writers.values():
            self._close(writer)
        self._writers = {}
        if self._temporary is not None:
            self._temporary.cleanup()

    def _open(self, known: Known, kind: str) -> Events:
        called = f"{known.number:02} {tried(self.sweep, known.values)}"
        place = self._here / kind / re.sub(r"[^\w .,=+-]", "_", called)[:LONGEST].strip()

        def begin() -> Events:
            with self._written.writing():
                return Events(place)

        return patiently(begin)

    def _flush(self, writer: Events) -> None:
        """Bring what a writer has been given to the disk, or to a storage that is none."""

        def flush() -> None:
            with self._written.writing():
                writer.flush()  # what a disk doesn't take waits for the next time
            if self._temporary is not None:
                for file in writer.folder.iterdir():
                    self.folder.write(file.read_bytes(), FOLDER, *file.relative_to(self._here).parts)

        patiently(flush)

    def _close(self, writer: Events) -> None:
        self._flush(writer)
        with self._written.writing():
            writer.close()


class Events(EventsWriter):
    """Writes events into a new file of a folder.

    tensorboardX's own `SummaryWriter` leaves that to a thread: where the disk is full, it dies, and whoever gives it
    more waits for ever.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        super().__init__(str(folder / "events"))

    def add(self, summary: Any, step: int | None = None) -> None:
        self.write_event(Event(summary=summary, wall_time=time.time(), step=step))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
