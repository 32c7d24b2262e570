"""Reads how a sentence encoder was made to be used, as sentence-transformers wrote it beside the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tgt_ray.core.errors import ConfigError, nearest
from tgt_ray.models.hub import own_file


def own_pooling(path: str, revision: str | None, config: Any) -> str:
    """Return a classifier's own pooling, or the one that sentence-transformers wrote, or else the mean."""
    if any(name.endswith("ForSequenceClassification") for name in config.architectures or ()):
        return "model"
    said = _pooling_file(path, revision, _modules(path, revision))
    modes = [
        name.removeprefix("pooling_mode_")
        for name, on in said.items()
        if name.startswith("pooling_mode_") and on is True
    ]
    if not modes:
        mode = said.get("pooling_mode") or "mean"
        modes = mode if isinstance(mode, list) else [mode]
    known = {"cls_token": "cls", "cls": "cls", "mean_tokens": "mean", "mean": "mean"}
    if len(modes) != 1 or modes[0] not in known:
        raise ConfigError(
            f"{path}: its embeddings are pooled by {', '.join(map(str, modes))}, which is not supported; use another"
            " model, or give pooling: mean or cls where one of them will do"
        )
    return known[modes[0]]


def _modules(path: str, revision: str | None) -> dict[str, str] | None:
    """Return a model's layers and their folders, as sentence-transformers wrote them; None where it wrote nothing."""
    modules = own_file(path, revision, "modules.json")
    if modules is None:
        return None
    return {str(each.get("type", "")).rpartition(".")[2]: str(each.get("path", "")) for each in modules}


def _pooling_file(path: str, revision: str | None, modules: dict[str, str] | None) -> dict[str, Any]:
    """Read the settings of pooling. Raises ConfigError where the model's layers have none, or its file is missing."""
    if modules is None:
        return own_file(path, revision, "1_Pooling/config.json") or {}
    if "Pooling" not in modules:
        raise ConfigError(f"{path}: its modules.json has no layer 'Pooling'; give pooling: mean or cls")
    name = f"{modules['Pooling']}/config.json"
    said = own_file(path, revision, name)
    if said is None:
        raise ConfigError(f"{path}: has no file {name}, where its modules.json has pooling; give pooling: mean or cls")
    return said


@dataclass(frozen=True)
class SentenceSettings:
    """Holds what sentence-transformers wrote beside the model at `path`.

    - query, document: the prompts that are put before them
    - similarity: what it compares embeddings by; None: the files don't say
    - unit: whether a layer brings embeddings to length 1
    - pools_prompt: whether a prompt's tokens are pooled as the text's are
    """

    path: str
    query: str
    document: str
    similarity: str | None
    unit: bool
    pools_prompt: bool

    def prefix(self, kind: Literal["query", "document"], given: str | None) -> str:
        """Return the text put before queries or documents.

        - given: what the user says; None: nothing, so that the model's own prompt counts
        - raises ConfigError: where the model leaves that text out of pooling, which is not supported
        """
        own = self.query if kind == "query" else self.document
        prefix = own if given is None else given
        if prefix and not self.pools_prompt:
            raise ConfigError(
                f"{self.path}: leaves the tokens of its prompt '{prefix}' out of pooling (include_prompt: false),"
                f" which is not supported; set {kind}_prefix: '', or pooling: mean or cls to pool these tokens as well"
            )
        return prefix

    def normalizes(self, given: bool | None) -> tuple[bool, str]:
        """Return whether embeddings are normalised to length 1, and who says so: "config", "files" or "default".

        - given: what the user says; None: nothing
        """
        if given:
            return True, "config"
        said = self.own_normalization()
        if given is not None:
            return given, "config"
        # sentence-transformers compares embeddings by cosine where a model doesn't say how.
        return (True, "default") if said is None else (said, "files")

    def own_normalization(self) -> bool | None:
        """Say whether embeddings of length 1 make dot products rank as the model does; None: the files don't say.

        - raises ConfigError: where dot products don't rank so either way
        """
        if self.similarity not in (None, "cosine", "dot"):
            raise ConfigError(
                f"{self.path}: compares embeddings by '{self.similarity}', and rankings here are by dot products; give"
                " normalize: true where cosines will do, or use another model"
            )
        if self.unit:
            return True
        return None if self.similarity is None else self.similarity == "cosine"


def sentence_settings(path: str, revision: str | None, pooling: str = "auto") -> SentenceSettings:
    """Read a model's SentenceSettings.

    - pooling: as the user gave it; where that isn't "auto", the model's files on pooling are not read
    - raises ConfigError: for a model with layers other than a transformer, pooling and normalisation
    """
    modules = _modules(path, revision)
    other = [kind for kind in modules or {} if kind not in ("Transformer", "Pooling", "Normalize")]
    if other:
        raise ConfigError(
            f"{path}: its embeddings come from a layer '{other[0]}', which is not supported; use another model"
        )
    said = own_file(path, revision, "config_sentence_transformers.json") or {}
    prompts = {name: text or "" for name, text in (said.get("prompts") or {}).items()}
    usual = said.get("default_prompt_name")
    if usual is not None and usual not in prompts:
        raise ConfigError(
            f"{path}: config_sentence_transformers.json: default_prompt_name: '{usual}' is none of its prompts;"
            f" {nearest(usual, prompts)}"
        )

    def prompt(*names: str) -> str:
        return next((prompts[name] for name in (*names, usual) if name in prompts), "")

    return SentenceSettings(
        path,
        prompt("query"),
        prompt("document", "passage", "corpus"),
        said.get("similarity_fn_name"),
        "Normalize" in (modules or {}),
        pooling != "auto" or _pooling_file(path, revision, modules).get("include_prompt", True) is not False,
    )
