"""Provides the base classes of all config types; imports neither torch nor ray.

A component is chosen by the `type` key of its block: a built-in name or, for a user's own, `package.module:Class`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from tgt_ray.core.errors import ConfigError, cut, describe, nearest
from tgt_ray.core.fingerprint import digest

C = TypeVar("C", bound="Config")
#: Marks a setting that an older version doesn't have, and whose default is what that version does.
SINCE_0_2: dict[str, Any] = {"since": "0.2"}


class Config(BaseModel):
    """Base of all config types: immutable; an unknown key is refused with the nearest legal name."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        out = {}
        for key, value in data.items():
            if key not in cls.model_fields:
                raise PydanticCustomError(
                    "unknown_key",
                    "unknown key '{key}'; {hint}",
                    {"key": cut(str(key)), "hint": cls.hint(str(key))},
                )
            out[key] = _plain(value)
            if isinstance(value, bool) and _is_number(cls.model_fields[key].annotation):
                raise PydanticCustomError(
                    "no_number", "'{key}' takes a number (got {value})", {"key": key, "value": str(value).lower()}
                )
            bounded = any(hasattr(each, "le") for each in cls.model_fields[key].metadata)
            if not bounded and (big := _too_big(out[key])) is not None:
                raise PydanticCustomError(
                    "no_number",
                    "'{key}': no setting takes so large an integer (got {value})",
                    {"key": key, "value": str(big) if big.bit_length() < 256 else f"one of {big.bit_length()} bits"},
                )
        return out

    @classmethod
    def hint(cls, key: str) -> str:
        """What to write in the place of a key that there isn't."""
        return nearest(key, cls.model_fields)

    def changed(self) -> dict[str, Any]:
        """What differs from the defaults, as plain nested data; of a component also its type."""
        out: dict[str, Any] = {"type": kind} if (kind := getattr(self, "type", None)) else {}
        plain = self.model_dump(mode="json")
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            if name != "type" and (info.is_required() or value != info.get_default(call_default_factory=True)):
                out[name] = value.changed() if isinstance(value, Config) else plain[name]
        return out

    def fingerprint(self) -> str:
        """Return the first 16 hex digits of the SHA-256 of this config's canonical JSON.

        A setting that was added later (SINCE_0_2) is left out at its default, so that what was made before is found.
        """
        return digest(self.to_fingerprint())

    def to_fingerprint(self) -> dict[str, Any]:
        """Return what a fingerprint is made from: plain data, without later settings at their defaults."""
        plain, out = self.model_dump(mode="json"), {}
        for name, info in type(self).model_fields.items():
            value, extra = getattr(self, name), info.json_schema_extra
            later = isinstance(extra, dict) and "since" in extra
            if not (later and value == info.get_default(call_default_factory=True)):
                out[name] = value.to_fingerprint() if isinstance(value, Config) else plain[name]
        return out


def _is_number(annotation: Any) -> bool:
    """Return whether a field takes numbers, and neither true nor false: pydantic would take these for 1 and 0."""
    kinds = {annotation, *get_args(annotation)}
    return bool(kinds & {int, float}) and not kinds & {bool, Any}


def _too_big(value: Any) -> int | None:
    """Return an integer, perhaps of a list, that 64 bits don't hold: no library takes one."""
    if isinstance(value, list):
        return next((big for each in value if (big := _too_big(each)) is not None), None)
    return value if isinstance(value, int) and not -(2**63) <= value < 2**63 else None


