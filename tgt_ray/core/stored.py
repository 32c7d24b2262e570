"""Puts checksums into what is stored, and finds files that are damaged: empty, cut off, or with other bytes.

The checksum lies in the file itself, where its format has room for it, so that other programs read the file as before:
a key of a JSON record, the first line of a YAML file, the metadata of a safetensors file, the comment of a state (a zip
file), and bytes in front of the footer of a Parquet or Arrow file. It is a CRC-32, which finds accidents in a tenth of
the time of a SHA-256. A file without one was written by an older version: it is read as it is, where it is whole.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from tgt_ray.core.errors import ConfigError

#: Bytes, or a view of them.
Bytes = bytes | memoryview
#: The key of a JSON record, and that in the metadata of a safetensors file.
KEY, METADATA_KEY = "checksum", "tgt_ray_checksum"
#: JSON files that take no further key: those of the library `tokenizers`, and Tune's, which are lines of JSON.
UNMARKED = ("tokenizer.json", "result.json")
#: What reading a file of another format than its name says, or a cut one, may raise.
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
#: What is said of a file whose bytes have changed.
OTHER = "its content doesn't fit its checksum"

_REMEDY = "; restore it from a copy, or begin anew without it"
#: A checksum: of the content alone, or of name and content.
_SUM = rb"(crc32|crc32-named) ([0-9a-f]{8})"
_JSON = re.compile(rb',?\n  "checksum": "' + _SUM + rb'"\n\}\s*\Z')
_YAML = re.compile(rb"\A# checksum: " + _SUM + rb"\n")
_COMMENT = re.compile(rb"tgt_ray checksum " + _SUM + rb" *\Z")
#: Kinds of files that keep their name.
_NAMED = ("json", "safetensors", "parquet", "arrow")
#: Bytes of the mark in binary files; a multiple of 64, so that nothing behind it loses its alignment.
_MARK = 64
#: Of a zip file without a comment: the length of its end, with which it begins.
_ZIP_END, _ZIP_SIGN = 22, b"PK\x05\x06"
#: Of files with a footer: bytes between footer and end, those at the very end, and where the footer's length stands.
_FOOTERS = {"parquet": (8, b"PAR1"), "arrow": (10, b"ARROW1")}


class Damaged(ConfigError):
    """Raised for a stored file that is empty, cut off, or has other bytes than were written."""

    @classmethod
    def of(cls, where: str, reason: str) -> Damaged:
        return cls(f"{where}: is damaged ({reason}); restore it from a copy, or begin anew without it")

    @property
    def fact(self) -> str:
        """The message without its remedy."""
        return str(self).removesuffix(_REMEDY)


def checksum(*parts: Bytes) -> str:
    """Compute the CRC-32 of parts that follow each other, in hex."""
    total = 0
    for part in parts:
        total = zlib.crc32(part, total)
    return f"{total:08x}"


def _sum(name: str, *parts: Bytes) -> str:
    """Return what a file says as its checksum.

    - name: of the file; "": it may get another one
    """
    return f"crc32-named {checksum(name.encode(), *parts)}" if name else f"crc32 {checksum(*parts)}"


def sealed(name: str, data: Bytes) -> list[Bytes]:
    """Return a file's content with its checksum, in parts to be written one after the other.

    - name: of the file, with that of its folder or without; its ending tells its format, and other formats stay as they
      are
    """
    seal = _SEALS.get(_kind(name))
    try:
        return [data] if seal is None else seal(memoryview(data), name if _kind(name) in _NAMED else "")
    except _MALFORMED:  # only its name has this ending, so there is no place for a checksum
        return [data]


def unsealed(name: str, content: bytes, where: str) -> bytes:
    """Check a file's content, and return it without what `sealed` has added, where readers would see that.

    - name: of the file
    - where: the file, for the message
    - raises Damaged: where it is not as it was written
    """
    reason = damage(name, content)
    if reason is not None:
        raise Damaged.of(where, reason)
    if _kind(name) == "json":
        return _JSON.sub(b"\n}\n", content) if b'"checksum"' in content[-80:] else content
    return _YAML.sub(b"", content) if _kind(name) == "yaml" else content


def damage(name: str, content: Bytes) -> str | None:
    """Return what is wrong with a file's content; None where it is whole, or of a format that has no checksum."""
    check = _CHECKS.get(_kind(name))
    if check is None:
        return None
    if not len(content):
        return "it is empty"
    try:
        return check(memoryview(content), name)
    except _MALFORMED:
        return "it is cut off, or has other bytes than were written"


def _kind(name: str) -> str:
    return "" if name.rpartition("/")[2] in UNMARKED else name.rpartition(".")[2]


def _compare(said: re.Match[bytes], name: str, *parts: Bytes) -> str | None:
    own = _sum(name if said[1] == b"crc32-named" else "", *parts)
    return None if own == f"{said[1].decode()} {said[2].decode()}" else OTHER


def _seal_json(data: memoryview, name: str) -> list[Bytes]:
    body = bytes(data).rstrip()
    if not (body.startswith(b"{") and body.endswith(b"}")):
        return [data]
    body = _JSON.sub(b"\n}", body)[:-1].rstrip()
    comma = "" if body == b"{" else ","
    return [body, f'{comma}\n  "{KEY}": "{_sum(name, body)}"\n}}\n'.encode()]


