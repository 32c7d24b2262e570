"""One local Ray for all tests of a session that don't start their own, and a small teacher made ready once."""

from dataclasses import dataclass

import pytest

from tgt_ray.experiment import Experiment, with_overrides
from tgt_ray.prepared import Prepared
from tgt_ray.storage import Storage


@dataclass(frozen=True)
class Ready:
    experiment: Experiment
    prepared: Prepared


@pytest.fixture(scope="session")
def storage(tmp_path_factory) -> Storage:
    return Storage(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="session")
def prepared(storage) -> Ready:
    """The default experiment with a quickly made teacher."""
    from tgt_ray.local import prepare_local

    quick = [("teacher.labeler.pretrain.steps", 150), ("teacher.generator.pretrain.steps", 300)]
    experiment = Experiment.model_validate(with_overrides(Experiment().model_dump(mode="json"), quick))
    return Ready(experiment, prepare_local(experiment, experiment.task.load(), storage))


@pytest.fixture(scope="session")
def ray_cluster():
    import ray

    from tgt_ray import cluster

    with cluster.connect():
        assert ray.is_initialized()
        yield
