"""Reads configs from YAML and KEY=VALUE, and writes them as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tgt_ray.core.config import Config
from tgt_ray.core.errors import ConfigError


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping from a file; ConfigError if it is missing, unreadable or not a mapping."""
    try:
        content = Path(path).read_bytes()
    except OSError as err:
        raise ConfigError(f"{path}: cannot read the file ({err.strerror})") from err
    return parse_yaml(content, str(path))


def parse_yaml(content: bytes, where: str) -> dict[str, Any]:
    """Parse a YAML mapping; a ConfigError that starts with `where` if it is not one."""
    try:
        data = yaml.safe_load(content.decode())
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ConfigError(f"{where}: not valid YAML ({' '.join(str(err).split())})") from err
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a mapping at the top, got {type(data).__name__}")
    return data


def dump_yaml(config: Config) -> str:
    """Return the complete config as YAML that loads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def parse_override(text: str) -> tuple[str, Any]:
    """Split `a.b=value` into (`a.b`, value parsed as YAML)."""
    key, equals, value = text.partition("=")
    if not equals or not key or not all(key.split(".")):
        raise ConfigError(f"--set {text}: expected KEY=VALUE with a dotted key, such as train.steps=500")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as err:
        raise ConfigError(f"--set {text}: the value is not valid YAML") from err


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
