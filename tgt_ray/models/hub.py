"""Loads models of transformers from a folder, an installed package, or the hub."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tgt_ray.core.errors import ConfigError, cut

log = logging.getLogger(__name__)

#: Prefix of a path in an installed Python package: `package:NAME/FOLDER`.
PACKAGE = "package:"
#: Files of a model that may name code of its own.
WITH_CODE = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
#: Sizes in a config.json of which some models take 0 or a negative one without a word, and fail with the first inputs.
SIZES = ("num_attention_heads", "n_head", "n_heads", "num_heads", "hidden_size", "d_model", "dim", "n_embd")
#: Files of weights that are loaded, in safetensors and, where there are none, pickles that hold nothing but weights.
WEIGHTS = re.compile(r"(diffusion_pytorch_)?model(-\d+-of-\d+)?\.safetensors")
PICKLES = re.compile(r"(diffusion_)?pytorch_model(-\d+-of-\d+)?\.bin")


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
    """Call a `from_pretrained` of transformers, without running code of the model's own; ConfigError where it fails.

    - load: the method
    - path: of the model, a folder or a name on the hub
    - options: further arguments of the method
    """
    from transformers.utils import logging

    where, said = place(path), logging.get_verbosity()
    check_files(path, revision)
    _check_type(path, revision)
    # The library warns of weights that are missing or left out: here callers check them.
    logging.set_verbosity_error()
    try:
        return load(where, revision=revision, trust_remote_code=False, **options)
    except Exception as err:  # folders, names, network and files alike
        if "ignore_mismatched_sizes" in str(err):
            _name_other_shapes(load, path, revision, options)
        raise ConfigError(f"{path}: cannot be loaded ({' '.join(str(err).split())[:200]})") from err
    finally:
        logging.set_verbosity(said)


def _name_other_shapes(load: Any, path: str, revision: str | None, options: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first of weights that have another shape than config.json says."""
    options = {**options, "output_loading_info": True, "ignore_mismatched_sizes": True}
    _, info = load(place(path), revision=revision, trust_remote_code=False, **options)
    for name, have, want in sorted(info["mismatched_keys"]):
        raise ConfigError(
            f"{path}: its weights '{name}' are {list(have)}, and its config.json asks for {list(want)}; take both files"
            " from the same model"
        )


