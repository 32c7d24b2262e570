"""The block `pool`: sizes with and without a unit."""

import pytest

from tgt_ray.core.config import validate
from tgt_ray.core.errors import ConfigError
from tgt_ray.experiment.experiment import Experiment


def of(size: object) -> Experiment:
    return validate(Experiment, {"pool": {"bank": {"max_bytes": size}}})


@pytest.mark.parametrize(
    "written, size", [("20GB", 20 * 10**9), ("500 MiB", 500 * 2**20), (2**20, 2**20), (None, None), ("1048576", 2**20)]
)
def test_a_size_may_have_a_unit(written, size):
    assert of(written).pool.bank.max_bytes == size


@pytest.mark.parametrize("written", ["lots", "-5GB", True, "5 apples", 3, "1kB", 1.5])
def test_what_is_no_size_or_less_than_a_chunk_needs_is_refused(written):
    with pytest.raises(ConfigError, match=r"^pool\.bank\.max_bytes: "):
        of(written)
