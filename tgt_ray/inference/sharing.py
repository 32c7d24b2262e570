"""Puts an export on the hub of Hugging Face, with the library's own ways to log in. Imports no torch."""

from __future__ import annotations

import logging
from pathlib import Path

from tgt_ray.core.errors import ConfigError, RunFailed

log = logging.getLogger(__name__)


def check_push(name: str | None, public: bool) -> None:
    """Raise ConfigError where an export can't be put on the hub; nothing is written before.

    - name: OWNER/NAME; None: it isn't to be
    """
    if name is None:
        if public:
            raise ConfigError("--public: has no effect without --push OWNER/NAME; leave it out")
        return
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as err:
        raise ConfigError(f"--push {name}: expected OWNER/NAME ({err})") from err
    if name.count("/") != 1:
        raise ConfigError(f"--push {name}: expected OWNER/NAME, with the name of a user or an organisation")
    if constants.HF_HUB_OFFLINE:
        raise ConfigError(f"--push {name}: HF_HUB_OFFLINE is set, so the hub can't be reached; unset it")
    if get_token() is None:
        raise ConfigError(f"--push {name}: nobody is logged in on the hub; do so by `hf auth login`, or set HF_TOKEN")


def push(folder: Path, name: str, public: bool) -> str:
    """Upload an export to a repository of models, which is made where there is none, and return its address.

    - public: whether everybody may see it; a repository that is there must be as this says
    - raises ConfigError: where it is not
    - raises RunFailed: where the hub can't be reached or refuses it; the export stays where it is
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    api, wanted = HfApi(), "public" if public else "private"
    try:
        try:
            private = bool(api.model_info(name).private)
        except RepositoryNotFoundError:
            api.create_repo(name, repo_type="model", private=not public)
            private = not public
        if private == public:
            there, remedy = ("private", "leave --public out") if private else ("public", "give --public")
            raise ConfigError(
                f"--push {name}: is there already and is {there}, not {wanted}; {remedy}, or change it on the hub"
            )
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload of tgt-ray's export")
    # The bases of the hub's own error: that of its library for HTTP, and that of the system, as for a lost connection.
    except (*HfHubHTTPError.__bases__, ValueError) as err:
        if isinstance(err, ConfigError):
            raise
        reason = " ".join(str(err).split()).rstrip(".") or type(err).__name__
        raise RunFailed(
            f"--push {name}: {reason}; the export lies in {folder}, and `hf upload {name} {folder}` tries again"
        ) from err
    address = f"{api.endpoint}/{name}"
    log.info("%s: uploaded, %s", address, wanted)
    return address