@contextmanager
def made_from(path: str) -> Iterator[None]:
    """Make one line of what a library raises that makes a model from the sizes in a folder's config.json."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as err:  # sizes of another type, negative ones, names that the library lacks
        own = " ".join(str(err).split())[:200]
        raise ConfigError(f"{path}: no model can be made from its config.json ({type(err).__name__}: {own})") from err


def tokenizer_from_hub(path: str, revision: str | None, **options: Any) -> Any:
    """Load the tokenizer of a model; ConfigError where there is none, for which the library would invent one."""
    from transformers import AutoTokenizer

    folder = Path(place(path))
    if folder.is_dir() and not options.get("gguf_file") and not _has_tokenizer(folder):
        raise ConfigError(
            f"{path}: has no tokenizer (no tokenizer.json, vocab.txt, vocab.json with merges.txt, or *.model); save the"
            " model's own tokenizer into that folder"
        )
    if (folder / "tokenizer.json").is_file() and "model" not in _mapping((folder / "tokenizer.json").read_bytes()):
        raise ConfigError(
            f"{path}: its tokenizer.json has no tokenizer (no key 'model'); save the model's own tokenizer there"
        )
    tokenizer = from_hub(AutoTokenizer.from_pretrained, path, revision, **options)
    added = set(tokenizer.added_tokens_decoder)
    if all(number in added for number in tokenizer.get_vocab().values()):
        raise ConfigError(
            f"{path}: its tokenizer has {len(tokenizer)} special tokens and no others, so its vocabulary is missing;"
            " save the model's own tokenizer into that folder"
        )
    return tokenizer


def _has_tokenizer(folder: Path) -> bool:
    there = {file.name for file in folder.iterdir() if file.is_file()}
    whole = {"tokenizer.json", "vocab.txt", "tekken.json", "vocab", "byte_maps.json"}
    ends = (".model", ".tiktoken", ".spm", ".tokenizer")
    pair = {"vocab.json", "merges.txt"} <= there
    alone = "vocab.json" in there and _named_tokenizer(folder) in _WITHOUT_MERGES
    # Some have another name for their file, which tokenizer_config.json says.
    versions = any(name.startswith("tokenizer.") and name.endswith(".json") for name in there)
    return bool(whole & there) or any(name.endswith(ends) for name in there) or pair or alone or versions


#: Tokenizers that have a vocab.json alone.
_WITHOUT_MERGES = ("Wav2Vec2CTCTokenizer", "VitsTokenizer", "EsmTokenizer", "MgpstrTokenizer", "MarianTokenizer")


def _named_tokenizer(folder: Path) -> str:
    file = folder / "tokenizer_config.json"
    said = _mapping(file.read_bytes()) if file.is_file() else {}
    return str(said.get("tokenizer_class", "")).removesuffix("Fast")


def model_from_hub(auto: Any, path: str, revision: str | None, where: str, **options: Any) -> tuple[Any, Any]:
    """Load a model with its weights, in float32, without a prefix that the names of all its weights have.

    - auto: the class of transformers
    - where: what messages about its weights begin with
    - returns: the model, and what the library says of missing weights
    - raises ConfigError: where it can't be loaded, or weights are not finite
    """
    import torch

    from tgt_ray.models.weights import check_finite, prefixes

    options |= {"output_loading_info": True, "dtype": torch.float32}
    model, info = from_hub(auto.from_pretrained, path, revision, **options)
    # The library leaves off or adds a prefix of its own classes, such as `bert.`, so what it finds decides.
    for prefix in prefixes(_weight_names(Path(place(path)))):
        if not info["missing_keys"]:
            break
        again, found = from_hub(
            auto.from_pretrained, path, revision, key_mapping={f"^{re.escape(prefix)}": ""}, **options
        )
        if len(found["missing_keys"]) < len(info["missing_keys"]):
            log.info("%s: the names of all weights begin with '%s', which is left off", where, prefix)
            model, info = again, found
    drawn = set(info["missing_keys"])
    check_finite((each for each in model.named_parameters() if each[0] not in drawn), where)
    check_finite((each for each in model.named_buffers() if each[0].endswith(("running_mean", "running_var"))), where)
    return model, info


def has_head(info: Mapping[str, Any], name: str, head: Any, where: str, hint: str = "") -> bool:
    """Tell whether a model's files have weights of its head; all others must be there.

    - info: what `model_from_hub` gives
    - name, head: the head, whose own weights may be missing all together, but not some of them
    - where, hint: begin and end of the message
    - raises ConfigError: where other weights are missing, since the library would draw them at random
    """
    absent = set(info["missing_keys"])
    of_head = {f"{name}.{each}" for each in head.state_dict()}
    without = of_head <= absent
    refuse_missing(absent - of_head if without else absent, where, hint)
    return not without


def refuse_missing(names: Iterable[str], where: str, hint: str = "") -> None:
    """Raise ConfigError, which starts with `where` and ends with `hint`, for the first of weights that are missing."""
    for name in sorted(names):
        raise ConfigError(f"{where} has no weights for '{name}'{hint}")


def _weight_names(folder: Path) -> list[str]:
    """Return the names of the weights in a model's folder; none for a name on the hub, or a file without a list."""
    import pickle

    import torch
    from safetensors import SafetensorError, safe_open

    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            return list(_mapping((folder / index).read_bytes()).get("weight_map") or ())
    try:
        if (folder / "model.safetensors").is_file():
            with safe_open(folder / "model.safetensors", "pt") as weights:
                return list(weights.keys())
        if (folder / "pytorch_model.bin").is_file():
            # Of a pickle nothing but weights is read, and of these only names and shapes.
            return list(torch.load(folder / "pytorch_model.bin", map_location="meta", weights_only=True))
    except (SafetensorError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
        return []
    return []


def check_files(path: str, revision: str | None, subfolder: str | None = None) -> None:
    """Raise ConfigError for a model that wants code of its own, or whose files are not what their names say.

    - path: a folder or a name on the hub; a file of the hub that isn't to be had is not looked at
    """
    from tgt_ray.models.weights import kind_of_file

    folder = Path(place(path)) / (subfolder or "")
    for name in WITH_CODE:
        said = _mapping(_content(path, revision, f"{subfolder}/{name}" if subfolder else name))
        if said.get("auto_map"):
            raise ConfigError(
                f"{path}: its {name} names code of its own (auto_map: {cut(json.dumps(said['auto_map']))}), which is"
                f" not run; use a model that its library knows, or, where the library's own classes do the same, take"
                " auto_map out of a copy"
            )
        for key in SIZES if name == "config.json" else ():
            if isinstance(said.get(key), int) and said[key] < 1:
                raise ConfigError(f"{path}: its config.json says {key} {said[key]}; a size is at least 1")
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ConfigError(
            f"{path}: is an adapter (adapter_config.json), not a whole model; merge it into its model (with peft:"
            " merge_and_unload, then save_pretrained), and give that folder"
        )
    if folder.is_dir():
        for file in _loaded(folder):
            with file.open("rb") as opened:
                kind = kind_of_file(opened.read(4096), weights=file.name.endswith(".safetensors"))
            if kind:
                raise ConfigError(f"{path}: its file {file.name} is {kind}")


def _loaded(folder: Path) -> list[Path]:
    """List the files of a folder that are loaded; others may be unfetched, such as weights for other libraries."""
    there = sorted(file for file in folder.iterdir() if file.is_file())
    weights = [file for file in there if WEIGHTS.fullmatch(file.name)]
    weights = weights or [file for file in there if PICKLES.fullmatch(file.name)]
    words = [file for file in there if file.name == "tokenizer.json"]
    words = words or [file for file in there if file.name in ("vocab.txt", "vocab.json") or file.suffix == ".model"]
    return [*weights, *words, *(file for file in there if file.name in WITH_CODE)]


def check_folder(path: str, subfolder: str | None = None) -> None:
    """Look at a model's folder before anything is started: whether it is one, and its files are whole.

    - path: of the model; one on the hub is not looked at
    - raises ConfigError: where loading it would fail
    """
    from tgt_ray.models.weights import check_safetensors

    folder = Path(place(path)) / (subfolder or "")
    if not folder.is_dir():
        # A name on the hub is that of a model, perhaps with its owner's before it.
        if path.count("/") > 1 or path.startswith((".", "~", "/", PACKAGE)):
            raise ConfigError(f"{path}: cannot be loaded (there is no folder {folder})")
        return
    check_files(path, None, subfolder)
    there = [file for file in folder.iterdir() if file.is_file()]
    if "model_index.json" in (file.name for file in there):
        return  # a pipeline, whose parts are looked at when they are loaded
    if not any(file.name.endswith((".safetensors", ".bin", ".gguf", ".index.json")) for file in there):
        raise ConfigError(
            f"{path}: cannot be loaded (the folder has no weights: no model.safetensors and no pytorch_model.bin)"
        )
    for file in sorted(there):
        if WEIGHTS.fullmatch(file.name):
            check_safetensors(file, f"{path}: its file {file.name}")


def check_parts(path: str, revision: str | None) -> None:
    """Raise ConfigError for a pipeline of diffusers with a part that is of no library: code of its own."""
    from diffusers import pipelines

    check_files(path, revision)
    for name, said in _mapping(_content(path, revision, "model_index.json")).items():
        library = said[0] if isinstance(said, list) and said else None
        known = library in (None, "diffusers", "transformers") or hasattr(pipelines, str(library))
        if not known or (name == "_class_name" and library is not None):
            raise ConfigError(
                f"{path}: its model_index.json has for '{name}' code of its own ({cut(json.dumps(said))}), which is not"
                " run; use a pipeline whose parts are of diffusers and transformers"
            )
    folder = Path(place(path))
    for part in sorted(folder.iterdir()) if folder.is_dir() else ():
        if part.is_dir():
            check_files(path, revision, part.name)


def _check_type(path: str, revision: str | None) -> None:
    """Raise ConfigError for a type of model that the library transformers doesn't have."""
    from transformers import CONFIG_MAPPING, __version__

    kind = _mapping(_content(path, revision, "config.json")).get("model_type")
    if kind is not None and kind not in CONFIG_MAPPING:
        raise ConfigError(
            f"{path}: its config.json has model_type '{cut(str(kind))}', which transformers {__version__} does not"
            " have: it needs code of its own, which is not run, or another version of transformers; use another model"
        )


def _content(path: str, revision: str | None, name: str) -> bytes:
    """Return a small file of a model; nothing where there is none, or the hub can't be asked, as loading then says."""
    from huggingface_hub import hf_hub_download

    folder = Path(place(path))
    if folder.is_dir():
        return (folder / name).read_bytes() if (folder / name).is_file() else b""
    try:
        return Path(hf_hub_download(path, name, revision=revision)).read_bytes()
    except Exception:  # names, network and files alike
        return b""


def _mapping(content: bytes) -> dict[str, Any]:
    """Return what a JSON file says; nothing where it is no mapping, on which loading it then fails."""
    try:
        said = json.loads(content)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
