"""Starts a student as a service of Ray Serve, and ends it. The service itself is in `replica.py`."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from tgt_ray.core.errors import ConfigError, RunFailed, cut
from tgt_ray.distributed import cluster
from tgt_ray.distributed.service_settings import Settings

log = logging.getLogger(__name__)

#: The application's name in Ray Serve.
NAME = "tgt-ray"
#: Requests that may wait in front of the replicas; more are refused with status 503.
QUEUED = 1000
#: Seconds between two looks at the service, and those that requests have to end when it ends.
LOOK_S, TO_END_S = 5.0, 10.0
#: Times that a replica may try to start.
TRIES = 2


def check_installed() -> None:
    """Raise ConfigError where a library of the extra `serve` is missing."""
    try:
        import fastapi
        import fastapi_offline
        import python_multipart
        from ray import serve
    except ImportError as err:
        missing = re.sub(r"\W.*", "", err.name or "ray[serve]")
        raise ConfigError(f'serve: needs {missing}, which isn\'t installed; pip install "tgt-ray[serve]"') from err
    assert all((fastapi, fastapi_offline, python_multipart, serve))


def check(settings: Settings) -> None:
    """Raise ConfigError for what is seen to be wrong before Ray is started."""
    check_installed()
    cluster.check_device(settings.device)
    if not _elsewhere():
        check_address(settings.host, settings.port, bind(settings.host, settings.port))


def _elsewhere() -> bool:
    """Return whether the service will run on a cluster that is there already."""
    return os.environ.get("RAY_ADDRESS", "local") not in ("", "local")


def bind(host: str, port: int) -> str:
    """Try an address; return why nothing can listen on it, or an empty text."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host, port))
            tried.listen(1)
    except (OSError, UnicodeError) as err:
        return str(getattr(err, "strerror", None) or err)
    return ""


def check_address(host: str, port: int, why: str) -> None:
    """Raise ConfigError where an address can't be listened on; warn where others can reach it.

    - why: what `bind` has said
    """
    if why:
        raise ConfigError(f"--host {host} --port {port}: can't be listened on ({why}); give another --port or --host")
    if not _is_local(host):
        log.warning(
            "--host %s: everybody who reaches this port can use the service, since it asks for no password", host
        )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run(folder: str, settings: Settings) -> None:
    """Serve a student until the process is interrupted.

    - folder: of a student, which has been tried
    - raises KeyboardInterrupt: where it gets one of them before it serves
    - raises ConfigError: where the address can't be listened on, or the cluster is too small or serves something else
    - raises RunFailed: where the student can't be started there, or Ray is lost
    """
    begun = False
    try:
        with cluster.connect():
            if _elsewhere():
                check_address(settings.host, settings.port, _bind_on_head(settings))
            with served(folder, settings):
                begun = True
                _watch()
    except ray.exceptions.RayError as err:
        raise RunFailed(f"serve: the service was lost ({cluster.reason(str(err))})") from err
    except KeyboardInterrupt:
        if not begun:
            raise
        log.info("the service has ended")


def _bind_on_head(settings: Settings) -> str:
    """Try the address where the service will listen: on the head of the cluster."""
    head = {"node:__internal_head__": 0.001}
    tried = ray.remote(bind).options(num_cpus=0, resources=head).remote(settings.host, settings.port)
    return str(ray.get(tried))


@contextmanager
def served(folder: str, settings: Settings) -> Iterator[None]:
    """Serve a student while the block lasts, on the cluster that is connected.

    - raises: as `run`
    """
    from ray import serve

    from tgt_ray.distributed.replica import Replica

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if serve.status().proxies:
        raise ConfigError("serve: this cluster has a service of Ray Serve already; end it, or use another cluster")
    cluster.check_folder_seen(folder, "FOLDER")
    needs = {"CPU": 1.0, **({"GPU": 1.0} if settings.device == "cuda" else {})}
    fitting = cluster.count_fitting(needs)
    if settings.replicas > fitting:
        each = " and ".join(f"a {name}" for name in needs)
        raise ConfigError(f"--replicas {settings.replicas}: each takes {each}, and the cluster holds {fitting} of them")
    deployment = serve.deployment(
        Replica,
        name="student",
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": 1, "num_gpus": needs.get("GPU", 0)},
        max_ongoing_requests=max(100, 2 * settings.max_batch),
        max_queued_requests=QUEUED,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=TO_END_S,
        max_constructor_retry_count=TRIES,
    )
    try:
        _start(deployment.bind(folder, settings), settings)
        log.info("%s", _said(settings))
        yield
    finally:
        serve.shutdown()  # requests that are being answered may end


def _start(application: Any, settings: Settings) -> None:
    from ray import serve

    quiet = {"enable_access_log": False}
    address = {"host": settings.host, "port": settings.port}
    try:
        serve.start(proxy_location="HeadOnly", http_options=address, logging_config=quiet)
        serve.run(application, name=NAME, logging_config=quiet)
    except (RuntimeError, TimeoutError, ray.exceptions.RayError) as err:
        there = None if isinstance(err, ray.exceptions.RayError) else serve.status().applications.get(NAME)
        said = [each.message for each in there.deployments.values()] if there is not None else []
        raise RunFailed(
            f"serve: the service can't be started ({cluster.reason(said[0] if said else str(err))})"
        ) from err


def _said(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    replicas = f"{settings.replicas} processes" if settings.replicas > 1 else "one process"
    return (
        f"serving on http://{host}:{settings.port} by {replicas} on {settings.device}; its interface is on the page"
        " /docs; Ctrl-C ends it"
    )


def _watch() -> None:
    """Wait for the end, and say when the service changes for the worse or for the better."""
    from ray import serve

    state = "RUNNING"
    while True:
        time.sleep(LOOK_S)
        app: Any = serve.status().applications[NAME]
        if app.status != state:
            state = app.status
            log.warning("the service is %s: %s", str(state).lower(), cut(" ".join(app.message.split()), 300) or "again")
