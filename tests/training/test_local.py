"""Where training in one process computes, and what its teacher's time is."""

import time

import pytest
import torch

from tests.helpers.experiments import changed, short
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import with_overrides
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.synthesizer import Synthesizer
from tgt_ray.training.local import devices, train_local


@pytest.mark.parametrize("key", ["train.gpus_per_worker", "pool.gpus_per_actor"])
def test_a_gpu_that_is_not_there_is_refused(key, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = validate(Experiment, with_overrides(Experiment().model_dump(mode="json"), [(key, 0.5)]))
    with pytest.raises(ConfigError, match=rf"{key}: 0\.5, but torch sees no GPU on this machine"):
        devices(config)
    assert devices(Experiment()) == ("cpu", "cpu")


@pytest.mark.parametrize("mode", ["none", "exact"])
def test_the_time_of_a_teacher_that_waits_for_a_processor_is_not_counted(prepared, storage, monkeypatch, mode):
    make = Synthesizer.__call__

    def slow(*args, **more):
        time.sleep(0.5)
        return make(*args, **more)

    monkeypatch.setattr(Synthesizer, "__call__", slow)
    config = changed(short(prepared.experiment, explorer__type="random", train__seed=321), pool__bank={"mode": mode})
    end = train_local(config, prepared.prepared, storage).history[-1]
    requests = end["rows_made"] / config.pool.rows_per_request
    assert requests >= 3 and 0 < end["teacher_seconds"] < 0.5 * requests
