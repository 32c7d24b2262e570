"""Keeps synthetic rows in the storage, request by request, for all runs that would make the same ones.

A request is first a file of its own, so that others can use it as soon as it is made. Once they are many, or a run
ends, such files are joined to a chunk. Files never change: they are written under a draft's name and renamed, and bear
a checksum that is checked when they are first opened. Two processes that make one request write the same bytes.
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

from tgt_ray.core import formats, records
from tgt_ray.core.batch import Block
from tgt_ray.core.signals.values import concat_columns, flat, take, unflat
from tgt_ray.core.storage import Storage
from tgt_ray.teacher.bank.chunks import ANCHOR, INPUTS, Chunk, signals, to_bytes

log = logging.getLogger(__name__)

#: The folder of the storage for all banks.
FOLDER = "bank"
#: Bytes from which on requests are joined to a chunk.
CHUNK_BYTES = 32 * 2**20
#: Seconds after which the claim of who joins files is void.
CLAIM_S = 600.0

_REQUEST, _CHUNK, _SHOWN, _RECORD, _JOINING = "request-", "chunk-", "shown-", "bank.json", "joining"


class Bank:
    """The rows of one recipe, by the number of their request.

    - key: digest of all that the rows follow from
    - damaged: how many files were left out since they are damaged
    - full: whether nothing more can be added
    """

    def __init__(self, storage: Storage, key: str):
        self.key, self.folder, self.damaged, self.full = key, storage.within(FOLDER, key), 0, False
        self._requests: dict[int, str] = {}  # which file holds it
        self._open: dict[str, Chunk] = {}
        self._bytes = 0  # of requests that this process has added since it last joined files

    def describe(self, about: dict[str, Any]) -> None:
        """Write what the rows follow from, for people, unless it is there already."""
        if not self.folder.exists(_RECORD):
            records.write_json(self.folder, formats.stamped("bank", about), _RECORD)

    def look(self) -> None:
        """Find out what others have added."""
        there = sorted(Path(each).name for each in self.folder.files())
        for name in there:
            if name.startswith(_REQUEST) and name.endswith(".arrow"):
                number = int(name.removeprefix(_REQUEST).removesuffix(".arrow"))
                self._requests.setdefault(number, name)
            elif name.startswith(_CHUNK) and name.endswith(".arrow") and name not in self._open:
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
        chunk = self._holding(request)
        if chunk is None:
            return None
        return replace(chunk.block(request), shown=self._shown(request))

    def put(self, block: Block) -> None:
        """Add the rows of a request.

        - raises NotWritten: where the disk is full, or nothing may be written there
        """
        if block.shown and len(next(iter(block.shown.values()))):
            self.folder.write(safetensors.numpy.save(flat(block.shown)), _shown_name(block.request))
        content = to_bytes([block])
        name = f"{_REQUEST}{block.request:08d}.arrow"
        self.folder.write(content, name)
        self._requests.setdefault(block.request, name)
        self._bytes += len(content)
        if self._bytes >= CHUNK_BYTES:
            self.join()

    def gather(self, places: np.ndarray, rows: int) -> Block | None:
        """Return single rows of many requests as one block; None where one of the requests isn't here.

        - places: (N,), place of each row: the number of its request times `rows`, plus its place in the request
        - rows: of each request
        """
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
        )

    def join(self) -> None:
        """Join the files of single requests to chunks."""
        self._bytes = 0
        with self._claimed() as mine:
            if not mine:
                return  # someone else does it at this moment
            self.look()
            group: list[Block] = []
            for number in sorted(number for number, name in self._requests.items() if name.startswith(_REQUEST)):
                chunk = self._holding(number)
                if chunk is None:
                    continue
                group.append(chunk.block(number))
                if sum(each.inputs.nbytes for each in group) >= CHUNK_BYTES:
                    self._write_chunk(group)
                    group = []
            if group:
                self._write_chunk(group)

    def _write_chunk(self, blocks: list[Block]) -> None:
        name = f"{_CHUNK}{blocks[0].request:08d}-{uuid.uuid4().hex[:8]}.arrow"
        self.folder.write(to_bytes(blocks), name)
        for each in blocks:
            single = self._requests[each.request]
            self._requests[each.request] = name
            self._open.pop(single, None)
            self._remove(single)

    @contextmanager
    def _claimed(self) -> Iterator[bool]:
        """Claim the joining of files; on a storage without exclusive creation two may do so, which costs only time."""
        if not self.folder.is_local:
            yield True
            return
        claim = Path(self.folder.path(_JOINING))
        with suppress(OSError):
            if time.time() - claim.stat().st_mtime > CLAIM_S:
                claim.unlink()
        try:
            claim.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            yield False
            return
        try:
            yield True
        finally:
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
            if not self.folder.exists(name):
                return None
            content = self._content(name)
            if content is None:
                self.damaged += 1
                self._remove(name)
                return None
            self._open[name] = Chunk(content)
        return self._open[name]

    def _content(self, name: str) -> pa.Buffer | pa.MemoryMappedFile | None:
        if self.folder.is_local:
            return pa.memory_map(self.folder.path(name)) if self.folder.holds(name) else None
        content = self.folder.find(name)
        return None if content is None else pa.py_buffer(content)

    def _shown(self, request: int) -> dict[str, Any]:
        content = self.folder.find(_shown_name(request))
        return {} if content is None else unflat(safetensors.numpy.load(content))

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):  # someone else may have been faster
            self.folder.fs.delete_file(self.folder.path(name))


def _shown_name(request: int) -> str:
    return f"{_SHOWN}{request:08d}.safetensors"
