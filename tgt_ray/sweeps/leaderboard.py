"""Shows a sweep while it runs, and rewrites the files of its table whenever a trial ends."""

from __future__ import annotations

import logging
import sys
import time

import pandas as pd
from rich.console import Console
from rich.live import Live

from tgt_ray.core import records
from tgt_ray.core.owner import Held
from tgt_ray.core.progress import FIRST_S, next_line_s
from tgt_ray.sweeps.config import SweepConfig
from tgt_ray.sweeps.journal import Journal, Known
from tgt_ray.sweeps.screen import Pace, line_of, screen
from tgt_ray.sweeps.table import line, trial_table
from tgt_ray.sweeps.watch import Watch

log = logging.getLogger(__name__)

#: Seconds between two looks at the trials.
DRAWN_EVERY_S = 0.5
#: What Tune says of trials that go on.
LIVE = ("pending", "running")


def _draws() -> bool:
    """Return whether there is a terminal to draw in, and messages are shown there."""
    return sys.stdout.isatty() and log.isEnabledFor(logging.INFO)


class Leaderboard:
    """Shows a sweep on one screen in a terminal; elsewhere prints a line for each trial that ends, and how far it is.

    It keeps trials.csv and trials.parquet in the sweep's folder up to date.

    - journal: of the sweep
    - board: the name of the board of its lanes
    """

    def __init__(self, sweep: SweepConfig, held: Held, journal: Journal, board: str):
        self.sweep, self.held, self.journal = sweep, held, journal
        self.pace, self._watch = Pace(), Watch(board)
        self._live: Live | None = None
        self._now: dict[str, str] = {}
        self._drawn, self._due = 0.0, FIRST_S

    def look(self, now: dict[str, str]) -> None:
        """Show how far it is, at most twice a second.

        - now: what trials do, by id
        """
        self._now = {name: status for name, status in now.items() if status in LIVE}
        if now and self.pace.began is None:
            self.pace.begin(time.monotonic(), self._table())
        if self.pace.began is None or time.monotonic() - self._drawn < DRAWN_EVERY_S:
            return
        self._drawn = time.monotonic()
        seconds = self._drawn - self.pace.began
        if _draws():
            self._draw(self._table(), seconds)
        elif seconds >= self._due:
            table = self._table()
            log.info(line_of(self.sweep, table, seconds, self.pace.left_s(self.sweep, table, self._drawn)))
            self._due = next_line_s(seconds)

    def _table(self) -> pd.DataFrame:
        return trial_table(self.sweep, self.journal.trials.values(), self._now)

    def _draw(self, table: pd.DataFrame, seconds: float) -> None:
        if self._live is None:
            # Transient, since the sweep's last lines show the final table.
            self._live = Live(console=Console(), auto_refresh=False, transient=True)
            self._live.start()
        left, size = self.pace.left_s(self.sweep, table, self._drawn), self._live.console.size
        drawn = screen(self.sweep, table, self._watch.look(), seconds, left, size.width, size.height)
        self._live.update(drawn, refresh=True)

    def ended(self, known: Known) -> None:
        """Write the table, and a line of a trial that has ended."""
        table = self.write()
        if not _draws():
            row = table[table.trial == known.name].iloc[0]
            log.info(line(self.sweep, row, self.journal.ended, self.sweep.num_trials))

    def write(self) -> pd.DataFrame:
        """Write the table of all trials; return it."""
        table = self._table()
        self.held.patiently(lambda: records.write_table(self.held.folder, table, "trials"))
        return table

    def close(self) -> None:
        """Write the table for the last time; trials that have not ended are interrupted."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._now = {}
        self.write()
