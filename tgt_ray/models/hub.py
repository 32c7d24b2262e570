"""Loads models of transformers from a folder, an installed package, or the hub."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from tgt_ray.core.errors import ConfigError

#: Prefix of a path in an installed Python package: `package:NAME/FOLDER`.
PACKAGE = "package:"


def place(path: str) -> str:
    """Return the folder of `package:NAME/FOLDER` on this machine; any other path comes back as it is.

    - raises ConfigError: where the package or its folder is missing
    """
    if not path.startswith(PACKAGE):
        return path
    name, _, folder = path.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{path}: the Python package '{name}' is not installed")
    found = Path(spec.submodule_search_locations[0]) / folder
    if ".." in Path(folder).parts or not found.is_dir():
        raise ConfigError(f"{path}: the package '{name}' has no folder '{folder}'")
    return str(found)


def own_file(path: str, revision: str | None, name: str) -> Any:
    """Read a JSON file that lies beside a model; None where the model has no such file.

    - path: of the model, a folder or a name on the hub
    - raises ConfigError: where that can't be found out
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    folder = Path(place(path))
    try:
        if folder.is_dir():
            file = folder / name
            return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        return json.loads(Path(hf_hub_download(path, name, revision=revision)).read_text(encoding="utf-8"))
    except Exception as err:  # names, network and files alike
        if isinstance(err, EntryNotFoundError) and not isinstance(err, LocalEntryNotFoundError):
            return None
        # An error, since a model taken for one without the file would give other embeddings.
        raise ConfigError(
            f"{path}: whether it has a file {name}, and what that says, can't be found out"
            f" ({' '.join(str(err).split())[:200]}); without a network give the folder of a downloaded model"
        ) from err


def from_hub(load: Any, path: str, revision: str | None, **options: Any) -> Any:
    """Call a `from_pretrained` of transformers; ConfigError where it fails.

    - load: the method
    - path: of the model, a folder or a name on the hub
    - options: further arguments of the method
    """
    from transformers.utils import logging

    where, said = place(path), logging.get_verbosity()
    # The library warns of weights that are missing or left out: here callers check them.
    logging.set_verbosity_error()
    try:
        return load(where, revision=revision, **options)
    except Exception as err:  # folders, names, network and files alike
        raise ConfigError(f"{path}: cannot be loaded ({' '.join(str(err).split())[:200]})") from err
    finally:
        logging.set_verbosity(said)
