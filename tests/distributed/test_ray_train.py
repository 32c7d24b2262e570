"""What Ray Train starts for a lane besides its workers."""

import logging
import os
import socket
import stat

import pytest
import ray

from tgt_ray.core.errors import ConfigError
from tgt_ray.distributed import cluster, ray_train
from tgt_ray.distributed.ray_train import keep_tokens_private, trainer_class


@pytest.fixture
def unconnected(monkeypatch):
    """As in a new process: tests before may have left a cluster that is connected."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_lane_starts_no_actor_for_data_sets_and_none_that_needs_the_dashboard(workers):
    made = trainer_class(workers)
    started = {type(each).__name__ for each in made(lambda: None)._create_default_callbacks()}
    by_ray = {type(each).__name__ for each in made.__mro__[2](lambda: None)._create_default_callbacks()}
    assert by_ray - started == {"DatasetsCallback", "PlacementGroupCleanerCallback"}


@pytest.mark.parametrize(
    "address", ["~", "nonsense", "~/cluster:6379x", "host:port", ":6379", "host:99999", "http://127.0.0.1:8265", " "]
)
def test_what_is_no_address_of_a_cluster_is_refused(monkeypatch, unconnected, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(
        ConfigError, match=r"^RAY_ADDRESS .*: cannot connect to that cluster \(expected auto, local, HO"
    ):
        next(iter(cluster.connect().gen))


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "localhost:{}", "ray://127.0.0.1:{}"])
def test_an_address_at_which_nothing_listens_is_refused_soon(monkeypatch, unconnected, caplog, form):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = form.format(free.getsockname()[1])
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray_train, "TO_CONNECT_S", 0.1)
    with (
        caplog.at_level(logging.INFO, "tgt_ray"),
        pytest.raises(ConfigError, match=rf"^RAY_ADDRESS {address}: cannot connect to that cluster \(no connection"),
    ):
        next(iter(cluster.connect().gen))
    assert f"connecting to the Ray cluster at {address} (RAY_ADDRESS)" in caplog.messages


def test_an_address_that_is_no_cluster_is_refused_soon(monkeypatch):
    asked = []

    class Client:
        @staticmethod
        def standalone(address, cluster_id, timeout_ms):
            asked.append((address, timeout_ms))
            raise RuntimeError("timed out")

    monkeypatch.setattr(ray_train, "InnerGcsClient", Client)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConnectionError, match="does not answer as the head of a cluster: timed out"):
            ray_train.check_cluster(f"127.0.0.1:{port}")
    [(address, timeout)] = asked
    assert address.endswith(f":{port}")
    assert ray_train.TO_CONNECT_S + timeout / 1000 + 10 < 30


def test_a_token_that_ray_makes_is_for_this_user_alone(monkeypatch, tmp_path):
    from ray._private.authentication import authentication_token_setup as setup

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(setup, "generate_and_save_token", setup.generate_and_save_token)  # put back afterwards
    before = os.umask(0o022)
    try:
        for _ in range(2):
            keep_tokens_private()
        setup.generate_and_save_token()
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text()
