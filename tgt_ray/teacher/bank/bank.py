"""Keeps synthetic rows in the storage, request by request, for all runs that would make the same ones.

A request is first a file of its own, so that others can use it as soon as it is made. Once they are many, or a run
ends, such files are joined to a chunk. Files never change: they are written under a draft's name and renamed, and bear
a checksum that is checked when they are first opened. Two processes that make one request write the same rows.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy
from pyarrow import fs

from tgt_ray.core import formats, records
from tgt_ray.core.batch import Block
from tgt_ray.core.errors import NotRead, NotWritten
from tgt_ray.core.signals.values import concat_columns, flat, take, unflat
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import Damaged
from tgt_ray.teacher.bank import copies
from tgt_ray.teacher.bank.bounds import Bounds
from tgt_ray.teacher.bank.chunks import ANCHOR, INPUTS, Chunk, OtherFormat, joined, signals, to_bytes
from tgt_ray.teacher.bank.marks import Mark, banks

log = logging.getLogger(__name__)

#: The folder of the storage for all banks.
FOLDER = "bank"
#: Bytes from which on requests are joined to a chunk.
CHUNK_BYTES = 32 * 2**20
#: Seconds after which the claim of who joins files is void.
CLAIM_S = 600.0

_REQUEST, _CHUNK, _SHOWN, _RECORD, _JOINING = "request-", "chunk-", "shown-", "bank.json", "joining"

_said: set[tuple[str, str]] = set()  # what this process has warned of, and for which storage


class Bank:
    """The rows of one recipe, by the number of their request.

    - key: digest of all that the rows follow from
    - max_bytes: of all banks of the storage together; None: any size
    - damaged: how many files were left out since they are damaged
    - full: whether nothing more can be added, and `reason`, why
    - unseen: whether it couldn't be listed when it was looked at last, so that what others add isn't found
    """

    def __init__(self, storage: Storage, key: str, max_bytes: int | None = None):
        self.key, self.folder, self.damaged, self.full = key, storage.within(FOLDER, key), 0, False
        self.unseen, self.reason = False, ""
        self._bounds = Bounds(storage.within(FOLDER), key, max_bytes)
        self._mark: Mark | None = None
        self._requests: dict[int, str] = {}  # which file holds it
        self._open: dict[str, Chunk] = {}
        self._useless: set[str] = set()  # files that can't be read, and couldn't be removed
        self._bytes = 0  # of requests that this process has added since it last joined files
        self._size = 0  # of all files, when they were last listed
        self._about: dict[str, Any] | None = None

    def hold(self, checkpoint_bytes: int = 0) -> None:
        """Mark the bank as in use, so that nobody removes it, until `release` or the end of this process.

        - checkpoint_bytes: size of a checkpoint of the run that uses it, for which room is left on the disk
        """
        self.release()
        self._mark = Mark(self.folder, checkpoint_bytes)

    def _renew(self) -> None:
        if self._mark is None or not self._mark.renew():
            return
        log.warning(
            "%s: was removed while a run uses it; those of its rows that are still needed are made again",
            self.folder.where(),
        )
        # Files that are open go on to be read.
        self._requests = {number: name for number, name in self._requests.items() if name in self._open}
        if self._about is not None:
            with suppress(NotWritten):  # said when rows are to be kept
                self.describe(self._about)

    def release(self) -> None:
        """Let others remove the bank."""
        if self._mark is not None:
            self._mark.close()
        self._mark = None

    def warn(self, message: str, err: Exception) -> None:
        """Warn of something once in this process, and once for a sweep: the banks of other runs have the same disk."""
        said = message, self._bounds.folder.root
        if said not in _said:
            _said.add(said)
            log.warning(message, err, extra={"once": message})

    def add_no_more(self, err: NotWritten) -> None:
        """Note that nothing more can be added, and say so once."""
        self.full, self.reason = True, str(err)
        self.warn("%s; the run goes on, and its further synthetic rows are not kept", err)

    @property
    def bytes(self) -> int:
        """How many bytes its rows take in the storage."""
        try:
            with self.folder.reading():
                found = self.folder.fs.get_file_info(fs.FileSelector(self.folder.base, allow_not_found=True))
        except NotRead as err:
            self._go_on(err)
        else:
            self._size = sum(each.size or 0 for each in found)
        return self._size

    def _go_on(self, err: NotRead) -> None:
        self.warn("%s; the run goes on, and makes the rows of the bank itself that it can't read", err)

    def _names(self) -> list[str]:
        """List the names of its files.

        - raises NotRead: where that can't be done
        """
        with self.folder.reading():
            return sorted(Path(each).name for each in self.folder.files())

    def describe(self, about: dict[str, Any]) -> None:
        """Write what the rows follow from, for people, unless it is there already."""
        self._about = about
        if not self._is_there(_RECORD):
            records.write_json(self.folder, formats.stamped("bank", about), _RECORD)

    def look(self) -> None:
        """Find out what others have added."""
        self._renew()
        try:
            there, self.unseen = self._names(), False
        except NotRead as err:
            self.unseen = True
            self._go_on(err)
            return
        for name in there:
            number = name.removeprefix(_REQUEST).removesuffix(".arrow")
            if name == f"{_REQUEST}{number}.arrow" and number.isdecimal() and name not in self._useless:
                self._requests.setdefault(int(number), name)
            elif name.startswith(_CHUNK) and name.endswith(".arrow") and name not in (*self._open, *self._useless):
                chunk = self._opened(name)
                self._requests |= dict.fromkeys(chunk.requests if chunk is not None else (), name)

    def __contains__(self, request: int) -> bool:
        return request in self._requests

    @property
    def requests(self) -> set[int]:
        """The numbers of all requests that are known to be here."""
        return set(self._requests)

    def among(self, numbers: range) -> list[int]:
        """Return which requests of these numbers are known to be here, in order."""
        if len(numbers) == 1:
            return [numbers[0]] if numbers[0] in self._requests else []
        return sorted(number for number in self._requests if number in numbers)

    def read(self, request: int) -> Block | None:
        """Return a request's rows, mapped into memory; None where they aren't here, or are damaged."""
        self._renew()
        chunk = self._holding(request)
        shown = None if chunk is None else self._shown(request)
        if chunk is None or shown is None:
            return None
        return replace(chunk.block(request), shown=shown)

    def put(self, block: Block, seconds: float = 0.0) -> None:
        """Add the rows of a request.

        - seconds: that the teacher took for them
        - raises NotWritten: where the disk is full, nothing may be written there, or a bound is reached
        """
        shown = safetensors.numpy.save(flat(block.shown)) if block.shown and len(_first(block.shown)) else b""
        content = to_bytes([replace(block, seconds=seconds)])
        self._bounds.make_room(len(shown) + len(content))
        # Before the rows, so that whoever finds these finds it.
        if shown:
            _write(self.folder, shown, _shown_name(block.request))
        name = f"{_REQUEST}{block.request:08d}.arrow"
        try:
            _write(self.folder, content, name)
        except NotWritten:
            if shown:
                self._remove(_shown_name(block.request))
            raise
        self._renew()
        self._useless.discard(name)
        self._requests.setdefault(block.request, name)
        self._bytes += len(content)
        if self._bytes >= CHUNK_BYTES:
            self.join()

    def gather(self, places: np.ndarray, rows: int) -> Block | None:
        """Return single rows of many requests as one block; None where one of the requests isn't here.

        - places: (N,), place of each row: the number of its request times `rows`, plus its place in the request
        - rows: of each request
        """
        self._renew()
        numbers, inside = np.divmod(places, rows)
        chunks: dict[int, Chunk] = {}
        at = np.empty_like(places)  # place of each row in its file
        for number in np.unique(numbers).tolist():
            chunk = self._holding(number)
            if chunk is None:
                return None
            mine = numbers == number
            at[mine] = chunk.requests[number].start + inside[mine]
            chunks[number] = chunk
        of_row = np.array([id(chunks[number]) for number in numbers.tolist()])
        order = np.argsort(of_row, kind="stable")
        files = {id(chunk): chunk for chunk in chunks.values()}
        parts = [files[each].rows(at[order][of_row[order] == each]) for each in np.unique(of_row).tolist()]
        back = np.argsort(order, kind="stable")
        columns = take(concat_columns(parts), back)
        return Block(
            inputs=np.asarray(columns.pop(INPUTS)),
            anchor=np.asarray(columns.pop(ANCHOR)),
            columns=signals(columns),
            shown={},
            request=int(numbers[0]),
            version=-1,
            explorer=next(iter(files.values())).explorer,
            seconds=sum(chunks[number].row_s for number in numbers.tolist()),
        )

    def join(self) -> None:
        """Join the files of single requests to chunks; where these can't be written, all stays as it is."""
        self._bytes = 0
        try:
            self._join()
        except (NotRead, NotWritten, OSError) as err:
            if not self.full:  # else it was said already that nothing can be written
                self.warn("%s; synthetic rows stay in files of single requests", err)

    def _join(self) -> None:
        with self._claimed() as mine:
            if not mine:
                return  # someone else does it at this moment
            self.look()
            if self.unseen:
                return  # which has been said
            self._remove_joined()
            group: dict[int, Chunk] = {}
            for number in sorted(number for number, name in self._requests.items() if name.startswith(_REQUEST)):
                chunk = self._holding(number)
                if chunk is None or not self._requests[number].startswith(_REQUEST):
                    continue  # someone else has joined it just now
                if any(each.divided != chunk.divided for each in group.values()):  # which no file can mix
                    self._write_chunk(group)
                    group = {}
                group[number] = chunk
                if sum(each.nbytes for each in group.values()) >= CHUNK_BYTES:
                    self._write_chunk(group)
                    group = {}
            if group:
                self._write_chunk(group)

    def _remove_joined(self) -> None:
        """Remove files of single requests that a chunk has as well: two runs have made them at the same time."""
        for name in self._names():
            number = name.removeprefix(_REQUEST).removesuffix(".arrow")
            if name != f"{_REQUEST}{number}.arrow" or not number.isdecimal():
                continue
            holder = self._requests.get(int(number), name)
            if holder != name and self._opened(holder) is not None:
                self._open.pop(name, None)
                self._remove(name)

    def _write_chunk(self, files: dict[int, Chunk]) -> None:
        """Join files of single requests to a chunk.

        - files: by the number of their request
        """
        name, content = f"{_CHUNK}{next(iter(files)):08d}-{uuid.uuid4().hex[:8]}.arrow", joined(list(files.values()))
        self._bounds.check_disk(len(content))
        self.folder.write(content, name)
        for number in files:
            single = self._requests[number]
            self._requests[number] = name
            if single.startswith(_REQUEST):
                self._open.pop(single, None)
                self._remove(single)

    @contextmanager
    def _claimed(self) -> Iterator[bool]:
        """Claim the joining of files; on a storage without exclusive creation two may do so, which costs time."""
        if not self.folder.is_local:
            yield True
            return
        claim = Path(self.folder.path(_JOINING))
        with suppress(OSError):
            if time.time() - claim.stat().st_mtime > CLAIM_S:
                claim.unlink()
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
        except OSError as err:
            # Somebody else does it, there are no files to be joined, or nothing may be written there.
            log.debug("%s: single requests are not joined (%s)", self.folder.shown, err)
            yield False
            return
        try:
            yield True
        finally:
            with suppress(OSError):  # nothing may be removed there any more; it counts for a while
                claim.unlink(missing_ok=True)

    def _holding(self, request: int) -> Chunk | None:
        """Return the open file that holds a request."""
        if request not in self._requests:
            return None
        chunk = self._opened(self._requests[request])
        if chunk is None:  # joined by someone else, or damaged
            del self._requests[request]
            self.look()
            chunk = self._opened(self._requests[request]) if request in self._requests else None
        return chunk

    def _opened(self, name: str) -> Chunk | None:
        """Open a file, and check it where this process hasn't yet; None where it isn't there any more, or damaged."""
        if name not in self._open:
            if name in self._useless or not self._is_there(name):
                return None
            try:
                content = self._content(name)
                chunk = None if content is None else Chunk(content)
            except NotRead as err:
                self._go_on(err)
                return None
            except OtherFormat as err:
                log.warning(
                    "%s: has format %s, which this version doesn't know; made again", self.folder.where(name), err
                )
                self._useless.add(name)
                return None
            except (pa.ArrowException, KeyError, ValueError) as err:  # of a file without a checksum
                log.warning(
                    "%s; made again", Damaged.of(self.folder.where(name), f"it is no part of a bank: {err}").fact
                )
                chunk = None
            if chunk is None:
                if self._is_there(name):  # else somebody has just joined or removed it
                    self._leave_out(name)
                return None
            self._open[name] = chunk
        return self._open[name]

    def _leave_out(self, name: str) -> None:
        """Count a file as damaged, and remove it."""
        self.damaged += 1
        self._remove(name)
        if self._is_there(name):
            self._useless.add(name)

    def _is_there(self, name: str) -> bool:
        """Whether there is a file; what can't be reached isn't there."""
        try:
            with self.folder.reading(name):
                return self.folder.exists(name)
        except NotRead as err:
            self._go_on(err)
            return False

    def _content(self, name: str) -> pa.Buffer | pa.MemoryMappedFile | None:
        """Return what a file holds; None where it isn't there any more, or is damaged.

        - raises NotRead: where it can't be reached
        """
        with self.folder.reading(name):
            try:
                if self.folder.is_local:
                    return pa.memory_map(self.folder.path(name)) if self.folder.holds(name) else None
                if name.startswith(_CHUNK):
                    copy = copies.copied(self.folder, name)
                    return None if copy is None else pa.memory_map(copy.path(name))
            except FileNotFoundError:  # somebody has just joined or removed it
                return None
            except NotWritten as err:
                self.warn("%s; chunks of synthetic rows are read into memory", err)
            content = self.folder.find(name)
            return None if content is None else pa.py_buffer(content)

    def _shown(self, request: int) -> dict[str, Any] | None:
        """Return what is shown of a request, nothing for most of them; None where it is damaged."""
        name = _shown_name(request)
        if not self._is_there(name):
            return {}
        try:
            with self.folder.reading(name):
                content = self.folder.find(name)
        except NotRead as err:
            self._go_on(err)
            return None
        if content is None:
            self._leave_out(name)
            return None
        return unflat(safetensors.numpy.load(content))

    def _remove(self, name: str) -> None:
        with suppress(OSError):  # someone else may have been faster, or nothing may be removed there
            self.folder.fs.delete_file(self.folder.path(name))


def described(storage: Storage) -> Iterator[dict[str, Any]]:
    """Yield what the rows of each bank of a storage on a disk follow from; banks that can't be read are left out."""
    folder = storage.within(FOLDER)
    if not folder.is_local:
        return
    there = []
    with suppress(FileNotFoundError, NotRead), folder.reading():  # somebody removes one at this moment, perhaps
        there = banks(folder)
    for each in there:
        about = None
        with suppress(FileNotFoundError, NotRead), folder.reading(each.key):
            about = records.find(folder, "bank", each.key, _RECORD)
        if about is not None:
            yield about


def _write(folder: Storage, content: bytes, name: str) -> None:
    try:
        folder.write(content, name)
    except NotWritten as err:
        if not isinstance(err.__cause__, FileNotFoundError):
            raise
        folder.write(content, name)  # somebody has removed the bank at this very moment


def _first(columns: dict[str, Any]) -> Any:
    return next(iter(columns.values()))


def _shown_name(request: int) -> str:
    return f"{_SHOWN}{request:08d}.safetensors"
