"""A generator of the pool, without Ray around it."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from tests.helpers.experiments import changed
from tgt_ray.core.config import validate
from tgt_ray.core.errors import NotWritten
from tgt_ray.core.loading import with_overrides
from tgt_ray.core.storage import Storage
from tgt_ray.distributed.messages import BankPlace, Grant, Job
from tgt_ray.distributed.pool_actor import PoolSetup, TeacherGenerator
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.experiment.pool import PoolConfig
from tgt_ray.teacher.bank.key import machine
from tgt_ray.training.generation import recipe_of, shown_rows
from tgt_ray.training.student import build_student


def test_a_generator_works_in_one_thread_from_slot_to_slot(monkeypatch):
    """torch's libraries keep some 100 MB for each thread that has ever used them."""
    # Settings of a process of its own, which this one isn't.
    monkeypatch.setattr("tgt_ray.distributed.pool_actor.keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    made = TeacherGenerator(PoolSetup(PoolConfig(slot_length=2), "", None))
    made._ask = lambda slot, place: None
    made._make = lambda slot, place: threading.get_ident()
    threads = [thread for slot in range(3) for thread in made({"slot": np.array([slot])})]
    assert len(threads) == 6 and len(set(threads)) == 1


def test_a_warm_generator_takes_trials_of_other_ratios(monkeypatch, prepared, storage):
    """What is the same stays loaded between trials: norms are split where there are two sources alone."""
    monkeypatch.setattr("tgt_ray.distributed.pool_actor.keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    made = TeacherGenerator(PoolSetup(PoolConfig(), storage.root, None))
    made.loaded["prepared"] = ("reference", prepared.prepared)
    reference = SimpleNamespace(hex=lambda: "reference")
    synthesizers = []
    for number, (ratio, every) in enumerate([(0.5, 15), (1.0, 31), (0.5, 15)]):
        how = {"train.batch_norm": "per_source", "train.synthetic_ratio": ratio, "pool.rows_per_request": 128}
        how |= {"train.steps": 1000, "train.batch_size": 64}
        config = validate(Experiment, with_overrides(prepared.experiment.model_dump(mode="json"), list(how.items())))
        made._adopt(Job(number, config, (reference,), 0, 1, 0, 10))
        made.student.load_state_dict(build_student(config, prepared.prepared.student).state_dict())
        assert next(request for request in range(1, 40) if shown_rows(made.experiment, request)) == every
        assert made.synthesizer.recipe == recipe_of(config)
        synthesizers.append(made.synthesizer)
    assert synthesizers[0] is synthesizers[1] is synthesizers[2]


def test_a_generator_shows_as_many_requests_of_a_shared_bank(monkeypatch, prepared, storage):
    monkeypatch.setattr("tgt_ray.distributed.pool_actor.keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    made = TeacherGenerator(PoolSetup(PoolConfig(), storage.root, None))
    made.loaded["prepared"] = ("reference", prepared.prepared)
    how = {"explorer.type": "gradient", "pool.bank.mode": "shared", "pool.rows_per_request": 2}
    config = changed(prepared.experiment, how | {"train.steps": 16, "train.batch_size": 16})
    place = BankPlace("of-a-shared-bank", machine(torch.get_num_threads(), "cpu"))
    job = Job(0, config, (SimpleNamespace(hex=lambda: "reference"),), 0, 1, 0, 64, place)
    made._adopt(job)
    shown = [len(made._synthesize(Grant(0, job.request(index))).shown["reconstructed"]) for index in range(8)]
    assert [bool(each) for each in shown] == [True, False, False, False] * 2


def test_a_generator_counts_the_seconds_of_processors(monkeypatch, prepared, storage):
    monkeypatch.setattr("tgt_ray.distributed.pool_actor.keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    made = TeacherGenerator(PoolSetup(PoolConfig(), storage.root, None))
    made.loaded["prepared"] = ("reference", prepared.prepared)
    config = changed(prepared.experiment, explorer__type="random", pool__rows_per_request=32)
    made._adopt(Job(0, config, (SimpleNamespace(hex=lambda: "reference"),), 0, 1, 0, 10))
    quick = made.synthesizer

    def slow(*args):
        time.sleep(1)
        return quick(*args)

    made.synthesizer = slow
    made._synthesize(Grant(0, 0))
    assert 0 < made.took < 1


def test_a_generator_says_what_it_took_and_whether_its_rows_are_kept(monkeypatch, prepared, storage, caplog):
    monkeypatch.setattr("tgt_ray.distributed.pool_actor.keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    made = TeacherGenerator(PoolSetup(PoolConfig(), storage.root, None))
    made.loaded["prepared"] = ("reference", prepared.prepared)
    config = changed(prepared.experiment, explorer__type="random", pool__rows_per_request=32)
    place = BankPlace("of-a-generator", machine(torch.get_num_threads(), "cpu"))
    job = Job(0, config, (SimpleNamespace(hex=lambda: "reference"),), 0, 1, 0, 10, place)
    made._synthesize(Grant(0, 0, job))
    assert made.unkept is None and 0 < made.took < 60 and storage.exists("bank", place.key, "request-00000000.arrow")

    def full(*args, **more):
        raise NotWritten("bank: cannot be written (No space left on device)")

    monkeypatch.setattr(Storage, "write", full)
    made._synthesize(Grant(0, 1))
    assert made.unkept == "bank: cannot be written (No space left on device)" and len(caplog.messages) == 1
    made._adopt(replace(job, number=1, bank=None))
    made._synthesize(Grant(1, 1))
    assert made.unkept is None
    elsewhere = replace(place, made_on={**place.made_on, "torch": "0.4"})
    made._adopt(replace(job, number=2, bank=elsewhere))
    made._synthesize(Grant(2, 1))
    assert made.unkept.startswith("pool.bank: generators make rows of {") and "'torch': '0.4'" in made.unkept
