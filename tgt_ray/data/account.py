"""Says what a source has left out, and why: nothing that a user gives is lost without a word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: Names that systems and archives leave behind, in small letters; names that begin with a dot are hidden as well.
HIDDEN = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin")


def is_hidden(name: str) -> bool:
    """Tell by its name whether a file or folder is none that a user has put there."""
    return name.startswith(".") or name.casefold() in HIDDEN


@dataclass(frozen=True)
class LeftOut:
    """Counts files or rows that a source has not used.

    - what: what they are and why they are left out, such as "hidden files"
    - first: the name of the first of them
    """

    what: str
    count: int
    first: str


def left_out(what: str, names: Sequence[str]) -> tuple[LeftOut, ...]:
    """Return the entry of an account for these files or rows; none where there are none."""
    return (LeftOut(what, len(names), names[0]),) if names else ()


def merged(entries: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    """Return the account with one entry for each reason."""
    out: dict[str, LeftOut] = {}
    for each in entries:
        before = out.get(each.what)
        out[each.what] = each if before is None else LeftOut(each.what, before.count + each.count, before.first)
    return tuple(out.values())


def said(entries: Iterable[LeftOut]) -> str:
    """Return what is left out as the end of a line; empty where nothing is."""
    parts = [f"{each.count} {each.what} ({each.first}{', ...' if each.count > 1 else ''})" for each in entries]
    return f"; left out: {', '.join(parts)}" if parts else ""
