"""Reads configs from YAML and KEY=VALUE, and writes them as YAML."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

from tgt_ray.core.config import Config, component_class
from tgt_ray.core.errors import ConfigError

#: The bytes that UTF-8 and UTF-16 files may begin with.
BYTE_ORDER_MARKS = b"\xff\xfe\xef\xbb\xbf"


class _Loader(yaml.SafeLoader):
    """Reads plain values as YAML 1.2 does: 1e-3 is a number, while no, on, 1:30 and 2020-01-01 are texts.

    A key that is given twice is an error. 1_000 stays a number, as in YAML 1.1.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag == "tag:yaml.org,2002:merge":
                continue  # what is merged in may be set again
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise _KeyTwice(f"the key '{name}' is given twice, in lines {lines[name]} and {line}")
            lines[name] = line
        return super().construct_mapping(node, deep)

    def integer(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node).replace("_", "")
        base = {"0x": 16, "0o": 8}.get(text[:2].lower(), 10)
        return int(text, base) if base != 10 else int(text)

    def boolean(self, node: yaml.ScalarNode) -> Any:
        self._fits(node, str(self.construct_scalar(node)).lower() in self.bool_values)
        return self.construct_yaml_bool(node)

    def decimal(self, node: yaml.ScalarNode) -> Any:
        self._fits(node, bool(self.construct_scalar(node)))
        return self.construct_yaml_float(node)

    def date(self, node: yaml.ScalarNode) -> Any:
        return self.construct_undefined(node)

    def _fits(self, node: yaml.ScalarNode, good: bool) -> None:
        """Raise where a value isn't of the kind that a tag before it says, on which the library's own readers fail."""
        if not good:
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(None, None, f"'{node.value}' is not of the kind {kind}")

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        _check_ends(node, set(), set())
        return node


class _KeyTwice(yaml.YAMLError):
    pass


def _check_ends(node: Any, above: set[int], seen: set[int]) -> None:
    """Raise for a list or mapping that holds itself, as in `&a [*a]`."""
    if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
        return
    if id(node) in above:
        raise yaml.YAMLError("a list or mapping holds itself")
    above.add(id(node))
    for each in node.value:
        for part in each if isinstance(each, tuple) else (each,):
            _check_ends(part, above, seen)
    above.remove(id(node))
    seen.add(id(node))


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.integer)
_Loader.add_constructor("tag:yaml.org,2002:bool", _Loader.boolean)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.decimal)
# No setting takes a date.
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.date)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping from a file; ConfigError if it is missing, unreadable or not a mapping."""
    try:
        content = Path(path).read_bytes()
    except OSError as err:
        raise ConfigError(f"{path}: cannot read the file ({err.strerror})") from err
    return parse_yaml(content, str(path))


def parse_yaml(content: bytes, where: str) -> dict[str, Any]:
    """Parse a YAML mapping in UTF-8 or UTF-16; a ConfigError that starts with `where` if it is not one."""
    if not content.lstrip(BYTE_ORDER_MARKS).strip():
        raise ConfigError(f"{where}: is empty; expected YAML, such as train: {{steps: 500}} ({{}} for all defaults)")
    try:
        data = _parse(content)
    except _KeyTwice as err:
        raise ConfigError(f"{where}: {err}") from err
    except (yaml.YAMLError, UnicodeError) as err:
        raise ConfigError(f"{where}: not valid YAML ({' '.join(str(err).split())})") from err
    if data is None:  # nothing but comments
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a mapping at the top, got {type(data).__name__}")
    return data


def _parse(content: bytes | str) -> Any:
    try:
        return yaml.load(content, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except RecursionError as err:
        raise yaml.YAMLError("too many levels of brackets or indentation") from err
    except ValueError as err:  # an integer of thousands of digits
        raise yaml.YAMLError(str(err)) from err


def dump_yaml(config: Config) -> str:
    """Return the complete config as YAML that loads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def parse_override(text: str) -> tuple[str, Any]:
    """Split `a.b=value` into (`a.b`, value parsed as YAML).

    A text stays as it is written, with its spaces and what YAML takes for a comment or an anchor, unless it stands in
    quotes. A mapping needs braces, so that `query_prefix=query: ` is a text.
    """
    key, equals, value = text.partition("=")
    if not equals or not key or not all(key.split(".")):
        raise ConfigError(f"--set {text}: expected KEY=VALUE with a dotted key, such as train.steps=500")
    if _is_text(value):
        return key, value
    try:
        parsed = _parse(value)
    except _KeyTwice as err:
        raise ConfigError(f"--set {text}: {err}") from err
    except (yaml.YAMLError, UnicodeError) as err:
        raise ConfigError(f"--set {text}: the value is not valid YAML") from err
    return key, value if isinstance(parsed, dict) and not value.lstrip().startswith("{") else parsed


