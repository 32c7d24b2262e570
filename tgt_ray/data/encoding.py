"""Opens files of text as UTF-8, whatever mark they begin with, and says where they are something else."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from tgt_ray.core.errors import ConfigError

#: Marks at the beginning of files, and Python's codec for what follows. Those of UTF-32 begin as those of UTF-16 do.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: Bytes at the beginning that are looked at for zeros, which texts in UTF-16 are full of.
BEGINNING = 4096
#: How files of other kinds begin, and what messages say of them.
FOREIGN = (
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file; fetch it by `git lfs pull`"),
    (b"PK\x03\x04", "a zip archive, as Excel's .xlsx files are as well; unpack it, or save the table as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file; save the table as CSV"),
)
PARQUET = (b"PAR1", "a Parquet file; give it the suffix .parquet")
GZIP = b"\x1f\x8b"
#: Bytes that a message shows before and after a wrong one.
AROUND = 24


@dataclass(frozen=True)
class Utf8:
    """A file whose content is UTF-8, or its content where that had to be changed.

    - skip: bytes of a mark at the beginning
    - unit: what messages count in it
    """

    file: Path
    skip: int = 0
    content: bytes | None = None
    unit: str = "line"

    def open(self) -> BinaryIO:
        """Open it behind its mark."""
        if self.content is not None:
            return io.BytesIO(self.content)
        stream = self.file.open("rb")
        stream.seek(self.skip)
        return stream

    def text(self) -> str:
        """Read all of it; line ends stay as they are."""
        with self.lines() as lines:
            return lines.read()

    def lines(self) -> TextIO:
        """Open it as text; line ends stay as they are."""
        return io.TextIOWrapper(self.open(), encoding="utf-8", newline="")


def foreign(file: Path, page: bool = True, more: tuple[tuple[bytes, str], ...] = ()) -> str:
    """Say what a file is that can be no table, by its first bytes; empty where it may be one.

    - page: whether it can't be a web page either
    - more: beginnings that it can't have either
    """
    try:
        with open(file, "rb") as stream:
            head = stream.read(BEGINNING)
    except (OSError, ValueError):  # whoever reads it says why it can't be read
        return ""
    for mark, what in (*FOREIGN, *more):
        if head.startswith(mark):
            return what
    if head.startswith(GZIP) and not _is_packed(file):
        return f"packed by gzip; call it {file.name}.gz, or unpack it"
    start = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    return "a web page (HTML); fetch the file itself" if page and re.match(rb"<!doctype html|<html[\s>]", start) else ""


def as_utf8(file: Path, whose: Callable[[int, bytes], str] = lambda number, line: "", page: bool = True) -> Utf8:
    """Look at a file's bytes.

    - whose: says, of the number of a line that is not UTF-8 and of the line, which part of it isn't; for the message
    - page: whether a web page can't be meant; text files may well begin as one
    - raises ConfigError: where it can't be read, is of another kind, or neither UTF-8 nor UTF-16 with its mark
    """
    what = foreign(file, page and ".txt" not in file.suffixes, (PARQUET,))
    if what:
        raise ConfigError(f"{file}: is {what}")
    try:
        with _opened(file) as stream:
            head = stream.read(BEGINNING)
            for mark, codec in MARKS:
                if head.startswith(mark):
                    return Utf8(file, content=_decoded(file, head + stream.read(), codec))
            if head.count(0) * 4 > len(head):
                raise ConfigError(f"{file}: looks like UTF-16 without a byte order mark; save the file as UTF-8")
            skip = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
            stream.seek(skip)
            for number, line in enumerate(stream, start=1):
                try:
                    line.decode()
                except UnicodeDecodeError as err:
                    raise ConfigError(_wrong(file, number, line, err.start, whose(number, line))) from err
            if not _is_packed(file):
                return Utf8(file, skip)
            stream.seek(skip)
            return Utf8(file, content=stream.read())
    except ConfigError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as err:
        raise ConfigError(f"{file}: cannot be unpacked ({err}); write it again, or unpack it yourself") from err
    except (OSError, ValueError) as err:  # a ValueError is for names that no file can have
        raise ConfigError(f"{file}: cannot be read ({getattr(err, 'strerror', None) or err})") from err


def _is_packed(file: Path) -> bool:
    return file.suffix.lower() == ".gz"


def _opened(file: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(file, "rb")) if _is_packed(file) else open(file, "rb")


def _decoded(file: Path, content: bytes, codec: str) -> bytes:
    try:
        return content.decode(codec).encode()
    except UnicodeDecodeError as err:
        raise ConfigError(
            f"{file}: begins with the mark of {codec.upper()}, and byte {err.start} is none; save the file as UTF-8"
        ) from err


def _wrong(file: Path, number: int, line: bytes, start: int, part: str) -> str:
    shown = line[max(0, start - AROUND) : start + AROUND].decode(errors="backslashreplace").strip()
    return (
        f"{file}: line {number} is not UTF-8 at byte 0x{line[start]:02x}"
        + (f", which is in {part}" if part else "")
        + f" (around it: {shown!r}); save the file as UTF-8"
    )
