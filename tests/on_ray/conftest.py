"""One local Ray for all tests of a session that don't start their own."""

import pytest


@pytest.fixture(scope="session")
def ray_cluster():
    import ray

    from tgt_ray import cluster

    with cluster.connect():
        assert ray.is_initialized()
        yield
