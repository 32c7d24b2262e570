"""Looks for image files in folders, and keeps an account of all others."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tgt_ray.core.errors import ConfigError
from tgt_ray.data.account import LeftOut, is_hidden, left_out
from tgt_ray.data.parts import SPLITS

#: The split that a folder of this name, in small letters, has.
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}
#: Device and number of a file or folder.
Inode = tuple[int, int]
#: Formats that Pillow knows and reads no picture of, and PostScript, which is a program.
NO_PICTURES = ("MPEG", "EPS")


@functools.cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of the files that Pillow reads, in small letters."""
    from PIL import Image, ImageFile

    Image.init()
    # Of some formats Pillow knows that a file has them, and leaves reading it to other packages.
    stubs = {
        name
        for name, (opener, *_) in Image.OPEN.items()
        if isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)
    }
    readable = {*Image.OPEN, "MPO"} - stubs - set(NO_PICTURES)  # the reader of JPEG opens MPO
    return frozenset(suffix.lower() for suffix, name in Image.registered_extensions().items() if name in readable)


@dataclass
class Found:
    """Collects what was found below a folder.

    - root: the folder that names in the account start from
    """

    root: Path
    hidden: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    others: dict[str, list[str]] = field(default_factory=dict)
    _apart: dict[Inode, Path] = field(default_factory=dict)

    def entries(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """Return the folders and the files in a folder, by name, without hidden ones, which are counted."""
        folders: list[Path] = []
        files: list[Path] = []
        try:
            with os.scandir(folder) as there:
                for entry in there:
                    if is_hidden(entry.name):
                        self.hidden.append(self.name(folder / entry.name))
                    elif _is_folder(entry):
                        folders.append(folder / entry.name)
                    elif entry.is_file(follow_symlinks=False) or _is_link_to_no_special(folder / entry.name):
                        files.append(folder / entry.name)
                    else:
                        self.special.append(self.name(folder / entry.name))
        except OSError as err:
            raise ConfigError(f"{folder}: cannot read the folder ({err.strerror})") from err
        return sorted(folders), sorted(files)

    def images(self, folder: Path) -> list[Path]:
        """Return the image files below a folder, in order of their paths; linked folders are entered, each once."""
        return sorted(file for file in self._below(folder, set(), inode(folder)) if self.is_image(file))

    def keep_apart(self, folders: list[Path]) -> None:
        """Note the folders of splits and classes: where a link leads to one, its images don't count there again."""
        self._apart = {inode(each): each for each in folders}

    def _below(self, folder: Path, entered: set[Inode], top: Inode) -> Iterator[Path]:
        """Yield the files below a folder.

        - entered: folders so far
        - top: where this began
        """
        own = inode(folder)
        if own in entered:  # a link back, or a second link to one folder
            self.again.append(self.name(folder))
            return
        entered.add(own)
        if own != top and folder.is_symlink() and self._leads_elsewhere(folder, own, top):
            self.elsewhere.append(self.name(folder))
            return
        folders, files = self.entries(folder)
        yield from files
        # Links come last: a folder goes by its own name where it has one here.
        for each in sorted(folders, key=lambda path: (path.is_symlink(), path)):
            yield from self._below(each, entered, top)

    def _leads_elsewhere(self, link: Path, own: Inode, top: Inode) -> bool:
        """Tell whether a link leads to a folder above it, or to what is a split's or another class's."""
        real = link.resolve()
        above = {inode(each) for each in (*link.parents, *self.root.resolve().parents)}
        if own in above or own in self._apart:
            return True
        inside = {inode(each) for each in real.parents}
        splits = {each for each, path in self._apart.items() if path.parent == self.root}
        return top not in inside and bool(inside & (set(self._apart) - splits))

    def is_image(self, file: Path) -> bool:
        """Tell whether a file is an image by its suffix; others are counted."""
        if file.suffix.lower() in suffixes():
            return True
        if is_broken(file):
            self.broken.append(self.name(file))
            return False
        self.others.setdefault(file.suffix.lower(), []).append(self.name(file))
        return False

    def outside_of_classes(self, files: list[Path]) -> None:
        """Count files of a split that lie in no folder of a class."""
        self.outside += [self.name(file) for file in files if self.is_image(file)]

    def others_in(self, folder: Path) -> str:
        """Say for a message which other files were found below a folder; nothing where there are none."""
        inner = f"{self.name(folder)}/"
        there = {suffix: sum(name.startswith(inner) for name in names) for suffix, names in self.others.items()}
        parts = [f"{count} {_of_suffix(suffix)}" for suffix, count in sorted(there.items()) if count]
        return f" ({', '.join(parts)}, which are not read)" if parts else ""

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def left_out(self) -> tuple[LeftOut, ...]:
        """Return the account of all that is no image of a class."""
        return (
            *left_out("hidden files and folders", sorted(self.hidden)),
            *left_out("images in no folder of a class", self.outside),
            *left_out("folders that were entered before", self.again),
            *left_out("links to folders above, of a split or of another class", self.elsewhere),
            *left_out("links to what can't be reached", self.broken),
            *left_out("pipes, sockets and devices", self.special),
            *(entry for suffix, names in sorted(self.others.items()) for entry in left_out(_of_suffix(suffix), names)),
        )


def _of_suffix(suffix: str) -> str:
    return f"files with the suffix {suffix}" if suffix else "files without a suffix"


def is_broken(file: Path) -> bool:
    """Tell whether a file is a link to one that can't be reached, or to itself."""
    try:
        file.stat()
    except OSError:
        return file.is_symlink()
    return False


def refuse_broken(file: Path, what: str) -> None:
    """Raise ConfigError for a link to nothing.

    - what: it would be the folder of
    """
    if is_broken(file):
        raise ConfigError(
            f"{file}: is a link to {file.readlink()}, which can't be reached, and would be the folder of a {what};"
            " bring its target back, or remove the link"
        )


def _is_link_to_no_special(path: Path) -> bool:
    return is_broken(path) or path.is_file()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def inode(folder: Path) -> Inode:
    """Return what two paths to one folder have in common."""
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


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
    return {split: found[split] for split in SPLITS if split in found}, tuple(
        entry for name in others for entry in left_out("folder that is no split", [name])
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") if names else "nothing else"