def _json(content: memoryview, name: str) -> str | None:
    said = _JSON.search(bytes(content[-80:]))
    if said is not None:
        return _compare(said, name, content[: len(content) - len(said[0])])
    json.loads(bytes(content))  # written by an older version, or by another program
    return None


def _seal_yaml(data: memoryview, name: str) -> list[Bytes]:
    body = _YAML.sub(b"", bytes(data))
    return [f"# checksum: {_sum(name, body)}\n".encode(), body]


def _yaml(content: memoryview, name: str) -> str | None:
    whole = bytes(content)
    said = _YAML.search(whole)
    if said is not None:
        body = whole[said.end() :]
        return _compare(said, name, body) and f"{OTHER}; if you have changed it, take out its first line"
    # What is left of the first line of a file that was cut off would be settings without a key.
    return "it has no settings" if all(not line or line.startswith(b"#") for line in whole.split(b"\n")) else None


def _header(content: memoryview) -> tuple[dict[str, Any], memoryview]:
    """Return header and data of a safetensors file. Raises ValueError where it is cut off."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(bytes(content[8 : 8 + length])), content[8 + length :]
    ends = [about["data_offsets"][1] for name, about in header.items() if name != "__metadata__"]
    if len(data) != max(ends, default=0):
        raise ValueError
    return header, data


def _without(header: dict[str, Any]) -> dict[str, Any]:
    """Return a header without its checksum."""
    metadata = {key: value for key, value in header.get("__metadata__", {}).items() if key != METADATA_KEY}
    rest = {key: value for key, value in header.items() if key != "__metadata__"}
    return {"__metadata__": metadata, **rest} if metadata else rest


def _canonical(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _seal_safetensors(data: memoryview, name: str) -> list[Bytes]:
    header, values = _header(data)
    plain = _without(header)
    mark = {METADATA_KEY: _sum(name, _canonical(plain), values)}
    marked = {**plain, "__metadata__": {**plain.get("__metadata__", {}), **mark}}
    text = json.dumps(marked, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the values stay aligned
    return [len(text).to_bytes(8, "little") + text, values]


def _safetensors(content: memoryview, name: str) -> str | None:
    header, values = _header(content)
    said = header.get("__metadata__", {}).get(METADATA_KEY)
    if said is None:
        return None
    matched = re.fullmatch(_SUM, said.encode())
    return OTHER if matched is None else _compare(matched, name, _canonical(_without(header)), values)


def _mark(name: str, *parts: Bytes) -> bytes:
    return f"tgt_ray checksum {_sum(name, *parts)}".encode().rjust(_MARK)


def _seal_zip(data: memoryview, name: str) -> list[Bytes]:
    if data[-_ZIP_END:][:4] != _ZIP_SIGN:
        return [data]
    return [data[:-2], _MARK.to_bytes(2, "little"), _mark(name, data[:-2])]


def _zip(content: memoryview, name: str) -> str | None:
    end = bytes(content[-_MARK - _ZIP_END :])
    if end[:4] == _ZIP_SIGN:  # what follows is a mark, or what is left of one
        said, begin = _COMMENT.search(end), end[_ZIP_END - 2 :]
        whole = said is not None and begin == _MARK.to_bytes(2, "little") + said[0].rjust(_MARK)
        return _compare(said, name, content[: -_MARK - 2]) if said is not None and whole else OTHER
    whole_zip = bytes(content)
    last = whole_zip[whole_zip.rfind(_ZIP_SIGN) :]
    if len(last) != _ZIP_END + int.from_bytes(last[_ZIP_END - 2 : _ZIP_END], "little"):
        raise ValueError  # cut off inside its comment, which the library doesn't mind
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            return None if file.testzip() is None else OTHER
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, zlib.error) as err:
        raise ValueError(str(err)) from err


def _footer(kind: str, content: memoryview) -> int:
    """Return the place of a file's footer. Raises ValueError where the file is cut off."""
    last, end = _FOOTERS[kind]
    length = int.from_bytes(content[len(content) - last :][:4], "little")
    place = len(content) - last - length
    if content[-len(end) :] != end or content[: len(end)] != end or place < len(end):
        raise ValueError
    return place


def _seal_footed(kind: str) -> Callable[[memoryview, str], list[Bytes]]:
    def seal(data: memoryview, name: str) -> list[Bytes]:
        place = _footer(kind, data)
        if _COMMENT.search(bytes(data[place - _MARK : place])):
            data, place = memoryview(bytes(data[: place - _MARK]) + bytes(data[place:])), place - _MARK
        return [data[:place], _mark(name, data), data[place:]]

    return seal


def _footed(kind: str) -> Callable[[memoryview, str], str | None]:
    def check(content: memoryview, name: str) -> str | None:
        place = _footer(kind, content)
        said = _COMMENT.search(bytes(content[max(0, place - _MARK) : place]))
        return None if said is None else _compare(said, name, content[: place - _MARK], content[place:])

    return check


_SEALS: dict[str, Callable[[memoryview, str], list[Bytes]]] = {
    "json": _seal_json,
    "yaml": _seal_yaml,
    "safetensors": _seal_safetensors,
    "pt": _seal_zip,
    **{kind: _seal_footed(kind) for kind in _FOOTERS},
}
_CHECKS: dict[str, Callable[[memoryview, str], str | None]] = {
    "json": _json,
    "yaml": _yaml,
    "safetensors": _safetensors,
    "pt": _zip,
    **{kind: _footed(kind) for kind in _FOOTERS},
}
