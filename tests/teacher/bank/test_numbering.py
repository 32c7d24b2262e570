"""Each request of a run has numbers of its own in a bank, and numbers lead back to it."""

import pytest

from tgt_ray.experiment.train import TrainConfig
from tgt_ray.teacher.bank.numbering import NEAR, SHARES, Numbering


def most(name: str) -> int:
    """The largest value that a setting of the training may have."""
    (bound,) = (each.le for each in TrainConfig.model_fields[name].metadata if hasattr(each, "le"))
    return bound


#: Requests of the longest training, where each has a single row.
LARGEST = most("steps") * most("batch_size")


def test_rows_that_are_the_same_for_all_students_have_the_number_of_their_request():
    second = Numbering(rank=1, world_size=3)
    assert [second.number(index) for index in range(3)] == [1, 4, 7]
    assert [list(second.serving(index)) for index in range(2)] == [[1], [4]]
    assert [second.index(number) for number in (1, 4, 7)] == [0, 1, 2]


@pytest.mark.parametrize("total", [1, 3, 7, 90, 1000])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_no_number_serves_two_requests(total, world_size):
    taken = set()
    for rank in range(world_size):
        own = Numbering(rank, world_size, total)
        for index in range(len(range(rank, total, world_size))):
            serving = own.serving(index)
            assert serving[0] == own.number(index) and own.index(serving[0]) == own.index(serving[-1]) == index
            assert len(serving) <= NEAR * SHARES and not taken & set(serving[:: SHARES // 4096])
            taken |= set(serving[:: SHARES // 4096])


@pytest.mark.parametrize("total", [2**20 + 1, 3 * 10**9, LARGEST])
def test_neighbours_of_a_long_run_have_numbers_of_their_own(total):
    own = Numbering(total=total)
    for first in (0, total // 3, total - 3):
        numbers = [own.number(index) for index in range(first, first + 3)]
        assert len(set(numbers)) == 3 and [own.index(number) for number in numbers] == list(range(first, first + 3))
        assert numbers[0] in own.serving(first) and numbers[1] not in own.serving(first)


def test_no_run_has_more_requests_than_there_are_numbers():
    assert LARGEST < SHARES < 2**63, "which files hold as 64 bits"


def test_runs_of_other_lengths_meet_at_the_same_share_of_their_training():
    long, short = Numbering(total=90), Numbering(total=9)
    assert [long.number(10 * index) for index in range(9)] == [short.number(index) for index in range(9)]
    near = [index for index in range(90) if long.number(index) in short.serving(0)]
    assert near == [0, 1, 2, 3, 4]  # the rest of its tenth is too far away
