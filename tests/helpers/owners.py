"""Folders that somebody owns."""

import json
from pathlib import Path

from tgt_ray.core.owner import Held
from tgt_ray.core.storage import Storage


def held(folder: Storage) -> Held:
    """What owns a folder for ever, without a heartbeat."""
    Path(folder.base).mkdir(parents=True, exist_ok=True)
    token = "0" * 32
    Path(folder.base, "owner-000001.lock").write_text(json.dumps({"token": token}))
    return Held(folder, "owner", 1, token)
