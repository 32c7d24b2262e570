"""Keeps all banks of a storage together below a size, and leaves room on the disk for checkpoints."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from tgt_ray.core.errors import NotRead, NotWritten
from tgt_ray.core.memory import in_bytes
from tgt_ray.core.storage import Storage
from tgt_ray.teacher.bank.marks import Found, banks, in_use

log = logging.getLogger(__name__)

#: Bytes that a process adds before it looks again how large the banks are: so far they may exceed their size.
LOOK_BYTES = 8 * 2**20
#: So many times what the checkpoints of running trials need stays free on the disk.
SPARE = 2


class Bounds:
    """Says whether a bank may grow, and removes others for it that were used longest ago.

    - folder: of all banks
    - key: of the bank
    - max_bytes: of all banks together; None: any size
    """

    def __init__(self, folder: Storage, key: str, max_bytes: int | None):
        self.folder, self.key, self.max_bytes = folder, key, max_bytes
        self.left = 0  # bytes that may be added without another look
        self.checkpoints: int | None = None  # bytes of the checkpoints of running trials; None: it hasn't looked yet

    def make_room(self, count: int) -> None:
        """Make room for so many bytes.

        - raises NotWritten: where there isn't any
        """
        if count > self.left:
            self._look(count)
        self.check_disk(count)
        self.left -= count

    def _look(self, count: int) -> None:
        self.left = max(count, LOOK_BYTES)
        if self.max_bytes is None and not self.folder.is_local:
            return  # an object store takes its time for a list
        there = self._banks()
        self.checkpoints = _checkpoints(there)
        if self.max_bytes is None:
            return
        taken = sum(each.bytes for each in there)
        old = [each for each in there if each.key != self.key and not each.checkpoints]
        removed: list[Found] = []
        while old and taken + count > self.max_bytes:
            bank = old.pop(0)
            if self._remove(bank):
                removed.append(bank)
                taken -= bank.bytes
        if removed:
            log.info(
                "bank: the rows of %d recipe(s) that were used longest ago are removed (%s), since pool.bank.max_bytes"
                " is %s",
                len(removed),
                in_bytes(sum(each.bytes for each in removed)),
                in_bytes(self.max_bytes),
            )
        if taken + count > self.max_bytes:
            self.left = 0
            raise NotWritten(
                f"pool.bank.max_bytes: {in_bytes(self.max_bytes)} are taken by rows that this run or others use"
            )
        self.left = min(self.left, self.max_bytes - taken)

    def _banks(self) -> list[Found]:
        """List the banks of the storage.

        - raises NotWritten: where that can't be done
        """
        try:
            with self.folder.reading():
                try:
                    return banks(self.folder)
                except FileNotFoundError:  # somebody has removed a bank meanwhile
                    return banks(self.folder)
        except (FileNotFoundError, NotRead) as err:
            raise NotWritten(str(err)) from err

    def _remove(self, bank: Found) -> bool:
        """Remove a bank, unless somebody has begun to use it since it was listed; return whether it is gone."""
        try:
            with self.folder.reading(bank.key):
                if in_use(self.folder.within(bank.key)):
                    return False
                self.folder.fs.delete_dir(self.folder.path(bank.key))
        except FileNotFoundError:  # somebody else is removing it
            return True
        except NotRead as err:  # somebody writes there at this moment, or nothing may be removed there
            log.debug("%s: is not removed (%s)", self.folder.where(bank.key), err)
            return False
        return True

    def check_disk(self, count: int) -> None:
        """Raise NotWritten where the disk hasn't enough room for these bytes and the checkpoints of running trials."""
        if not self.folder.is_local:
            return
        if self.checkpoints is None:
            self.checkpoints = _checkpoints(self._banks())
        here = Path(self.folder.base)
        free = shutil.disk_usage(next(each for each in (here, *here.parents) if each.exists())).free
        if free - count < SPARE * self.checkpoints:
            self.left = 0
            spare = in_bytes(SPARE * self.checkpoints)
            raise NotWritten(
                f"{self.folder.shown}: {in_bytes(free)} are free on the disk, of which {spare} are left for checkpoints"
                " of running trials"
            )


def _checkpoints(there: Sequence[Found]) -> int:
    return sum(size for each in there for size in each.checkpoints)
