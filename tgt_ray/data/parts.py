"""Finds the files of a split or a table in a folder, whole or in shards, and accounts for all others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.data.account import LeftOut, is_hidden, left_out, merged

#: What the folders or files of each split may be called, in small letters.
SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val", "dev"),
}
#: What the file or folder of further rows for train that have no labels may be called, in small letters.
UNLABELLED = ("unlabelled", "unlabeled", "unsupervised")
#: The stem of a file that is one of several, as hubs name them; a hash may come after it.
SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d+)-of-(?P<count>\d+)(-[0-9a-f]{8,})?")


#: The stem of a file whose whole name is its number, as in the branch of Parquet files that Hugging Face makes.
NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Parts:
    """The files of one split or table, in the order of their rows.

    - where: names them in messages
    """

    where: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Layout:
    """The files of each split that a folder has.

    - root: what the user gave
    - home: the folder in which the splits lie: `root`, or the only folder in it that has some
    - parts: in the order of SPLITS; those of validation may be absent
    """

    root: Path
    home: Path
    parts: dict[str, Parts]

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders in which files beside the splits may lie, the nearest first."""
        return tuple(dict.fromkeys((self.home, self.root)))

    def left_out(self, beside: Iterable[Path], what: str, folders: bool = True) -> tuple[LeftOut, ...]:
        """Account for the files, and unless `folders` is false for the folders, that are not read.

        - beside: files that are read or counted elsewhere, besides those of the splits
        - what: the other files are
        """
        used = [*beside, *(file for parts in self.parts.values() for file in parts.files)]
        return not_read(self.root, used, what, folders, (self.home,))


def kind_of(file: Path) -> tuple[str, str]:
    """Return a file's name without its suffix, and its suffix in small letters; with .gz behind it, both are one."""
    packed = file.suffix.lower() == ".gz"
    inner = file.with_suffix("") if packed else file
    return inner.stem, inner.suffix.lower() + (".gz" if packed else "")


def split_parts(root: Path, suffixes: tuple[str, ...], bare: tuple[str, ...] = ()) -> Layout:
    """Find the files of each split.

    Hubs have them in a folder `data`, or in one with the name of a configuration: where `root` itself has no split, the
    one folder in it that has some is entered.

    - suffixes: with the dot, in small letters
    - bare: suffixes of files that can't have labels; a message names those that have the name of an absent split
    - raises ConfigError: where train or test has no file, two could be meant, or a shard is missing
    """
    home = _home(root, suffixes)
    found = {split: find_parts(home, names, suffixes) for split, names in SPLITS.items()}
    for split in ("train", "test"):
        if found[split] is None:
            lines = _named_inside(home, SPLITS[split], bare)
            if lines:
                raise ConfigError(
                    f"{lines[0]}: has texts without labels, and {split} needs labels; give it as {split}{suffixes[0]},"
                    f" and further texts without labels as unlabelled{bare[0]}"
                )
            raise ConfigError(_absent(home, SPLITS[split], suffixes))
    there = {split: parts for split, parts in found.items() if parts is not None}
    return Layout(root, home, there)


def files_named(folder: Path, names: tuple[str, ...], suffixes: tuple[str, ...]) -> list[Path]:
    """Return all files that `find_parts` would look at, whether or not they fit together.

    - suffixes: with the dot, in small letters
    """
    out: list[Path] = []
    for file in _visible(folder):
        stem, suffix = kind_of(file)
        if file.is_dir():
            if file.name.casefold() in names:
                out += [each for each in _visible(file) if not each.is_dir() and kind_of(each)[1] in suffixes]
        elif suffix in suffixes:
            shard = SHARD.fullmatch(stem)
            if (stem if shard is None else shard["name"]).casefold() in names:
                out.append(file)
    return out


