"""Write and read the states that a run resumes from: the last one, and the one before it. Imports no torch."""

from __future__ import annotations

import logging
from functools import partial

from tgt_ray.core import patience
from tgt_ray.core.owner import Held
from tgt_ray.core.storage import Storage
from tgt_ray.core.stored import Damaged
from tgt_ray.training.files import PREVIOUS_FILE, STATE_FILE

log = logging.getLogger(__name__)


def write_files(files: dict[str, bytes], folder: Storage, held: Held | None = None) -> None:
    """Write a checkpoint's files, however long it takes; the state before stays, under another name.

    - held: what the command owns that trains it
    - raises NotWritten: where they can't be written for long; what was there stays
    """
    patiently = held.patiently if held is not None else patience.patiently
    for name, content in files.items():  # each for itself: a state written twice would be its own predecessor
        patiently(partial(folder.write, content, name, keep=PREVIOUS_FILE if name == STATE_FILE else None))


def any_in(folder: Storage) -> bool:
    """Return whether a folder has a state, whole or not."""
    return folder.exists(STATE_FILE) or folder.exists(PREVIOUS_FILE)


def last_whole(folder: Storage) -> bytes | None:
    """Read the last state of a folder, or the one before where that is damaged, with a line in the log.

    - returns: None where there is neither
    - raises Damaged: where there are states, and none is whole
    """
    damaged: list[Damaged] = []
    for name in (STATE_FILE, PREVIOUS_FILE):
        try:
            content = folder.read(name)
        except FileNotFoundError:
            continue
        except Damaged as err:
            damaged.append(err)
            continue
        if damaged:
            log.warning("%s; goes on from the state before it, %s", damaged[0].fact, folder.where(name))
        return content
    if damaged:
        raise damaged[0]
    return None


def check(folder: Storage) -> None:
    """Put the state before in the place of a damaged one, so that all who read it find the same.

    - raises Damaged: where there are states, and none is whole
    """
    if folder.exists(PREVIOUS_FILE) and not _is_whole(folder, STATE_FILE):
        content = last_whole(folder)
        if content is not None:
            folder.write(content, STATE_FILE)
    elif folder.exists(STATE_FILE):
        folder.read(STATE_FILE)


def _is_whole(folder: Storage, name: str) -> bool:
    try:
        return bool(folder.read(name))
    except (FileNotFoundError, Damaged):
        return False
