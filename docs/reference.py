"""Writes docs/reference.md: every setting, from the types that read it.

python docs/reference.py
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from tgt_ray.core.config import Config, OneOf
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.sweeps.config import SweepConfig

PAGE = Path(__file__).parent / "reference.md"

INTRO = """\
# Reference: every setting

This page is made from the types that read the settings: `python docs/reference.py` writes it. Each table has the
settings of one block. A *block* is a mapping in the YAML file, such as `train: {steps: 500}`. A *component* is a block
with the key `type`, which says what else it may hold; `type: your_package.module:Class` names
[one of your own](components.md).

Dotted keys, as in `--set train.steps=200` and in the space of a sweep, are the names of the blocks from the outside to
the inside. `python -m tgt_ray train --schema` and `python -m tgt_ray sweep --schema` print the same as JSON Schema, for
editors.
"""

#: The blocks of an experiment, each a part of the page with what it is for.
BLOCKS = {
    "task": "What is learnt, and from which data.",
    "teacher": "The labeler, which says what rows are, and the generator, which makes synthetic ones.",
    "student": "The compact network that is trained.",
    "explorer": "How synthetic rows are moved away from the rows that they start from.",
    "objective": "What the student minimises.",
    "train": "How the student is trained.",
    "pool": "The processes that make synthetic rows.",
    "fit_check": "What is measured of the teacher before anything is trained.",
}


def render() -> str:
    """The page."""
    written: set[type[Config]] = {Experiment}
    lines = [INTRO, "## An experiment", "", "What `python -m tgt_ray train EXPERIMENT.yaml` reads.", ""]
    lines += section(Experiment, "")
    for name, about_it in BLOCKS.items():
        lines += [f"## The block `{name}`", "", about_it, ""]
        for inner in configs_in(annotation_of(Experiment.model_fields[name])):
            for place, cls in blocks(inner, name, written):
                lines += section(cls, place)
    lines += [
        "## A sweep",
        "",
        "What `python -m tgt_ray sweep SWEEP.yaml` reads: an experiment, and how to search it.",
        "",
    ]
    for place, cls in blocks(SweepConfig, "", written):
        lines += section(cls, place)
    return "\n".join(lines).rstrip() + "\n"


def blocks(cls: type[Config], place: str, written: set[type[Config]]) -> Iterator[tuple[str, type[Config]]]:
    """A type and all types below it that are not written yet, each with the dotted key where it stands first."""
    if cls in written:
        return
    written.add(cls)
    yield place, cls
    for name, info in cls.model_fields.items():
        for inner in configs_in(annotation_of(info)):
            yield from blocks(inner, f"{place}.{name}".lstrip("."), written)


def annotation_of(info: FieldInfo) -> Any:
    """A field's annotation, with the choice of components that pydantic takes out of it."""
    choices = [each for each in info.metadata if isinstance(each, OneOf)]
    return Annotated[info.annotation, choices[0]] if choices else info.annotation


def configs_in(annotation: Any) -> Iterator[type[Config]]:
    """The config types that a field may hold."""
    if get_origin(annotation) is Annotated:
        for each in get_args(annotation)[1:]:
            if isinstance(each, OneOf):
                yield from each.builtins.values()
                return
        yield from configs_in(get_args(annotation)[0])
    elif inspect.isclass(annotation) and issubclass(annotation, Config):
        yield annotation
    else:
        for each in get_args(annotation):
            yield from configs_in(each)


def section(cls: type[Config], place: str) -> list[str]:
    """Heading, what the block is, and the table of its settings."""
    lines = [f"### {heading(cls)}", "", f"At `{place}`. {about(cls)}" if place else about(cls), ""]
    rows = [(name, info) for name, info in cls.model_fields.items() if name != "type" or not is_fixed(info)]
    if not rows:
        return [*lines, "It has no settings beside its type.", ""]
    lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for name, info in rows:
        cells = (f"`{name}`", kind(annotation_of(info), info), default(info), info.description or "")
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return [*lines, ""]


def is_fixed(info: FieldInfo) -> bool:
    return get_origin(info.annotation) is Literal and len(get_args(info.annotation)) == 1


def heading(cls: type[Config]) -> str:
    fixed = cls.model_fields.get("type")
    return f"`type: {fixed.default}` ({cls.__name__})" if fixed is not None and is_fixed(fixed) else cls.__name__


def about(cls: type[Config]) -> str:
    return " ".join((inspect.getdoc(cls) or "").split())


def anchor(cls: type[Config]) -> str:
    """What GitHub and MyST make of the heading."""
    kept = (c for c in heading(cls).lower() if c.isalnum() or c in " -_")
    return "".join(kept).replace(" ", "-")


def kind(annotation: Any, info: FieldInfo | None = None) -> str:
    """A type in words, with the limits that a number has."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        for each in args[1:]:
            if isinstance(each, OneOf):
                return "one of " + ", ".join(link(name, cls) for name, cls in each.builtins.items())
        return kind(args[0], info)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in args)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(kind(each, info) for each in args if each is not type(None)))
    if origin in (list, tuple, set):
        inner = [each for each in args if each is not Ellipsis]
        several = origin is tuple and Ellipsis not in args
        return ("list: " if several else "list of ") + ", ".join(kind(each) for each in inner)
    if origin is dict:
        return f"mapping of {kind(args[0])} to {kind(args[1])}"
    if inspect.isclass(annotation) and issubclass(annotation, Config):
        return link("block", annotation)
    plain = {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "Path": "path"}
    name = plain.get(annotation.__name__, annotation.__name__)
    return name + limits(info) if info is not None and name in ("integer", "number") else name


def link(text: str, cls: type[Config]) -> str:
    return f"[`{text}`](#{anchor(cls)})"


def limits(info: FieldInfo) -> str:
    """Such as ` ≥ 0, < 1`."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(each, key):g}" for each in info.metadata for key, sign in signs.items() if hasattr(each, key)
    ]
    return f" {', '.join(found)}" if found else ""


def default(info: FieldInfo) -> str:
    """The default, as YAML would have it; that of a block is said in the block's own table."""
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if isinstance(value, Config):
        kind_of = getattr(value, "type", None)
        return f"`{kind_of}`" if kind_of else "its defaults"
    if value is None:
        return "absent"
    if isinstance(value, dict):
        return "see below" if not value else ", ".join(f"`{key}`" for key in value)
    if isinstance(value, tuple | list):
        return f"`[{', '.join(map(str, value))}]`"
    if isinstance(value, float):
        return f"`{value:.6g}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
