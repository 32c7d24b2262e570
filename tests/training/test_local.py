"""Where training in one process computes, and what its teacher's time is."""

import time

import pytest
import torch

from tests.helpers.experiments import changed, short
from tests.helpers.storages import Failing, remote
from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.storage import Storage
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.bank import bank
from tgt_ray.teacher.store import load_teacher
from tgt_ray.teacher.synthesizer import Synthesizer
from tgt_ray.training import local
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


@pytest.mark.parametrize("mode", ["none", "exact"])
def test_loading_the_teacher_is_no_part_of_its_rows(prepared, storage, monkeypatch, mode):
    def slow(*args):
        until = time.process_time() + 1
        while time.process_time() < until:
            pass
        return load_teacher(*args)

    monkeypatch.setattr(local, "load_teacher", slow)
    config = changed(short(prepared.experiment, explorer__type="random", train__seed=654), pool__bank={"mode": mode})
    end = train_local(config, prepared.prepared, storage).history[-1]
    assert end["rows_made"] and 0 < end["teacher_seconds"] < 1


def test_a_run_whose_bank_cannot_be_reached_ends_as_others_do(prepared, storage, tmp_path, monkeypatch, caplog):
    (tmp_path / "teachers").symlink_to(storage.path("teachers"))
    monkeypatch.setattr(bank, "_said", set())
    root, begin = remote(monkeypatch, tmp_path), Storage.within

    def within(self, *parts):
        found = begin(self, *parts)
        if parts[0] == "bank":
            found.fs = Failing(found.fs)
            found.fs.broken = {"get_file_info", "open_input_file"}
        return found

    config = short(prepared.experiment, explorer__type="random", train__seed=987)
    calm = train_local(changed(config, pool__bank={"mode": "none"}), prepared.prepared, storage)
    caplog.clear()
    monkeypatch.setattr(Storage, "within", within)
    run = train_local(config, prepared.prepared, root)
    assert run.step == calm.step and run.history[-1]["train_loss"] == calm.history[-1]["train_loss"]
    assert run.history[-1]["rows_made"] == calm.history[-1]["rows_made"] and run.history[-1]["rows_found"] == 0
    assert len(caplog.messages) == 2, "it can't be read; it can't be added to, since nobody knows how much there is"
