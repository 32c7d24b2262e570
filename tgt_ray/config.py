"""Floor 0: what every config type is made of. No torch, no ray.

A component is chosen by the `type` key of its block: a built-in name or, for a user's own, `package.module:Class`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

C = TypeVar("C", bound="Config")


class ConfigError(ValueError):
    """Bad input from a person. The message is one line: key or file, value, what would be right."""


@contextmanager
def concerning(key: str) -> Iterator[None]:
    """What is wrong inside is said to be wrong with the block at `key`, where it doesn't say so itself."""
    try:
        yield
    except ConfigError as err:
        if str(err).startswith((f"{key}:", f"{key}.")):
            raise
        raise ConfigError(f"{key}: {err}") from err


def nearest(word: str, legal: Iterable[str], most: int = 1) -> str:
    """`did you mean 'x'?` with up to `most` names, or the list of legal names, for an error message."""
    names = sorted(legal)
    close = difflib.get_close_matches(word, names, n=most, cutoff=0.5)
    return f"did you mean {' or '.join(repr(name) for name in close)}?" if close else f"legal: {', '.join(names)}"


class Config(BaseModel):
    """Base of all config types: immutable, and unknown keys are refused with the nearest legal name."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key '{key}'; {hint}",
                        {"key": str(key), "hint": nearest(str(key), cls.model_fields)},
                    )
        return data

    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of this config's canonical JSON."""
        return digest(self.model_dump(mode="json"))


