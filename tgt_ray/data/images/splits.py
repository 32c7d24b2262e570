"""Finds the folders or files of each split by the names that they have in published data sets."""

from __future__ import annotations

import re
from pathlib import Path

from tgt_ray.core.errors import ConfigError
from tgt_ray.data.account import LeftOut, left_out

#: Names that the splits have.
NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "val", "valid", "dev"),
}
SPLIT_OF = {name: split for split, names in NAMES.items() for name in names}
#: A shard as hubs name them, such as train-00000-of-00002.parquet; a hash may come after it.
SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d+)-of-(?P<count>\d+)(-[0-9a-f]{8,})?")


def split_folders(root: Path, there: list[Path]) -> tuple[dict[str, Path], tuple[LeftOut, ...]]:
    """Return the folder of each split, and what no split is.

    - there: the folders in `root`, without hidden ones
    - raises ConfigError: where a split has two folders, or train or test has none
    """
    found: dict[str, Path] = {}
    others = []
    for folder in there:
        split = SPLIT_OF.get(folder.name.casefold())
        if split is None:
            others.append(folder.name)
        elif split in found:
            raise ConfigError(
                f"task.data.path: {root} has '{found[split].name}' and '{folder.name}', two folders for the split"
                f" '{split}'; rename or remove one of them"
            )
        else:
            found[split] = folder
    for split in ("train", "test"):
        if split not in found:
            raise ConfigError(f"task.data.path: no folder '{split}' in {root}; it has {_listed(others)}")
    # Each with its name: a split that goes by another name is to be seen.
    return {split: found[split] for split in NAMES if split in found}, tuple(
        entry for name in others for entry in left_out("folder that is no split", [name])
    )


def split_files(root: Path, suffix: str) -> tuple[dict[str, list[Path]], tuple[LeftOut, ...]]:
    """Return the files of each split in order, and the files of this suffix that belong to none.

    - suffix: of the files, such as ".parquet"
    - raises ConfigError: where a split has files of two names, or train or test has none, or shards are missing
    """
    found: dict[str, dict[str, list[Path]]] = {}
    others = []
    for file in sorted(root.glob(f"*{suffix}")):
        shard = SHARD.fullmatch(file.stem)
        name = shard["name"] if shard else file.stem
        split = SPLIT_OF.get(name.casefold())
        if file.name.startswith(".") or split is None:
            others.append(file.name)
        else:
            # A whole file and shards are two sources of one split.
            kind = f"{name}-*-of-{shard['count']}" if shard else name
            found.setdefault(split, {}).setdefault(kind, []).append(file)
    for split, kinds in found.items():
        if len(kinds) > 1:
            one, other, *_ = kinds
            raise ConfigError(
                f"task.data.path: {root} has {one}{suffix} and {other}{suffix}, two sources for the split '{split}';"
                " rename or remove one of them"
            )
    for split in ("train", "test"):
        if split not in found:
            raise ConfigError(f"task.data.path: no file {split}{suffix} in {root}; it has {_listed(others)}")
    files = {split: next(iter(found[split].values())) for split in NAMES if split in found}
    for each in files.values():
        _check_shards(root, each)
    return files, left_out(f"{suffix} files that are no split", others)


def _check_shards(root: Path, files: list[Path]) -> None:
    shards = [shard for file in files if (shard := SHARD.fullmatch(file.stem))]
    if not shards:
        return
    numbers, count = [int(shard["number"]) for shard in shards], int(shards[0]["count"])
    if sorted(set(numbers)) != numbers:
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise ConfigError(f"task.data.path: {root} has two files for shard {twice} of {shards[0]['name']}; keep one")
    missing = [number for number in range(count) if number not in numbers]
    if missing or len(numbers) > count:
        lacks = f"shard {missing[0]} is missing" if missing else f"shard {numbers[-1]} is too many"
        raise ConfigError(
            f"task.data.path: {root} has {len(numbers)} of {count} shards of {shards[0]['name']}: {lacks};"
            " they are numbered from 0"
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") if names else "nothing else"
