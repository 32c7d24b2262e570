"""The README's way onto a cluster: `ray start --head`, then `ray job submit`, with Ray's token authentication on."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tgt_ray.core.loading import with_overrides

pytestmark = pytest.mark.ray

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A cluster of its own with a token of its own; yields the environment of somebody who may use it."""
    home = tmp_path_factory.mktemp("home")
    port, dashboard = free_port(), free_port()
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= {"PATH": f"{BIN}:{env['PATH']}", "HOME": str(home), "RAY_AUTH_MODE": "token"}
    subprocess.run(["ray", "get-auth-token", "--generate"], env=env, check=True, capture_output=True, timeout=60)
    ports = [f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}"]
    # Ray's sockets lie there, and their paths must be short.
    temporary = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    ports += [f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={temporary}"]
    start = subprocess.Popen(
        ["ray", "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats", *ports],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    env["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    wait_for_jobs(env, start)
    yield env
    os.killpg(start.pid, signal.SIGKILL)  # Ray's own way out takes half a minute
    start.wait(timeout=60)
    shutil.rmtree(temporary, ignore_errors=True)


def wait_for_jobs(env: dict[str, str], head_process: subprocess.Popen) -> None:
    for _ in range(60):
        assert head_process.poll() is None, "ray start ended"
        if subprocess.run(["ray", "job", "list"], env=env, capture_output=True, timeout=60).returncode == 0:
            return
    raise AssertionError("the cluster takes no jobs")


def submit(
    env: dict[str, str], folder: Path, *arguments: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["ray", "job", "submit", "--working-dir", ".", *options, "--", "python", "-m", "tgt_ray.sweep", *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture
def sweep_file(prepared, tmp_path) -> Path:
    values = [("explorer.type", "random"), ("train.steps", 60), ("train.eval_every", 30)]
    data = {
        "experiment": with_overrides(prepared.experiment.model_dump(mode="json"), values),
        "space": {"train.learning_rate": {"choice": [0.01]}},
        "search": {"algorithm": "grid", "controls": [], "scheduler": "none"},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    return tmp_path / "mine.yaml"


@pytest.mark.slow
def test_a_submitted_sweep_runs_on_the_cluster_and_leaves_its_results(head, sweep_file, storage):
    done = submit(head, sweep_file.parent, "mine.yaml", "--storage", storage.root, "--name", "job")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "best:" in done.stdout
    assert storage.exists("job", "best", "student.safetensors")


@pytest.mark.slow
def test_a_sweep_without_a_finished_trial_fails_the_job(head, sweep_file, storage):
    options = ("--set", "space={train.learning_rate: {choice: [1.0e+30]}}", "--set", "experiment.train.optimizer=sgd")
    done = submit(head, sweep_file.parent, "mine.yaml", "--storage", storage.root, "--name", "bad-job", *options)
    assert done.returncode != 0
    assert "not finite" in done.stdout


@pytest.mark.slow
def test_a_stopped_job_leaves_no_process_of_its_own(head, sweep_file, storage):
    done = submit(
        head,
        sweep_file.parent,
        "mine.yaml",
        *("--storage", storage.root, "--name", "stopped-job", "--set", "experiment.train.steps=100000"),
        options=("--no-wait", "--submission-id", "to-be-stopped"),
    )
    assert done.returncode == 0, done.stdout + done.stderr

    def ray_processes() -> list[str]:
        """Titles of the processes of the head's user that work for jobs."""
        listed = subprocess.run(["ps", "axww", "-o", "args="], capture_output=True, text=True, check=True)
        return [line for line in listed.stdout.splitlines() if "RayTrainWorker" in line or "TeacherGenerator" in line]

    wait_until(lambda: list(Path(storage.root).glob("stopped-job/train/*/state.pt")), 120)
    assert ray_processes(), "the sweep has no processes, so nothing is tested"
    subprocess.run(["ray", "job", "stop", "to-be-stopped"], env=head, check=True, capture_output=True, timeout=60)
    wait_until(lambda: not ray_processes(), 30)
    assert yaml.safe_load(storage.read("stopped-job", "sweep.yaml")), "what was begun stays, to be resumed"


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "waited too long"
        time.sleep(0.2)


def test_a_stranger_without_the_token_is_refused(head, sweep_file, storage, tmp_path_factory):
    stranger = {**head, "HOME": str(tmp_path_factory.mktemp("stranger"))}
    done = submit(stranger, sweep_file.parent, "mine.yaml", "--storage", storage.root, "--name", "stranger")
    assert done.returncode != 0
    assert not storage.exists("stranger")
