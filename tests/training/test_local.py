"""Where training in one process computes."""

import pytest
import torch

from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import with_overrides
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.training.local import devices


@pytest.mark.parametrize("key", ["train.gpus_per_worker", "pool.gpus_per_actor"])
def test_a_gpu_that_is_not_there_is_refused(key, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = validate(Experiment, with_overrides(Experiment().model_dump(mode="json"), [(key, 0.5)]))
    with pytest.raises(ConfigError, match=rf"{key}: 0\.5, but torch sees no GPU on this machine"):
        devices(config)
    assert devices(Experiment()) == ("cpu", "cpu")
