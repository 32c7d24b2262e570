"""The cluster launcher file, and folders that all nodes see."""

import pytest
import yaml

from tests.helpers.places import ROOT
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.storage import Storage
from tgt_ray.distributed import cluster


def test_the_launcher_file_passes_ray_s_own_validation():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(config))
    assert set(config["available_node_types"]) == {"head", "students", "generators"}


def test_the_launcher_file_s_validation_can_fail():
    import jsonschema
    from ray.autoscaler._private.util import validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text()) | {"not_a_key": 1}
    with pytest.raises(jsonschema.ValidationError):
        validate_config(config)


@pytest.mark.ray
def test_a_folder_that_another_node_does_not_see_is_refused(monkeypatch, tmp_path, ray_cluster):
    import ray

    storage = Storage(tmp_path)
    cluster.check_shared(storage)  # one node: nothing to share
    here = ray.nodes()[0]
    other = here | {"NodeID": "another", "NodeManagerAddress": "10.0.0.7"}
    monkeypatch.setattr(ray, "nodes", lambda: [here, other])
    monkeypatch.setattr(cluster, "_sees", lambda node_id, path: ray.put(False))
    with pytest.raises(ConfigError, match=r"2 nodes, and 10\.0\.0\.7 does not see"):
        cluster.check_shared(storage)
    assert not list(tmp_path.iterdir())
