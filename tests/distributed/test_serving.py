"""A student as a service of Ray Serve, and predictions of many inputs over a cluster."""

import logging
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pytest
import requests

import tgt_ray
from tests.helpers.commands import command
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.distributed import cluster, serving
from tgt_ray.distributed.service_settings import Settings

TEXTS = [f"a {word} day of {other}" for word in ("good", "bad", "long") for other in ("joy", "gloom", "rain", "tea")]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_an_address_that_is_taken_or_of_nobody_is_refused(monkeypatch, capsys, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        assert command(monkeypatch, "serve", tmp_path, "--port", port) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --host 127.0.0.1 --port {port}: can't be listened on (Address already in use);")
    assert command(monkeypatch, "serve", tmp_path, "--host", "192.0.2.1", "--port", free_port()) == 2
    assert "can't be listened on (Cannot assign requested address)" in capsys.readouterr().err


def test_other_options_are_checked_before_anything_starts(monkeypatch, capsys, tmp_path):
    port = ("--port", free_port())
    assert command(monkeypatch, "serve", tmp_path, *port, "--device", "cuda:1") == 2
    assert "--device cuda:1: expected cpu, cuda or mps" in capsys.readouterr().err
    assert command(monkeypatch, "serve", tmp_path, *port) == 2
    assert "has no student.safetensors" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "fastapi_offline", None)
    assert command(monkeypatch, "serve", tmp_path, *port) == 2
    assert capsys.readouterr().err == (
        'error: serve: needs fastapi_offline, which isn\'t installed; pip install "tgt-ray[serve]"\n'
    )


@pytest.mark.parametrize(
    "host, warned", [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True)]
)
def test_a_host_that_others_reach_is_said(caplog, host, warned):
    with caplog.at_level(logging.WARNING):
        serving.check_address(host, 8000, "")
    assert ("everybody who reaches this port can use the service" in caplog.text) == warned


@pytest.fixture(scope="module")
def service(ray_cluster, of_sentences):
    """The address of a student of texts."""
    settings = Settings(port=free_port(), max_batch=4, batch_wait_ms=20, max_request_mb=0.1, max_inputs=12)
    with serving.served(of_sentences.folder, settings):
        yield f"http://127.0.0.1:{settings.port}"


@pytest.mark.ray
def test_many_ask_at_once(service, of_sentences):
    expected = tgt_ray.load_student(of_sentences.folder).predict(TEXTS)
    bodies = [[text] for text in TEXTS] * 3 + [TEXTS]  # the last one has more than a batch

    def ask(inputs: list[str]) -> list[dict]:
        answer = requests.post(f"{service}/predict", json={"inputs": inputs}, timeout=30)
        assert answer.status_code == 200
        return answer.json()["predictions"]

    with ThreadPoolExecutor(16) as pool:
        *single, whole = pool.map(ask, bodies)
    for found in ([each for (each,) in single[: len(TEXTS)]], [each for (each,) in single[-len(TEXTS) :]], whole):
        assert [each["label"] for each in found] == expected["label"].tolist()
        assert [each["probability"] for each in found] == pytest.approx(expected["probability"], rel=1e-4)


@pytest.mark.ray
def test_it_refuses_over_http_what_it_can_not_use(service):
    bad = requests.post(f"{service}/predict", json={"inputs": ["good", 3]}, timeout=30)
    assert (bad.status_code, bad.json()) == (422, {"detail": "inputs[1]: int; expected a text"})
    many = requests.post(f"{service}/predict", json={"inputs": ["good"] * 13}, timeout=30)
    assert many.json() == {"detail": "inputs: has 13; expected at most 12 in a request"}
    sizes = {"content-type": "application/json"}
    for body in (b" " * 200_000, iter([b" " * 1000] * 200)):
        large = requests.post(f"{service}/predict", data=body, headers=sizes, timeout=30)
        assert large.status_code == 413 and "more than 0.1 MB" in large.json()["detail"]
    assert requests.get(f"{service}/health", timeout=30).json() == {"status": "ok"}
    assert requests.get(f"{service}/docs", timeout=30).status_code == 200
    assert "/predict" in requests.get(f"{service}/openapi.json", timeout=30).json()["paths"]


@pytest.mark.ray
def test_a_second_service_on_the_cluster_is_refused(service, of_sentences):
    another = serving.served(of_sentences.folder, Settings(port=free_port()))
    with pytest.raises(ConfigError, match="has a service of Ray Serve already"), another:
        pass
    assert requests.get(f"{service}/health", timeout=30).status_code == 200


