"""Labels of texts: names or numbers of classes, or none."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.data.labels import check_labels

#: How many distinct labels a message shows.
SHOWN = 4
#: Explains where labels with a decimal point come from.
FLOATS = "pandas makes such floats of integers where some are missing, which .astype('Int64') undoes"


def without_minus_ones(where: str, table: pa.Table, column: str, names: tuple[str, ...], permitted: bool) -> pa.Table:
    """Return a split whose labels of -1 are null, unless "-1" is among the names that labels may be.

    - where: names the split in messages
    - column: the name that the label's column has in the data
    - permitted: whether rows without a label are
    - raises ConfigError: for rows without a label that are not permitted, and where there are no others
    """
    label, about = table["label"], f"column '{column}' (task.data.label_column)"
    minus = pc.fill_null(pc.equal(label, "-1"), False)
    if "-1" in names:
        minus = pc.and_(minus, False)
    missing = pc.or_(label.is_null(), minus)
    if pc.all(missing).as_py():
        raise ConfigError(f"{where}: none of its {len(label)} rows has a label in {about}; give a split with labels")
    row = minus.index(True).as_py()
    if row >= 0 and not permitted:
        raise ConfigError(
            f"{where}: label -1 in row {row} of {about} is not a class ({pc.sum(minus).as_py()} such rows); where"
            " it says that there is no label, set task.unlabelled to anchors or ignore; where it is a class, give"
            " task.data.label_names"
        )
    if label.null_count and not permitted:
        raise ConfigError(
            f"{where}: {about} has {label.null_count} null values, the first in row"
            f" {label.is_null().index(True).as_py()}; every row needs a label, or task.unlabelled set to anchors or"
            " ignore, which says what rows without one are"
        )
    if row < 0:
        return table
    place = table.column_names.index("label")
    return table.set_column(place, "label", pc.if_else(minus, pa.scalar(None, label.type), label))


def class_numbers(
    where: dict[str, str], tables: dict[str, pa.Table], column: str, names: tuple[str, ...], may_be: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], int]:
    """Return each split's classes, (N,) int64 with -1 where there is no label, and the number of classes.

    - where: names each split in messages
    - column: the name that the label's column has in the data
    - names: of the classes; may_be: those of them that labels may be

    Labels are taken for names where all of them are among the names that they may be, otherwise for numbers.
    """
    names, may_be = one_form(names), one_form(may_be)
    distinct = {split: table["label"].unique().drop_null().to_pylist() for split, table in tables.items()}
    first = list(dict.fromkeys(word for words in distinct.values() for word in words))
    if set(first) <= set(may_be):
        values = pa.array(names, pa.large_string())
        found = {split: pc.index_in(table["label"], values).fill_null(-1) for split, table in tables.items()}
        numbers = {split: number.to_numpy().astype(np.int64) for split, number in found.items()}
        check_all_there(where["train"], numbers["train"], names)
        return numbers, len(names)
    for split, words in distinct.items():
        other = [word for word in words if not re.fullmatch(r"-?[0-9]{1,18}", word)]
        if not other and shifted(first, may_be):
            other = [word for word in words if word not in may_be]
        if other:
            raise ConfigError(_not_numbers(where[split], column, tables[split]["label"], other, names))
    _check_written_alike(first, column)
    values = {split: pc.cast(table["label"], pa.int64()) for split, table in tables.items()}
    if not names:
        _check_gaps(where["train"], values["train"])
    num_classes = len(names) or 1 + pc.max(values["train"]).as_py()
    numbers = {
        split: np.where(
            each.is_null().to_numpy(), -1, check_labels(each.fill_null(0).to_numpy(), num_classes, where[split])
        )
        for split, each in values.items()
    }
    check_all_there(where["train"], numbers["train"], names)
    return numbers, num_classes


def shifted(words: Sequence[str], names: Sequence[str]) -> bool:
    """Tell whether one of these labels is the name of a class whose number is another.

    - words: labels, all of them integers
    """
    places = {int(name): place for place, name in enumerate(names) if re.fullmatch(r"-?[0-9]{1,18}", name)}
    return any(places.get(int(word), int(word)) != int(word) for word in words)


def _check_written_alike(words: Sequence[str], column: str) -> None:
    """Raise ConfigError for two labels that are one number, such as 1 and 01: they may be two classes."""
    seen: dict[int, str] = {}
    for word in words:
        before = seen.setdefault(int(word), word)
        if before != word:
            raise ConfigError(
                f"task.data.label_names: column '{column}' has the labels {before!r} and {word!r}, which are one"
                " number; write them alike, or where they are names of two classes, give label_names"
            )


def one_form(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of classes as labels are compared: in one Unicode form, without white space around them."""
    plain = tuple(unicodedata.normalize("NFC", name.strip()) for name in names)
    twice = [name for place, name in enumerate(plain) if name in plain[:place]]
    if twice:
        raise ConfigError(
            f"task.data.label_names: {twice[0]!r} comes twice, or in two Unicode forms; each class needs a name of its"
            " own"
        )
    return plain


def check_all_there(where: str, labels_N: np.ndarray, names: tuple[str, ...]) -> None:
    """Raise ConfigError where a class that has a name has no labelled row in train."""
    lacking = sorted(set(range(len(names))) - set(np.unique(labels_N).tolist()))
    if lacking:
        others = ", ".join(repr(names[each]) for each in lacking[:SHOWN]) + (", ..." if len(lacking) > SHOWN else "")
        raise ConfigError(
            f"{where}: class {lacking[0]} has no row in the train split ({others} of the class names); add rows, or"
            " take the name out of task.data.label_names or labels.json"
        )


def _check_gaps(where: str, labels: pa.ChunkedArray) -> None:
    """Raise ConfigError where the classes' numbers don't begin at 0, or some between them are missing."""
    found = np.unique(labels.drop_null().to_numpy())
    least, most = int(found[0]), int(found[-1])
    if least > 0 and len(found) == most - least + 1:
        raise ConfigError(
            f"task.data.label_names: labels of {where} are {least}..{most}, class numbers begin at 0;"
            f" give the labels in the order of their classes, such as [{least}, ..., {most}]"
        )
    if least >= 0 and len(found) < most + 1:
        few = len(found) <= 2 * SHOWN
        shown = ", ".join(map(str, found if few else found[:SHOWN])) + ("" if few else f", ..., {most}")
        raise ConfigError(
            f"task.data.label_names: labels of {where} are {shown} ({len(found)} of them), class numbers are 0 to"
            f" {len(found) - 1} without a gap; give the labels in the order of their classes, such as [{shown}]"
        )


def _not_numbers(where: str, column: str, labels: pa.ChunkedArray, other: list[str], names: tuple[str, ...]) -> str:
    """Say why labels that are not integers can't be used.

    - other: the distinct ones
    """
    about = f"column '{column}' of {where}"
    unknown = [word for word in other if word not in names]
    if not names or not unknown:
        shown = ", ".join(repr(word[:40]) for word in other[:SHOWN]) + (", ..." if len(other) > SHOWN else "")
        return (
            f"task.data.label_names: labels in {about} are not integers ({shown}); where they are names of classes,"
            " give label_names in the order of the classes' numbers"
            + (f"; {FLOATS}" if all(re.fullmatch(r"[0-9]+\.0", word) for word in other) else "")
        )
    row, count = labels.index(unknown[0]).as_py(), sum(word in unknown for word in labels.to_pylist())
    return (
        f"task.data.label_names: label {unknown[0][:40]!r} in row {row} of {about} is none of the class names;"
        f" {nearest(unknown[0], names)} ({count} such rows)"
    )