def _is_text(value: str) -> bool:
    """Whether the value of an override is a text without quotes, which is taken as it is written."""
    bare = value.lstrip()
    # A name before a value is left off by YAML, and one that stands for a value needs another place that gives it.
    if re.match(r"\*|&[^\s\[\]{},]+\s+(?![\[{])", bare):
        return True
    try:
        node = yaml.compose(value, Loader=_Loader)
    except (yaml.YAMLError, UnicodeError, RecursionError):
        return False  # as parsing it says
    if node is None:
        return bare.startswith("#")
    if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str" or bare.startswith("!"):
        return False
    style = getattr(node, "style", None)
    # A sign such as | alone, without lines below it, is no block of text.
    return style is None or (style in "|>" and "\n" not in value)


def override(data: Mapping[str, Any], key: str, value: Any, above: str = "") -> dict[str, Any]:
    """Return a copy of nested `data` with the dotted `key` set.

    Setting `x.type` to another type starts the block anew, since the keys of the old type need not fit the new one.

    - above: the key of `data` itself with a dot behind it, for messages
    """
    head, rest = _split_key(data, key)
    out = dict(data)
    if not rest:
        if head == "type" and out.get("type") != value:
            return {"type": value}
        out[head] = value
        return out
    inner = out.get(head)
    if inner is not None and not isinstance(inner, Mapping):
        raise ConfigError(f"--set {above}{key}: '{above}{head}' holds {inner!r}, so it has no key '{rest}'")
    out[head] = override(inner or {}, rest, value, f"{above}{head}.")
    return out


def _split_key(data: Mapping[str, Any], key: str) -> tuple[str, str]:
    """Split a dotted key into its first part and the rest.

    The keys of a search space contain dots themselves, so a longer first part that `data` has comes first.
    """
    parts = key.split(".")
    for length in range(len(parts), 1, -1):
        if (head := ".".join(parts[:length])) in data:
            return head, ".".join(parts[length:])
    return parts[0], ".".join(parts[1:])


def with_overrides(data: dict[str, Any], overrides: list[tuple[str, Any]]) -> dict[str, Any]:
    # Types first, in the order given: setting one starts its block anew.
    for key, value in sorted(overrides, key=lambda item: item[0].split(".")[-1] != "type"):
        data = override(data, key, value)
    return data


def kept_by_new_types(
    config: Config, given: Mapping[str, Any], overrides: list[tuple[str, Any]]
) -> tuple[list[tuple[str, Any]], dict[str, list[str]]]:
    """Find what becomes of a block's other keys where an override sets its type to another one.

    - config: as it is without the overrides
    - given: the plain data of it that the user has written
    - returns: overrides that keep the keys which the new type knows; and by overridden key the names of the others
    """
    kept, left_out = list[tuple[str, Any]](), dict[str, list[str]]()
    for key, kind in overrides:
        block, _, last = key.rpartition(".")
        above, _, field = block.rpartition(".")
        written, holder = _found(given, block), _found(config, above) if above else config
        if last != "type" or not isinstance(written, Mapping) or not isinstance(holder, Config):
            continue
        before = getattr(getattr(holder, field, None), "type", None)
        cls = component_class(type(holder), field, kind) if isinstance(kind, str) and kind != before else None
        if cls is None:
            continue  # the same type; or none, which validating the result says
        others = {name: value for name, value in written.items() if name != "type"}
        kept += [(f"{block}.{name}", value) for name, value in others.items() if name in cls.model_fields]
        lost = [name for name in others if name not in cls.model_fields]
        if lost:
            left_out[key] = lost
    return kept, left_out


def _found(data: Any, key: str) -> Any:
    """Return what stands at a dotted key of a config or of plain data; None where there is nothing."""
    for part in key.split("."):
        data = data.get(part) if isinstance(data, Mapping) else getattr(data, part, None)
    return data


#: Lines that a config takes in a notebook or a log.
LINES = 20


def summary(config: Config) -> str:
    """What differs from the defaults, as YAML of at most LINES lines."""
    changed = config.changed()
    if not changed:
        return f"{type(config).__name__}: all defaults"
    lines = yaml.safe_dump(changed, sort_keys=False).splitlines()
    out = [f"{type(config).__name__}: the defaults, but", *(f"  {line}" for line in lines)]
    if len(out) > LINES:
        out[LINES - 1 :] = [f"  ... and {len(out) - LINES + 1} more lines; tgt_ray.dump_yaml(...) gives all"]
    return "\n".join(out)
