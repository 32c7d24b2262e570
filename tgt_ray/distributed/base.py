"""Looks whether the Ray under this process still runs, and ends the process in order where it doesn't."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress

import psutil
import ray

from tgt_ray.core import ends

log = logging.getLogger(__name__)

#: Seconds between two looks at whether Ray is there, and those to end in order where it isn't.
LOOK_S, TO_LEAVE_S = 1.0, 25.0
#: Looks from one at all processes to the next.
ALL = 5
#: Processes without which no Ray is, and what messages call them.
PARTS = {"raylet": "raylet", "gcs_server": "GCS"}


class Base(threading.Thread):
    """Ends this process where Ray has ended under it: what waits for tasks would wait for ever.

    A command ends as after a signal, and at once where that doesn't get on. In a program that calls this package from
    its main thread, that thread gets a KeyboardInterrupt; in another thread nothing can end it, and a line says why it
    waits.

    - local: whether Ray runs for this process alone
    - lost: why it can't go on; None: it can
    - left: is set once the process has left Ray
    """

    def __init__(self, local: bool):
        super().__init__(name="base", daemon=True)
        self.local, self.over, self.left = local, threading.Event(), threading.Event()
        self.lost: str | None = None
        self.in_main = threading.current_thread() is threading.main_thread()
        self.before = psutil.Process().children()
        self.seen: set[psutil.Process] = set()
        self.lock = threading.Lock()

    def processes(self) -> list[psutil.Process]:
        """Return all processes of a local Ray that live, also of those that have lost their parent."""
        with self.lock:
            for each in psutil.Process().children() if self.local else []:
                with suppress(psutil.Error):
                    if each not in self.before and _of_ray(each):
                        self.seen |= {each, *each.children(recursive=True)}
            self.seen = {each for each in self.seen if _lives(each)}
            return list(self.seen)

    def run(self) -> None:
        here = [(each, _name(each)) for each in self.processes() if _name(each) in PARTS]
        own, count = ray.get_runtime_context().get_node_id(), 0
        while not self.over.wait(LOOK_S):
            count += 1
            if count % ALL == 0:
                self.processes()
            lost = _lost(here) if self.local else _no_node(own)
            if lost is not None and not self.over.wait(LOOK_S):  # a signal may have ended both, and comes through now
                self._end(lost)
                return

    def _end(self, lost: str) -> None:
        self.lost = (
            f"{lost}, and with it all processes of this command; start it again, with --resume if training had begun"
        )
        if not ends.is_ordered() and not self.in_main:
            log.error("failed: %s", self.lost)
            return
        # At once: Ray ends this process, without a word, as soon as it touches the store of a raylet that is gone.
        log.warning("%s: this command ends", lost)
        ends.fail(self.lost)
        if ends.is_ordered() and not self.left.wait(TO_LEAVE_S):
            self._end_at_once(self.lost)

    def _end_at_once(self, reason: str) -> None:
        """End this process, whose main thread waits for what isn't there; Ray would do it later, and without a word."""
        failed = ends.failure() is not None
        if failed:
            log.error("failed: %s", reason)
        logging.shutdown()
        for each in self.processes():
            with suppress(psutil.NoSuchProcess):
                each.kill()
        os._exit(1 if failed else ends.exit_code())


def _lost(here: list[tuple[psutil.Process, str]]) -> str | None:
    """Say which process of a local Ray has ended."""
    gone = [PARTS[name] for each, name in here if not _lives(each)]
    return f"a process of the local Ray has ended ({gone[0]})" if gone else None


def _no_node(own: str) -> str | None:
    """Say that the cluster has given up the node of this process."""
    try:
        alive = {node["NodeID"]: node["Alive"] for node in ray.nodes()}
    except Exception:  # without a head Ray ends this process itself, after a minute
        return None
    return None if alive.get(own, True) else "this machine is no node of the Ray cluster any more"


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return str(process.name())
    return ""


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _of_ray(process: psutil.Process) -> bool:
    return any(part.startswith("ray::") or "/ray/" in part for part in process.cmdline())