def _named_inside(folder: Path, names: tuple[str, ...], suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files of such names in a folder, or where it has none, in its folders, as splits may lie there."""
    inner = [each for each in _visible(folder) if each.is_dir()]
    return files_named(folder, names, suffixes) or [
        file for each in inner for file in files_named(each, names, suffixes)
    ]


def _home(root: Path, suffixes: tuple[str, ...]) -> Path:
    if any(_candidates(root, SPLITS[split], suffixes) for split in ("train", "test")):
        return root
    inner = [
        folder
        for folder in _visible(root)
        if folder.is_dir() and any(_candidates(folder, SPLITS[split], suffixes) for split in ("train", "test"))
    ]
    if len(inner) > 1:
        raise ConfigError(
            f"task.data.path: {root} has no file {SPLITS['train'][0]}{suffixes[0]}, and its folders"
            f" {' and '.join(each.name for each in inner[:2])} both have splits; give one of them"
        )
    return inner[0] if inner else root


def find_parts(folder: Path, names: tuple[str, ...], suffixes: tuple[str, ...]) -> Parts | None:
    """Return the files of one of these names, or those in a folder of such a name; None where there are none.

    - suffixes: with the dot, in small letters
    - raises ConfigError: where two of them could be meant, or a shard is missing or there twice
    """
    found = _candidates(folder, names, suffixes)
    if not found:
        return None
    if len(found) > 1:
        own = sorted(found.items(), key=lambda each: (names.index(each[1].meant.casefold()), each[1].count, each[0]))
        stems = list(dict.fromkeys(group.meant for _, group in own))
        both = stems if len(stems) > 1 else [name for name, _ in own]
        raise ConfigError(f"task.data.path: {folder} has both {' and '.join(both)}; keep one")
    (group,) = found.values()
    return group.parts()


@dataclass
class _Group:
    """Files that are one split together: one file, its shards, or all in a folder.

    - meant: the name of the split or table
    - name: what the names of shards begin with
    - count: of the shards, as their names say; empty for one file
    - files: by their number
    """

    folder: Path
    meant: str
    name: str
    suffix: str
    count: str = ""
    files: dict[int, Path] = field(default_factory=dict)

    def add(self, number: int, file: Path) -> None:
        if number in self.files:
            raise ConfigError(
                f"task.data.path: {self.folder} has two files for shard {number} of {self.name}:"
                f" {self.files[number].name} and {file.name}; keep one"
            )
        self.files[number] = file

    def parts(self) -> Parts:
        files = tuple(self.files[number] for number in sorted(self.files))
        if self.count:
            _check_shards(self.folder, self.name, int(self.count), self.files)
            return Parts(str(self.folder / f"{self.name}-*-of-{self.count}{self.suffix}"), files)
        return Parts(str(files[0]) if len(files) == 1 else str(self.folder / f"*{self.suffix}"), files)


def _candidates(folder: Path, names: tuple[str, ...], suffixes: tuple[str, ...]) -> dict[str, _Group]:
    """Return what could be meant by one of these names, by the name of the first file or of the folder."""
    groups: dict[tuple[str, str, str], _Group] = {}
    inner: dict[str, _Group] = {}
    for file in _visible(folder):
        if file.is_dir():
            # Spark writes a folder with the name of a file.
            whole = kind_of(file) if kind_of(file)[1] in suffixes else (file.name, "")
            group = _inside(file, whole[0], suffixes) if whole[0].casefold() in names else None
            if group is not None:
                inner[file.name] = group
            continue
        stem, suffix = kind_of(file)
        shard = SHARD.fullmatch(stem)
        name, number, count = (stem, 0, "") if shard is None else (shard["name"], int(shard["number"]), shard["count"])
        if name.casefold() in names and suffix in suffixes:
            groups.setdefault((name, count, suffix), _Group(folder, name, name, suffix, count)).add(number, file)
    return {**{group.files[min(group.files)].name: group for group in groups.values()}, **inner}


def _inside(folder: Path, meant: str, suffixes: tuple[str, ...]) -> _Group | None:
    """Return the files in the folder of a split: shards, files with numbers for names, or others by their names.

    - meant: the name of the split or table
    """
    files = [each for each in _visible(folder) if not each.is_dir() and kind_of(each)[1] in suffixes]
    if not files:
        return None
    kinds = {kind_of(file)[1]: file.name for file in reversed(files)}
    if len(kinds) > 1:
        raise ConfigError(f"task.data.path: {folder} has both {' and '.join(sorted(kinds.values()))}; keep one")
    ((suffix, _),) = kinds.items()
    shards = [SHARD.fullmatch(kind_of(file)[0]) for file in files]
    sets = {
        (shard["name"], shard["count"]) if shard else ("", ""): file.name
        for shard, file in reversed(list(zip(shards, files, strict=True)))
    }
    if len(sets) > 1:
        raise ConfigError(f"task.data.path: {folder} has both {' and '.join(sorted(sets.values()))}; keep one")
    (((name, count), _),) = sets.items()
    group = _Group(folder, meant, name or meant, suffix, count)
    if not count and all(NUMBER.fullmatch(kind_of(file)[0]) for file in files):
        _check_numbers(folder, files)
    for place, (shard, file) in enumerate(zip(shards, files, strict=True)):
        group.add(int(shard["number"]) if shard else place, file)
    return group


def _check_numbers(folder: Path, files: Sequence[Path]) -> None:
    """Raise ConfigError where a number between the first and the last is missing."""
    numbers = [int(kind_of(file)[0]) for file in files]
    lacking = sorted({*range(min(1, *numbers), max(numbers) + 1)} - {*numbers})
    if lacking:
        name, suffix = kind_of(files[0])
        raise ConfigError(
            f"task.data.path: {folder} has {len(files)} of {max(numbers) + 1} shards of {folder.name}; the first that"
            f" is missing is {lacking[0]:0{len(name)}d}{suffix}"
        )


def _check_shards(folder: Path, name: str, count: int, files: dict[int, Path]) -> None:
    first = 1 if 0 not in files and count in files else 0  # most tools count from 0
    wanted = range(first, first + count)
    lacking = [number for number in wanted if number not in files]
    if lacking:
        stem, suffix = kind_of(next(iter(files.values())))
        shard = SHARD.fullmatch(stem)
        assert shard is not None, "shards have such names"
        missing = f"{name}-{lacking[0]:0{len(shard['number'])}d}-of-{shard['count']}{suffix}"
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
    empty = [each for name in names for end in suffixes if (each := folder / f"{name}{end}").is_dir()]
    if empty:
        return f"task.data.path: {empty[0]} is a folder without files of this kind"
    there = [each.name for each in folder.iterdir()]
    hint = nearest(names[0] + suffixes[0], there) if there else "the folder is empty"
    return f"task.data.path: no file {names[0]}{suffixes[0]} in {folder}; {hint}"


def no_split(suffixes: tuple[str, ...]) -> str:
    """Return what an account calls files that are of no split."""
    names = ", ".join(name for names in SPLITS.values() for name in names)
    return f"files that are no split's ({names}; {', '.join(suffixes)})"


def not_read(
    root: Path, used: Iterable[Path], what: str, folders: bool = True, entered: Iterable[Path] = ()
) -> tuple[LeftOut, ...]:
    """Account for the files, and unless `folders` is false for the folders, that are not read.

    - root: the folder that names in the account start from
    - used: the files and folders that are read; those beside a file in a folder below `root` are looked at as well
    - what: the other files are
    - entered: further folders whose files are looked at
    """
    used = set(used)
    inner = {root, *entered, *(file.parent for file in used if root in file.parents)}
    entries: list[LeftOut] = []
    for folder in sorted(each for each in inner if each.is_dir()):
        rest = sorted(set(folder.iterdir()) - used - inner)
        hidden = [each for each in rest if is_hidden(each.name)]
        shown = [each for each in rest if not is_hidden(each.name)]
        kinds = {
            "hidden files": hidden,
            "folders that are not entered": [each for each in shown if each.is_dir() and folders],
            what: [each for each in shown if not each.is_dir()],
        }
        for kind, found in kinds.items():
            entries += left_out(kind, [each.relative_to(root).as_posix() for each in found])
    return merged(entries)


def _visible(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if not is_hidden(each.name))
