"""Finds the files of a split or a table in a folder, whole or in shards, and accounts for all others."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.data.account import LeftOut, is_hidden, left_out

#: What the folders or files of each split may be called, in small letters.
SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val", "dev"),
}
#: The stem of a file that is one of several, as hubs name them; a hash may come after it.
SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d+)-of-(?P<count>\d+)(-[0-9a-f]{8,})?")


@dataclass(frozen=True)
class Parts:
    """The files of one split or table, in the order of their rows.

    - where: names them in messages
    """

    where: str
    files: tuple[Path, ...]


def split_parts(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Parts]:
    """Return the files of each split, in the order of SPLITS; those of validation may be absent.

    - suffixes: with the dot, in small letters
    - raises ConfigError: where train or test has no file, two could be meant, or a shard is missing
    """
    found = {split: find_parts(folder, names, suffixes) for split, names in SPLITS.items()}
    for split in ("train", "test"):
        if found[split] is None:
            raise ConfigError(_absent(folder, SPLITS[split], suffixes))
    return {split: parts for split, parts in found.items() if parts is not None}


def find_parts(folder: Path, names: tuple[str, ...], suffixes: tuple[str, ...]) -> Parts | None:
    """Return the files of one of these names; None where there are none.

    - suffixes: with the dot, in small letters
    - raises ConfigError: where two of them could be meant, or a shard is missing or there twice
    """
    groups: dict[tuple[str, str, str], dict[int, Path]] = {}
    for file in _visible(folder):
        shard = SHARD.fullmatch(file.stem)
        name, number, count = file.stem, 0, ""
        if shard is not None:
            name, number, count = shard["name"], int(shard["number"]), shard["count"]
        if name.casefold() not in names or file.suffix.lower() not in suffixes or file.is_dir():
            continue
        own = groups.setdefault((name, count, file.suffix), {})
        if number in own:
            raise ConfigError(
                f"task.data.path: {folder} has two files for shard {number} of {name}: {own[number].name} and"
                f" {file.name}; keep one"
            )
        own[number] = file
    if not groups:
        return None
    if len(groups) > 1:
        order = sorted(groups, key=lambda group: (names.index(group[0].casefold()), group))
        stems = list(dict.fromkeys(name for name, _, _ in order))
        both = stems if len(stems) > 1 else [groups[each][min(groups[each])].name for each in order]
        raise ConfigError(f"task.data.path: {folder} has both {' and '.join(both)}; keep one")
    (((name, count, suffix), files),) = groups.items()
    if not count:
        return Parts(str(files[0]), (files[0],))
    _check_shards(folder, name, int(count), files)
    return Parts(str(folder / f"{name}-*-of-{count}{suffix}"), tuple(files[number] for number in sorted(files)))


def _check_shards(folder: Path, name: str, count: int, files: dict[int, Path]) -> None:
    first = 1 if 0 not in files and count in files else 0  # most tools count from 0
    wanted = range(first, first + count)
    lacking = [number for number in wanted if number not in files]
    if lacking:
        there = next(iter(files.values()))
        shard = SHARD.fullmatch(there.stem)
        assert shard is not None, "shards have such names"
        missing = f"{name}-{lacking[0]:0{len(shard['number'])}d}-of-{shard['count']}{there.suffix}"
        raise ConfigError(
            f"task.data.path: {folder} has {len(files)} of {count} shards of {name}; the first that is missing is"
            f" {missing}"
        )
    if len(files) > count:
        raise ConfigError(
            f"task.data.path: {folder} has {len(files)} shards of {name}, which has {count}:"
            f" {files[max(files)].name} is too many"
        )


def _absent(folder: Path, names: tuple[str, ...], suffixes: tuple[str, ...]) -> str:
    within = [each.name for each in _visible(folder) if each.is_dir() and find_parts(each, names, suffixes)]
    there = [each.name for each in folder.iterdir()]
    hint = nearest(names[0] + suffixes[0], there) if there else "the folder is empty"
    hint = f"its folder {within[0]} has one: give that folder" if within else hint
    return f"task.data.path: no file {names[0]}{suffixes[0]} in {folder}; {hint}"


def no_split(suffixes: tuple[str, ...]) -> str:
    """Return what an account calls files that are of no split."""
    names = ", ".join(name for names in SPLITS.values() for name in names)
    return f"files that are no split's ({names}; {', '.join(suffixes)})"


def not_read(folder: Path, used: Iterable[Path], what: str) -> tuple[LeftOut, ...]:
    """Account for the files and folders that are not read.

    - used: those that are
    - what: the others are
    """
    rest = sorted(set(folder.iterdir()) - set(used))
    hidden = [each.name for each in rest if is_hidden(each.name)]
    shown = [each for each in rest if not is_hidden(each.name)]
    return (
        *left_out("hidden files", hidden),
        *left_out("folders that are not entered", [each.name for each in shown if each.is_dir()]),
        *left_out(what, [each.name for each in shown if not each.is_dir()]),
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if not is_hidden(each.name))