def _whole(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as err:  # ~ of somebody who isn't there
        raise ValueError(str(err)) from err


def _whole_folder(text: str) -> str:
    if not text:
        raise ValueError("is empty; expected a folder or a name on the hub")
    path = _whole(Path(text))
    return str(path) if path.is_dir() else text


#: A path, made absolute: the processes of a cluster have folders of their own to start from.
FilePath = Annotated[Path, AfterValidator(_whole)]
#: A folder, made absolute, or a name on the hub.
FolderOrName = Annotated[str, AfterValidator(_whole_folder)]


def digest(*parts: Any) -> str:
    """Content address of JSON-able parts (bytes are hashed as they are): 16 hex digits of a SHA-256."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode())
        sha.update(b"\0")
    return sha.hexdigest()[:16]


class Component(Config):
    """A config that names a component by `type`. Subclasses outside the project are named `module:Class`."""

    type: str


def builtin_types(annotation: Any) -> dict[str, Any]:
    """The built-in components of a field annotated with OneOf, by the names of their types."""
    one_of: OneOf = get_args(annotation)[1]
    return dict(one_of.builtins)


class OneOf:
    """Annotation for a component field: `Annotated[Base, OneOf(A, B)]` takes A or B by `type`, or a user's `module:Class`.

    Errors inside a built-in component keep their path, because it is a tagged union of pydantic's.
    """

    def __init__(self, *builtins: type[Component]):
        self.builtins = {cls.model_fields["type"].default: cls for cls in builtins}

    def __get_pydantic_core_schema__(
        self, base: type[Component], handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        tagged = core_schema.tagged_union_schema(
            choices={name: handler.generate_schema(cls) for name, cls in self.builtins.items()},
            discriminator="type",
        )

        def validate(value: Any, builtin: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if isinstance(value, base):
                return value
            kind = value.get("type") if isinstance(value, Mapping) else None
            if isinstance(kind, str) and ":" in kind:
                return self._own(kind, base, value)
            if isinstance(kind, str) and kind not in self.builtins:
                raise PydanticCustomError(
                    "unknown_type",
                    "unknown type '{kind}'; {hint} (or 'package.module:Class' for your own)",
                    {"kind": kind, "hint": nearest(kind, self.builtins)},
                )
            if kind is None:
                raise PydanticCustomError(
                    "missing_type",
                    "needs a mapping with the key 'type', one of: {legal}",
                    {"legal": ", ".join(sorted(self.builtins))},
                )
            return builtin(value)

        return core_schema.no_info_wrap_validator_function(
            validate,
            tagged,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value, info: value.model_dump(mode=info.mode), info_arg=True
            ),
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        builtin = handler(schema["schema"])
        own = {
            "type": "object",
            "properties": {"type": {"type": "string", "pattern": r"^[\w.]+:\w+$"}},
            "required": ["type"],
        }
        return {"anyOf": [builtin, own]}

    @staticmethod
    def _own(kind: str, base: type[Component], value: Mapping[str, Any]) -> Component:
        module, _, name = kind.partition(":")
        try:
            cls = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError, TypeError) as err:
            raise PydanticCustomError(
                "own_type", "cannot import '{kind}': {why}", {"kind": kind, "why": str(err)}
            ) from err
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise PydanticCustomError(
                "own_type",
                "'{kind}' is not a subclass of {base}",
                {"kind": kind, "base": f"{base.__module__}.{base.__name__}"},
            )
        if inspect.isabstract(cls):
            missing = ", ".join(sorted(cls.__abstractmethods__))
            raise PydanticCustomError(
                "own_type", "'{kind}' is abstract: it lacks {missing}", {"kind": kind, "missing": missing}
            )
        try:
            return cls.model_validate(value)
        except ValidationError as err:
            raise PydanticCustomError("own_type", "{why}", {"why": describe(err, value)}) from err


def describe(err: ValidationError, data: Any) -> str:
    """One line for the first problem of a pydantic error: `key: what is wrong (got value)`."""
    problems = [(*_plain_path(problem["loc"], data), problem) for problem in err.errors(include_url=False)]
    path, value, first = problems[0]
    # A key that takes two kinds of values fails once for each: together they say what would be right.
    same = [problem["msg"].removeprefix("Value error, ") for other, _, problem in problems if other == path]
    message = " or ".join(dict.fromkeys(same)).replace("\n", " ")
    own = first["type"] in ("unknown_key", "unknown_type", "missing_type", "own_type", "value_error", "missing")
    got = "" if own else f" (got {value!r})"
    more = len(problems) - len(same)
    return (f"{path}: " if path else "") + message + got + (f" [and {more} more]" if more else "")


def _plain_path(loc: Sequence[str | int], data: Any) -> tuple[str, Any]:
    """The dotted key as the user wrote it (pydantic adds the tags of unions to it), and the value found there."""
    keys: list[str] = []
    for part in loc:
        if isinstance(data, Mapping):
            if part not in data and data.get("type") == part:
                continue
            data = data.get(part)
        elif isinstance(data, list | tuple) and isinstance(part, int):
            data = data[part] if part < len(data) else None
        else:
            break  # a plain value has no parts: what follows is the tag of a union
        keys.append(str(part))
    return ".".join(keys), data


def validate(cls: type[C], data: Any, where: str = "") -> C:
    """`cls` from plain data, or a ConfigError of one line that starts with `where` (a file name, say)."""
    try:
        return cls.model_validate(data)
    except ValidationError as err:
        raise ConfigError(f"{where}: {describe(err, data)}" if where else describe(err, data)) from err


def load_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping from a file; ConfigError if it is missing, unreadable or no mapping."""
    try:
        content = Path(path).read_bytes()
    except OSError as err:
        raise ConfigError(f"{path}: cannot read the file ({err.strerror})") from err
    return parse_yaml(content, str(path))


def parse_yaml(content: bytes, where: str) -> dict[str, Any]:
    """A YAML mapping; ConfigError that starts with `where` if it is none."""
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
    """The config in full, as YAML that loads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def parse_override(text: str) -> tuple[str, Any]:
    """`a.b=value` to (`a.b`, value parsed as YAML)."""
    key, equals, value = text.partition("=")
    if not equals or not key or not all(key.split(".")):
        raise ConfigError(f"--set {text}: expected KEY=VALUE with a dotted key, such as train.steps=500")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as err:
        raise ConfigError(f"--set {text}: the value is not valid YAML") from err


def override(data: Mapping[str, Any], key: str, value: Any, above: str = "") -> dict[str, Any]:
    """A copy of nested `data` with the dotted `key` set. `above`: the key of `data` itself, for messages.

    Setting `x.type` to another type starts the block anew, since the keys of the old type need not fit the new one.
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
    """The first part of a dotted key and the rest. The keys of a search space have dots themselves, so a longer one that is
    there comes first."""
    parts = key.split(".")
    for length in range(len(parts), 1, -1):
        if (head := ".".join(parts[:length])) in data:
            return head, ".".join(parts[length:])
    return parts[0], ".".join(parts[1:])
