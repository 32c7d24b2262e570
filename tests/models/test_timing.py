"""How long models take: with one row and with many, with one thread and with all."""

import time

import pytest
import torch

from tgt_ray.models import timing


def slow(seconds: float):
    """A model that takes so long for each row, and what it was given."""
    given = []

    def model(rows):
        given.append((len(rows), torch.get_num_threads(), torch.is_grad_enabled()))
        time.sleep(seconds * len(rows))

    return model, given


def test_it_says_what_one_row_and_many_take(monkeypatch):
    monkeypatch.setattr(timing, "usable_cpus", lambda: 2)
    model, given = slow(0.001)
    before = torch.get_num_threads()
    found = timing.timed(model, torch.rand(3, 2))
    assert found["rows"] == 64 and found["cpu"] and found["load"] >= 0
    assert [each["threads"] for each in found["threads"]] == [1, 2]
    for each in found["threads"]:
        assert 1 <= each["latency_ms"] <= each["latency_p95_ms"] < 30
        assert 200 < each["rows_per_second"] <= 1000
    assert {size for size, *_ in given} == {1, 64}, "rows are repeated where there are fewer"
    assert {threads for _, threads, _ in given} == {1, 2} and not any(grad for *_, grad in given)
    assert torch.get_num_threads() == before


def test_on_one_cpu_nothing_is_measured_twice(monkeypatch):
    monkeypatch.setattr(timing, "usable_cpus", lambda: 1)
    assert len(timing.timed(slow(0)[0], torch.rand(3, 2))["threads"]) == 1


def test_a_slow_model_gets_fewer_rows_at_once(monkeypatch):
    monkeypatch.setattr(timing, "LONGEST_CALL_S", 0.1)
    monkeypatch.setattr(timing, "usable_cpus", lambda: 1)
    model, given = slow(0.01)
    found = timing.timed(model, torch.rand(64, 2))
    assert 1 < found["rows"] <= 10 and max(size for size, *_ in given) == found["rows"]


@pytest.mark.parametrize("takes, least, most", [(0.001, 40, 51), (0.03, 5, 5), (0.2, 1, 2)])
def test_slow_models_have_fewer_calls(monkeypatch, takes, least, most):
    monkeypatch.setattr(timing, "SECONDS", 0.05)
    monkeypatch.setattr(timing, "CALLS", 5)
    monkeypatch.setattr(timing, "MOST_SECONDS", 0.2)
    monkeypatch.setattr(timing, "usable_cpus", lambda: 1)
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    sizes = []

    def model(rows):
        sizes.append(len(rows))
        clock[0] += takes

    timing.timed(model, torch.rand(64, 2), together=2)
    assert least <= sizes.count(1) - 1 <= most, "the first call isn't counted"
