"""Counts what rows have cost, and what the bank has saved."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Ledger:
    """What a run's synthetic rows have cost.

    - made, found: rows that the teacher made for this run, and rows that were in the bank
    - seconds: that the teacher took for those that were made
    """

    made: int = 0
    found: int = 0
    seconds: float = 0.0

    def metrics(self) -> dict[str, float]:
        """Return the counts for a report."""
        return {"rows_made": self.made, "rows_found": self.found, "teacher_seconds": round(self.seconds, 3)}
