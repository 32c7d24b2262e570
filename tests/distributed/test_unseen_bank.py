"""A worker of a lane whose bank can't be listed, without Ray around it."""

import queue
from types import SimpleNamespace

from tests.helpers.storages import Failing
from tests.teacher.bank.test_chunks import block, same
from tgt_ray.core.storage import Storage
from tgt_ray.distributed.messages import Job
from tgt_ray.distributed.stream import SyntheticStream
from tgt_ray.distributed.wire import pack
from tgt_ray.experiment.experiment import Experiment
from tgt_ray.teacher.bank.bank import Bank
from tgt_ray.training.banked import BankedRows


def test_a_worker_does_not_wait_for_lanes_whose_rows_it_cannot_see(tmp_path):
    """Another lane makes the request, and would put it into the bank."""
    bank, job = Bank(Storage(tmp_path), "k"), Job(3, Experiment(), (), 0, 1, 0, 10)
    bank.folder.fs = Failing(bank.folder.fs)
    bank.folder.fs.broken = {"get_file_info"}
    stream = object.__new__(SyntheticStream)
    stream.beyond, stream.next, stream.there, stream.waiting, stream.look_s = 0, 0, frozenset(), {}, 0.01
    stream.limit = float("inf")
    stream.banked = BankedRows(bank, lambda index: stream._next(job, index), 5)

    def make_it_yourself(number: int) -> None:
        assert number == job.number
        stream.waiting[0] = pack(number, block(0, 5))

    coordinator = SimpleNamespace(unkept=SimpleNamespace(remote=make_it_yourself))
    stream.generators = SimpleNamespace(blocks=queue.Queue(), coordinator=coordinator)
    assert same(stream.banked.block(0).inputs, block(0, 5).inputs)