def _plain(value: Any) -> Any:
    """Return NumPy's scalars and arrays as Python's numbers and lists, so that they can be written as YAML and JSON."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple | range):
        return [_plain(each) for each in value]
    return value


#: Weights of a network above which its widths are a slip of the pen: 16 GiB of them, and as much for each gradient.
MOST_WEIGHTS = 2**32


def _few_weights(widths: tuple[int, ...]) -> tuple[int, ...]:
    weights = sum(9 * one * other for one, other in pairwise(widths))  # 3x3 convolutions
    if weights > MOST_WEIGHTS:
        named = ", ".join(map(str, widths[:5]))
        raise ValueError(
            f"{named} are {weights:.1e} weights of 3x3 convolutions, {4 * weights / 2**30:,.0f} GiB;"
            f" the most is {MOST_WEIGHTS:.1e}"
        )
    return widths


def _whole(path: Path) -> Path:
    try:
        whole = path.expanduser().absolute()
        whole.exists()
    except RuntimeError as err:  # ~name of a user who doesn't exist
        raise ValueError(str(err)) from err
    except OSError as err:  # a name that no file can have
        raise ValueError(f"cannot be the path of a file ({err.strerror})") from err
    if "\0" in str(path):
        raise ValueError("cannot be the path of a file (it has a zero byte)")
    return whole


def _whole_folder(text: str) -> str:
    if not text:
        raise ValueError("is empty; expected a folder or a name on the hub")
    path = _whole(Path(text))
    return str(path) if path.is_dir() else text


def folders_of(config: Config) -> dict[str, str]:
    """Return the settings of a config that name the folder of a model, or a model on the hub, and have a value."""
    out = {}
    for name, info in type(config).model_fields.items():
        parts = [*info.metadata, *(each for part in get_args(info.annotation) for each in get_args(part))]
        value = getattr(config, name)
        if isinstance(value, str) and any(getattr(each, "func", None) is _whole_folder for each in parts):
            out[name] = value
    return out


#: Seed of random numbers, as far as every library takes it.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
#: Width of a layer; more is a slip of the pen.
Width = Annotated[int, Field(ge=1, le=2**16)]
#: Widths of the layers of a network, one after the other.
Widths = Annotated[tuple[Width, ...], AfterValidator(_few_weights)]
#: Divided by a lower temperature, logits are more than float32 holds.
LEAST_TEMPERATURE = 1e-6
#: Temperature of a softmax.
Temperature = Annotated[float, Field(ge=LEAST_TEMPERATURE, le=1e6)]
#: A path, made absolute, since the processes of a cluster start in folders of their own.
FilePath = Annotated[Path, AfterValidator(_whole)]
#: A folder, made absolute, or a name on the hub.
FolderOrName = Annotated[str, AfterValidator(_whole_folder)]


#: Whether settings are read that an earlier version has taken and stored.
_stored: ContextVar[bool] = ContextVar("stored settings", default=False)


@contextmanager
def as_stored() -> Iterator[None]:
    """Let settings without effect pass: the user can't change them any more in what is stored with them."""
    token = _stored.set(True)
    try:
        yield
    finally:
        _stored.reset(token)


class Component(Config):
    """A config that chooses a component by its key `type`; a class of your own is named `package.module:Class`."""

    type: str

    @model_validator(mode="after")
    def _settings_count(self) -> Self:
        for name, why in ({} if _stored.get() else self.without_effect()).items():
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name}: has no effect, since {why}; leave it out")
        return self

    def without_effect(self) -> dict[str, str]:
        """Return the names of settings that nothing reads, given the others, and the reason for each.

        Such a setting is refused where it isn't the default: it would change fingerprints and nothing else.
        """
        return {}


def builtin_types(annotation: Any) -> dict[str, Any]:
    """Return the built-in components of a field annotated with OneOf, keyed by the names of their types."""
    one_of: OneOf = get_args(annotation)[1]
    return dict(one_of.builtins)


def component_class(holder: type[Config], field: str, kind: str) -> type[Component] | None:
    """Return the class of a type's name in a field that is annotated with OneOf; None where there is none."""
    info = holder.model_fields.get(field)
    one_of = next((each for each in info.metadata if isinstance(each, OneOf)), None) if info is not None else None
    if one_of is None or kind in one_of.builtins:
        return one_of.builtins[kind] if one_of is not None else None
    module, _, name = kind.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError):
        return None  # validating it says why
    return found if isinstance(found, type) and issubclass(found, Component) else None


class OneOf:
    """Annotates a component field: `Annotated[Base, OneOf(A, B)]` takes A, B, or a user's `module:Class`.

    The key `type` chooses. Errors inside a built-in component keep their path, because it is a tagged union of
    pydantic's.
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
                    {"kind": cut(kind), "hint": nearest(kind, self.builtins)},
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


def validate(cls: type[C], data: Any, where: str = "") -> C:
    """Build `cls` from plain data.

    - where: what a message starts with, such as a file name
    - raises ConfigError: of one line, for the first problem found
    """
    try:
        return cls.model_validate(data)
    except ValidationError as err:
        raise ConfigError(f"{where}: {describe(err, data)}" if where else describe(err, data)) from err
