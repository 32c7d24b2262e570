"""Connects to the Ray cluster or starts a local one, lists its nodes, and checks that they share the storage."""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tgt_ray.core import ends
from tgt_ray.core.errors import ConfigError, RunFailed, cut
from tgt_ray.core.storage import Storage
from tgt_ray.distributed.base import Base
from tgt_ray.distributed.ray_train import LOGGERS, check_cluster, keep_tokens_private, raylet_messages_to_stderr
from tgt_ray.distributed.resources import Resources

log = logging.getLogger(__name__)

#: Seconds that processes of a local cluster have to end when it ends.
TO_END_S = 3.0


@contextmanager
def connect() -> Iterator[None]:
    """Use the cluster that this process is in or that RAY_ADDRESS names; otherwise start a local one for the block.

    - raises ConfigError: where the cluster can't be reached or no local one can be started
    - raises RunFailed: where Ray has ended within the block
    """
    if ray.is_initialized():
        yield
        return
    # The progress bars of single data sets would break up the leaderboard.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    for name, level in LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    raylet_messages_to_stderr()
    keep_tokens_private()
    address = os.environ.get("RAY_ADDRESS", "local") or "local"
    base = Base(address == "local")
    try:
        with ends.later(patient=False):  # code in C++ that is interrupted while it starts may crash
            _start(address)
        base.start()
        yield
    except KeyboardInterrupt:
        if base.lost is not None and not ends.is_ordered():  # a caller of this package has not asked for it
            raise RunFailed(base.lost) from None
        raise
    finally:
        with ends.later():
            _leave(base)


def _start(address: str) -> None:
    try:
        if address == "local":
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        else:
            log.info("connecting to the Ray cluster at %s (RAY_ADDRESS)", address)
            check_cluster(address)
            ray.init(address=address, log_to_driver=False)
    except Exception as err:  # Ray raises a plain Exception where a node doesn't start in time
        local = address == "local"
        what = "cannot start a local Ray" if local else f"RAY_ADDRESS {address}: cannot connect to that cluster"
        raise ConfigError(f"{what} ({' '.join(str(err).split())})") from err


def _leave(base: Base) -> None:
    """Leave the cluster; of a local one no process stays.

    Those that have only begun don't see for long that the others are gone, and Ray's agents wait for a minute where the
    raylet had to be killed.
    """
    base.over.set()
    try:
        there = base.processes()
        ray.shutdown()
        for each in psutil.wait_procs(there, timeout=TO_END_S)[1]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
    finally:
        base.left.set()


def nodes() -> list[Resources]:
    """Return the total resources of each node that is alive."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def largest_node_cpus() -> float:
    """Return the number of CPUs of the node that has the most."""
    return max(node.get("CPU", 0.0) for node in nodes())


def beside_the_caller() -> NodeAffinitySchedulingStrategy:
    """Return a strategy that puts an actor on the calling process's node, so that the loss of another can't end it."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def reason(said: str) -> str:
    """Return the cause in what Ray says of an error: its last line, below the traceback."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[\d;]*m", "", said).splitlines() if line.strip()]
    return cut(lines[-1], 300) if lines else ""


def count_fitting(needs: Resources) -> int:
    """Count the processes with these needs that the nodes hold, if nothing else runs there."""
    wanted = {name: amount for name, amount in needs.items() if amount}
    return sum(int(min(node.get(name, 0.0) // amount for name, amount in wanted.items())) for node in nodes())


def check_device(device: str) -> None:
    """Raise ConfigError for a device that a process of Ray can't be given."""
    if device not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"--device {device}: expected cpu, cuda or mps; Ray chooses the GPU of each process itself")


def check_shared(storage: Storage, option: str = "--storage") -> None:
    """Raise ConfigError where the storage is a folder of this machine that another node of the cluster doesn't see.

    - option: that has named it
    """
    if not storage.is_local:
        return
    others = _other_nodes()
    marker = f"shared-{uuid.uuid4().hex[:8]}"
    storage.write(b"", marker)
    try:
        seen = {n["NodeManagerAddress"]: _sees(n["NodeID"], storage.path(marker)) for n in others}
        blind = sorted(address for address, ref in seen.items() if not ray.get(ref))
    finally:
        storage.fs.delete_file(storage.path(marker))
    if blind:
        raise ConfigError(
            f"{option} {storage.shown}: the cluster has {len(others) + 1} nodes, and {blind[0]} does not see this"
            " folder; give a folder that all nodes mount, or a URI such as s3://bucket/path"
        )


def check_seen(path: Path, what: str) -> None:
    """Raise ConfigError where another node of the cluster doesn't see a file or folder of this machine.

    - what: it is, for the message
    """
    others = _other_nodes()
    seen = {n["NodeManagerAddress"]: _sees(n["NodeID"], str(path)) for n in others}
    blind = sorted(address for address, ref in seen.items() if not ray.get(ref))
    if blind:
        raise ConfigError(
            f"{what}: the cluster has {len(others) + 1} nodes, and {blind[0]} does not see it; put it where all nodes"
            " see it"
        )


def check_folder_seen(folder: str, what: str) -> None:
    """Do the same for a folder, which may also be a URI, which all nodes see.

    - what: it is, for the message, which names it
    """
    storage = Storage(folder)
    if storage.is_local:
        check_seen(Path(storage.base), f"{what} {storage.shown}")


def _other_nodes() -> list[dict[str, Any]]:
    return [n for n in ray.nodes() if n["Alive"] and n["NodeID"] != ray.get_runtime_context().get_node_id()]


def _sees(node_id: str, path: str) -> Any:
    where = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(_exists).options(num_cpus=0, scheduling_strategy=where).remote(path)


def _exists(path: str) -> bool:
    return Path(path).exists()