@pytest.mark.slow
@pytest.mark.ray
def test_rows_are_shared_by_the_cluster_and_a_broken_job_goes_on(
    monkeypatch, capsys, caplog, ray_cluster, of_sentences, tmp_path
):
    caplog.set_level(logging.INFO)
    out = tmp_path / "out"
    pd.DataFrame({"text": [*TEXTS, "", *TEXTS]}).to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    with (tmp_path / "rows.jsonl").open("a") as lines:
        lines.write('{"text": null}\n')
    source = tmp_path / "rows.jsonl"
    asked = ("predict", of_sentences.folder, source, "--ray", "--out", out, "--rows-per-part", 7)
    assert command(monkeypatch, *asked) == 0
    assert "row 25: no text; expected a text; it is left out" in caplog.text
    assert "row 12: an empty text; it is left out" in caplog.text
    assert f"24 rows predicted; 2 can't be used and are left out; 4 parts in {out}" in caplog.text
    assert command(monkeypatch, "predict", of_sentences.folder, source, "--out", tmp_path / "plain.parquet") == 0
    expected = pd.read_parquet(tmp_path / "plain.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(out), expected, rtol=1e-4)
    (out / "part-00002.parquet").unlink()
    before = (out / "part-00001.parquet").stat().st_mtime_ns
    assert command(monkeypatch, *asked) == 0
    assert f"{out}: 3 of 4 parts are there already" in caplog.text
    assert (out / "part-00001.parquet").stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(pd.read_parquet(out), expected, rtol=1e-4)
    assert command(monkeypatch, *asked[:-1], 8) == 2
    assert "another option (rows_per_part 7 there, 8 now)" in capsys.readouterr().err


@pytest.mark.ray
def test_what_another_node_does_not_see_is_refused(monkeypatch, ray_cluster, tmp_path):
    import ray

    here = ray.nodes()[0]
    other = here | {"NodeID": "another", "NodeManagerAddress": "10.0.0.7"}
    monkeypatch.setattr(ray, "nodes", lambda: [here, other])
    monkeypatch.setattr(cluster, "_sees", lambda node_id, path: ray.put(False))
    with pytest.raises(ConfigError, match=r"INPUT a\.csv: the cluster has 2 nodes, and 10\.0\.0\.7 does not see it"):
        cluster.check_seen(Path("a.csv"), "INPUT a.csv")
    with pytest.raises(ConfigError, match=r"--out .* 10\.0\.0\.7 does not see this folder"):
        cluster.check_shared(Storage(tmp_path), "--out")
    assert cluster.count_fitting({"CPU": here["Resources"]["CPU"]}) == 2
    assert cluster.count_fitting({"CPU": 1, "GPU": 1_000}) == 0


def test_of_a_traceback_the_cause_is_said():
    said = "\x1b[36mray::Worker\x1b[39m died\n  File a.py\n\nConfigError: \x1b[31mno student\x1b[0m\n"
    assert cluster.reason(said) == "ConfigError: no student" and cluster.reason("") == ""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_no_process_is_left(of_sentences, number, tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "tgt_ray", "serve", of_sentences.folder, "--port", str(port)]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + 200
        while f"serving on http://127.0.0.1:{port}" not in (tmp_path / "said").read_text():
            assert process.poll() is None and time.monotonic() < until, (tmp_path / "said").read_text()
            time.sleep(0.5)
        assert requests.get(f"http://127.0.0.1:{port}/health", timeout=30).status_code == 200
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
    _, left = psutil.wait_procs(started, timeout=20)
    assert len(started) > 3 and left == []
    assert (tmp_path / "said").read_text().splitlines()[-1] == "the service has ended"
    assert serving.bind("127.0.0.1", port) == ""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("begun", ["raylet", "ServeController"])
def test_ctrl_c_while_it_starts_is_one_line_and_no_process_is_left(of_sentences, tmp_path, begun):
    command = [sys.executable, "-m", "tgt_ray", "serve", of_sentences.folder, "--port", str(free_port())]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
    try:
        until, started = time.monotonic() + 200, []
        while not any(begun in " ".join(each.cmdline()) for each in started):
            assert process.poll() is None and time.monotonic() < until, (tmp_path / "said").read_text()
            time.sleep(0.1)
            with suppress(psutil.NoSuchProcess):
                started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        while process.poll() is None and time.monotonic() < until:
            with suppress(psutil.NoSuchProcess):
                started += psutil.Process(process.pid).children(recursive=True)
            time.sleep(0.1)
        assert process.returncode == 130
    finally:
        process.kill()
    _, left = psutil.wait_procs(set(started), timeout=20)
    assert left == []
    assert (tmp_path / "said").read_text() == "interrupted: the service had not begun, and has ended\n"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)  # two starts of Ray, which take long on a busy machine
def test_ctrl_c_of_a_shared_prediction_keeps_its_parts_and_the_same_command_goes_on(of_sentences, tmp_path):
    source, out = tmp_path / "rows.parquet", tmp_path / "out"
    pd.DataFrame({"text": TEXTS * 2000}).to_parquet(source)
    words = ["predict", of_sentences.folder, str(source), "--ray", "--out", str(out), "--rows-per-part", "400"]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen([sys.executable, "-m", "tgt_ray", *words], stdout=said, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + 200
        while not list(out.glob("part-*.parquet")):
            assert process.poll() is None and time.monotonic() < until, (tmp_path / "said").read_text()
            time.sleep(0.1)
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=100) == 130
    finally:
        process.kill()
    assert psutil.wait_procs(started, timeout=20)[1] == []
    last = f"interrupted: what is done stays in {out}, and the same command goes on"
    assert last in (tmp_path / "said").read_text().splitlines() and 0 < len(list(out.glob("part-*.parquet"))) < 60
    again = subprocess.run([sys.executable, "-m", "tgt_ray", *words], capture_output=True, text=True, timeout=250)
    assert again.returncode == 0 and "of 60 parts are there already" in again.stdout, again.stdout + again.stderr
    assert len(pd.read_parquet(out)) == 24_000
