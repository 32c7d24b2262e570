"""Checks labels, and reads the names of classes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from tgt_ray.core.errors import ConfigError, cut
from tgt_ray.data.encoding import as_utf8

#: Names of files beside the splits that list the classes, in the order of their numbers.
NAMES = ("labels.json", "classes.txt")


def _printable(name: str) -> str:
    """Return the name of a class; ValueError where it is none."""
    fault = _fault(name)
    if fault:
        raise ValueError(f"{cut(name)!r} can't name a class: it {fault}")
    return name


def _fault(name: str) -> str:
    if not name.strip():
        return "is empty"
    if any("\ud800" <= character <= "\udfff" for character in name):
        return "has half a character (a surrogate)"
    return ""


#: The name of a class in settings; numbers are taken as texts.
ClassName = Annotated[str, Field(coerce_numbers_to_str=True), AfterValidator(_printable)]


def check_labels(labels: np.ndarray, num_classes: int, file: Path | str) -> np.ndarray:
    """Return labels (N,) as int64; ConfigError for one outside 0..num_classes - 1."""
    labels = labels.astype(np.int64)
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(bad):
        raise ConfigError(
            f"{file}: label {labels[bad[0]]} in row {bad[0]} is outside the class range 0..{num_classes - 1}"
            f" ({len(bad)} such rows)"
        )
    return labels


def names_beside(folders: Sequence[Path], instead: str = "") -> tuple[list[str], tuple[Path, ...]]:
    """Read the names of the classes from the file beside the splits that has them: labels.json, or classes.txt.

    - folders: in which it may lie
    - instead: a setting with which such a file is not read, for messages
    - returns: the names, and the file; nothing where there is none
    - raises ConfigError: where two files have names
    """
    found = [folder / name for folder in folders for name in NAMES if (folder / name).is_file()]
    if len(found) > 1:
        raise ConfigError(f"{found[0]}: {found[1]} names the classes as well; keep one of the two")
    return (label_names(found[0], instead), (found[0],)) if found else ([], ())


def label_names(file: Path, instead: str = "") -> list[str]:
    """Read the names of the classes, in the order of their numbers.

    They are a JSON list, or a JSON object with the name of each number, or in a .txt file one a line.

    - instead: a setting with which the file is not read, for messages
    """
    with as_utf8(file).lines() as lines:
        content = lines.read()
    if file.suffix.lower() == ".txt":
        names: Any = [line.strip() for line in re.split(r"\r\n|\n|\r", content) if line.strip()]
    else:
        try:
            names = json.loads(content, object_pairs_hook=partial(_object, file))
        except ConfigError:  # a ValueError as well, but with its own words
            raise
        except (ValueError, RecursionError) as err:
            raise ConfigError(f"{file}: not valid JSON ({err})") from err
    if isinstance(names, dict):
        numbers = [str(number) for number in range(len(names))]
        names = [names[number] for number in numbers] if set(numbers) == set(names) else None
    if not isinstance(names, list) or not names:
        ways = "mend it" + (f", or set {instead}, with which it is not read" if instead else ", or take it away")
        raise ConfigError(
            f'{file}: expected a list of class names, or the name of each number from 0 without a gap as in {{"0":'
            f' "cat", "1": "dog"}}; {ways}'
        )
    for place, name in enumerate(names):
        if isinstance(name, bool) or not isinstance(name, str | int | float):
            raise ConfigError(f"{file}: entry {place} is {json.dumps(name)}; expected the name of class {place}")
    out = [str(name) for name in names]
    for place, name in enumerate(out):
        if fault := _fault(name):
            raise ConfigError(f"{file}: entry {place} can't name a class: it {fault}")
    twice = [name for place, name in enumerate(out) if name in out[:place]]
    if twice:
        raise ConfigError(f"{file}: the name {twice[0]!r} comes twice; each class needs a name of its own")
    return out


def _object(file: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; ConfigError where it has a key twice, since one of the two values would be lost."""
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise ConfigError(f"{file}: the key {key!r} comes twice; each class needs a number of its own")
        out[key] = value
    return out
