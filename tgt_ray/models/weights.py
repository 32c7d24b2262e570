"""Loads weights from safetensors files strictly, and says in one line where they don't fit."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from tgt_ray.core.errors import ConfigError

log = logging.getLogger(__name__)

#: What wrappers put before all names of a model's weights: DataParallel, torch.compile, and modules that hold a model.
PREFIXES = ("module.", "_orig_mod.", "model.", "student.")
#: What a pickle says in place of weights. It is never read: reading a pickle can run code of whoever has written it.
PICKLED = (
    "a pickle, as torch.save writes it, which is not opened since it could run code; save the weights as safetensors,"
    " such as by safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors')"
)
#: What files that are no safetensors begin with.
LFS = (b"version https://git-lfs", "a pointer of Git LFS in place of the file; fetch it by `git lfs pull`")
BEGINNINGS = (
    (b"GGUF", "a GGUF file, not safetensors"),
    (b"\x89HDF", "an HDF5 file, not safetensors; save the weights as safetensors"),
    (b"\x93NUMPY", "an array of NumPy, not safetensors; save the weights as safetensors"),
    (b"\x1f\x8b", "packed by gzip; unpack it"),
)


def kind_of_file(content: bytes, weights: bool = True) -> str | None:
    """Say what else a file of a model is, and the way out; None where that isn't plain to see.

    - content: its first bytes, at least
    - weights: whether it should be safetensors; otherwise it may be a pickle of weights, JSON or text
    """
    if not content:
        return "empty; copy or download it again"
    text = content[:1000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "a web page, such as one of a login or an error, in place of the file; download it again"
    # A safetensors file begins with the length of its header in 8 bytes, which may look like anything.
    if content.startswith(LFS[0]) or (weights and content[5:9] != b"\0\0\0{"):
        return next((what for beginning, what in (LFS, *BEGINNINGS) if content.startswith(beginning)), _other(content))
    return None


def _other(content: bytes) -> str | None:
    if content.startswith(b"PK\x03\x04"):
        return PICKLED if _is_of_torch(content) else "a zip archive, not safetensors; unpack it"
    # A pickle of protocol 2 to 5; the legacy format of torch.save is some of them in a row.
    if content[:1] == b"\x80" and content[1:2] in (b"\2", b"\3", b"\4", b"\5") and content[2:3] != b"\0":
        return PICKLED
    if content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        return "text (JSON), not safetensors; give the file of weights beside it, or download them again"
    return None


def _is_of_torch(content: bytes) -> bool:
    try:
        names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    except zipfile.BadZipFile:  # cut off, so that its list of files is lost
        return b"data.pkl" in content[:1000]
    return any(name.endswith("data.pkl") for name in names)


def read_safetensors(content: bytes, where: str) -> dict[str, Tensor]:
    """Read the bytes of a safetensors file; a ConfigError that starts with `where` says what else they are."""
    try:
        return safetensors.torch.load(content)
    except Exception as err:  # safetensors raises its own type and, for short files, others
        kind = kind_of_file(content)
        raise ConfigError(f"{where}: is {kind}" if kind else f"{where}: not a whole safetensors file ({err})") from err


def check_safetensors(file: Path, where: str) -> None:
    """Raise ConfigError, which starts with `where`, unless a file has the header and the length of safetensors."""
    try:
        with file.open("rb") as opened:
            head = opened.read(4096)
    except OSError as err:
        raise ConfigError(f"{where}: cannot be read ({err.strerror})") from err
    kind = kind_of_file(head)
    if kind:
        raise ConfigError(f"{where}: is {kind}")
    try:
        with safe_open(file, "np"):
            pass
    except Exception as err:  # safetensors raises its own type, and others
        raise ConfigError(f"{where}: not a whole safetensors file ({err})") from err


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load weights into a model, without a prefix that all their names have.

    - raises ConfigError: it starts with `where` and names the first weight that differs, or that isn't finite
    """
    own = model.state_dict()
    given, state = state, unprefixed(state, own, where)
    for key in [*own, *state]:
        if key not in state or key not in own or own[key].shape != state[key].shape:
            have, want = (str(list(s[key].shape)) if key in s else "absent" for s in (state, own))
            raise ConfigError(
                f"{where}: weights of another architecture; first difference at '{key}': {have}, expected {want}"
                f"{_say_prefix(given, own)}"
            )
        if own[key].is_floating_point() != state[key].is_floating_point():
            have, want = (str(s[key].dtype).removeprefix("torch.") for s in (state, own))
            raise ConfigError(f"{where}: '{key}' has numbers of the type {have}, expected {want}: give whole weights")
    # Masks, which some models keep among their weights, have infinities of their own.
    check_finite((each for each in state.items() if torch.isfinite(own[each[0]]).all()), where)
    model.load_state_dict(state)


def _say_prefix(state: Mapping[str, Tensor], own: Collection[str]) -> str:
    """Say with what all names of weights begin, where those of the model don't."""
    first = {name.partition(".")[0] for name in state}
    if len(first) != 1 or first & {name.partition(".")[0] for name in own}:
        return ""
    return f"; the names of all weights there begin with '{first.pop()}.'"


def unprefixed(state: Mapping[str, Tensor], own: Collection[str], where: str) -> dict[str, Tensor]:
    """Return weights without the prefix that all their names have, where a model's own names are like the rest.

    - own: the model's names; the weights may have others as well, such as of a head
    - where: what the line in the log begins with
    """
    prefix = prefix_of(state, own)
    if prefix:
        log.info("%s: the names of all weights begin with '%s', which is left off", where, prefix)
    return {name.removeprefix(prefix): value for name, value in state.items()}


def prefix_of(names: Iterable[str], own: Collection[str]) -> str:
    """Return the prefix of wrappers that all names have and without which most of them are a model's own, or ""."""
    names, best = list(names), ""
    most = sum(name in own for name in names)
    for candidate in prefixes(names):
        fitting = sum(name.removeprefix(candidate) in own for name in names)
        best, most = (candidate, fitting) if fitting > most else (best, most)
    return best


def prefixes(names: Collection[str]) -> list[str]:
    """Return the prefixes of wrappers that all names have, from short to long, such as `module.`, `module.model.`."""
    found = [""]
    while names and (more := [each for each in PREFIXES if all(name.startswith(found[-1] + each) for name in names)]):
        found.append(found[-1] + more[0])
    return found[1:]


def check_finite(weights: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Raise ConfigError, which starts with `where`, for the first weight with values that are not finite."""
    for name, value in weights:
        if value.is_floating_point() and not torch.isfinite(value).all():
            count = int((~torch.isfinite(value)).sum())
            raise ConfigError(
                f"{where}: {count} of the {value.numel()} values of '{name}' are not finite (NaN or infinite), as after"
                " a training that diverged; give other weights"
            )


def whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights for a file, on the CPU. Tied ones (of language models) are written under each of their names."""
    out: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in state.items():
        there = value.contiguous().cpu()
        out[name] = there.clone() if there.data_ptr() in seen else there
        seen.add(there.data_ptr())
    return out
