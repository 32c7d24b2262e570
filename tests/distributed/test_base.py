"""Whether the Ray under a command still runs; tests/chaos kills a real one."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import psutil
import pytest

from tgt_ray.core import ends
from tgt_ray.core.errors import RunFailed
from tgt_ray.distributed import base, cluster


@pytest.fixture
def child():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


def test_a_process_that_has_ended_is_named(child):
    here = [(child, "raylet")]
    assert base._lost(here) is None
    child.kill()
    while child.status() != psutil.STATUS_ZOMBIE:  # as long as nobody asks for its exit code
        pass
    assert base._lost(here) == "a process of the local Ray has ended (raylet)"


@pytest.mark.parametrize(
    ("nodes", "lost"),
    [
        ([{"NodeID": "a", "Alive": True}], False),
        ([{"NodeID": "a", "Alive": False}, {"NodeID": "b", "Alive": True}], True),
        ([{"NodeID": "b", "Alive": True}], False),
    ],
)
def test_a_node_that_the_cluster_has_given_up_is_none(monkeypatch, nodes, lost):
    monkeypatch.setattr(base, "ray", SimpleNamespace(nodes=lambda: nodes))
    assert (base._no_node("a") is not None) == lost


def test_a_program_that_calls_the_package_gets_an_error(monkeypatch, signals_as_usual):
    local = SimpleNamespace(is_initialized=lambda: False, shutdown=lambda: None)
    monkeypatch.setattr(cluster, "ray", local)
    monkeypatch.setattr(cluster, "_start", lambda address: None)
    monkeypatch.setattr(base.Base, "run", lambda self: self._end("it is gone"))
    with pytest.raises(RunFailed, match=r"^it is gone, and with it all processes"), cluster.connect():
        threading.Event().wait(10)


def test_in_another_thread_a_line_says_why_it_waits(monkeypatch, caplog):
    watch = base.Base(local=True)
    watch.in_main = False
    monkeypatch.setattr(ends, "fail", lambda reason: pytest.fail("it would end another thread"))
    watch._end("it is gone")
    assert caplog.messages == [f"failed: {watch.lost}"]
