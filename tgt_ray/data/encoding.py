"""Opens files of text as UTF-8, whatever mark they begin with, and says where they are something else."""

from __future__ import annotations

import codecs
import gzip
import io
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


def as_utf8(file: Path, whose: Callable[[int, bytes], str] = lambda number, line: "") -> Utf8:
    """Look at a file's bytes.

    - whose: says, of the number of a line that is not UTF-8 and of the line, which part of it isn't; for the message
    - raises ConfigError: where it can't be read, or is neither UTF-8 nor UTF-16 with its mark
    """
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
