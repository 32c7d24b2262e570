"""Fingerprints of configs and digests of bytes."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.helpers.configs import experiment
from tgt_ray.core.config import validate
from tgt_ray.core.fingerprint import digest
from tgt_ray.experiment.experiment import Experiment


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from(["train.steps", "train.seed", "train.warmup"]))
@settings(max_examples=30, deadline=None)
def test_fingerprints_are_equal_exactly_for_equal_content(a, b, key):
    scale = 1e-7 if key == "train.warmup" else 1
    first, second = experiment((key, a * scale)), experiment((key, b * scale))
    assert (first.fingerprint() == second.fingerprint()) == (a == b)
    assert first.fingerprint() == experiment((key, a * scale)).fingerprint()


def test_order_of_keys_does_not_change_a_fingerprint():
    one = validate(Experiment, {"train": {"steps": 5, "seed": 1}, "explorer": {"type": "random", "sigma": 1}})
    two = validate(Experiment, {"explorer": {"sigma": 1, "type": "random"}, "train": {"seed": 1, "steps": 5}})
    assert one.fingerprint() == two.fingerprint()


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_digests_keep_parts_apart(a, b):
    assume(not any(b"\0" in part for part in a + b))
    assert (digest(*a) == digest(*b)) == (a == b)
