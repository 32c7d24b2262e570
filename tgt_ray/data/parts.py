"""Finds the files of a split or a table in a folder, whole or in shards, and accounts for all others."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.data.account import LeftOut, left_out

#: What the files of each split may be called.
SPLITS = {"train": ("train",), "test": ("test",), "validation": ("validation", "valid", "val", "dev")}
#: Ends the stem of a file that is one of several.
SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)")


@dataclass(frozen=True)
class Parts:
    """The files of one split or table, in the order of their rows.

    - where: names them in messages
    """

    where: str
    files: tuple[Path, ...]


def find_parts(folder: Path, names: tuple[str, ...], suffixes: tuple[str, ...]) -> Parts | None:
    """Return the files of one of these names; None where there are none.

    - suffixes: with the dot, in small letters
    - raises ConfigError: where two of them could be meant, or a shard is missing
    """
    groups: dict[tuple[str, str, str], dict[int, Path]] = {}
    for file in _visible(folder):
        stem, suffix = file.stem, file.suffix
        shard = SHARD.fullmatch(stem)
        name, number, count = shard.groups() if shard else (stem, "0", "")
        if name in names and suffix.lower() in suffixes and not file.is_dir():
            groups.setdefault((name, count, suffix), {})[int(number)] = file
    if not groups:
        return None
    if len(groups) > 1:
        order = sorted(groups, key=lambda group: (names.index(group[0]), group[1:]))
        stems = list(dict.fromkeys(name for name, _, _ in order))
        both = stems if len(stems) > 1 else [groups[each][min(groups[each])].name for each in order]
        raise ConfigError(f"task.data.path: {folder} has both {' and '.join(both)}; keep one")
    (((name, count, suffix), files),) = groups.items()
    if not count:
        return Parts(str(files[0]), (files[0],))
    first = 1 if int(count) in files else 0  # most tools count from 0
    wanted = range(first, first + int(count))
    lacking = [number for number in wanted if number not in files]
    if lacking or len(files) != len(wanted):
        first = lacking[0] if lacking else first
        width = len(next(iter(files.values())).stem.split("-")[-3])
        raise ConfigError(
            f"task.data.path: {folder} has {len(files)} of {int(count)} shards of {name}; the first that is missing is"
            f" {name}-{first:0{width}d}-of-{count}{suffix}"
        )
    return Parts(str(folder / f"{name}-*-of-{count}{suffix}"), tuple(files[number] for number in wanted))


def needed_parts(folder: Path, names: tuple[str, ...], suffixes: tuple[str, ...]) -> Parts:
    """Return the files of one of these names; ConfigError where there are none."""
    parts = find_parts(folder, names, suffixes)
    if parts is None:
        within = [each.name for each in _visible(folder) if each.is_dir() and find_parts(each, names, suffixes)]
        there = [each.name for each in folder.iterdir()]
        hint = nearest(names[0] + suffixes[0], there) if there else "the folder is empty"
        hint = f"its folder {within[0]} has one: give that folder" if within else hint
        raise ConfigError(f"task.data.path: no file {names[0]}{suffixes[0]} in {folder}; {hint}")
    return parts


def not_read(folder: Path, used: Iterable[Path], what: str) -> tuple[LeftOut, ...]:
    """Account for the files and folders that are not read.

    - used: those that are
    - what: the others are
    """
    rest = sorted(set(folder.iterdir()) - set(used))
    hidden = [each.name for each in rest if each.name.startswith(".")]
    shown = [each for each in rest if not each.name.startswith(".")]
    return (
        *left_out("hidden files", hidden),
        *left_out("folders that are not entered", [each.name for each in shown if each.is_dir()]),
        *left_out(what, [each.name for each in shown if not each.is_dir()]),
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if not each.name.startswith("."))
