"""What fits on a cluster."""

from tests.helpers.experiments import changed
from tgt_ray.distributed.resources import count_lanes, lane_bundles
from tgt_ray.experiment.experiment import Experiment


def test_two_default_runs_fit_on_two_cpus_and_one_on_one():
    assert count_lanes(Experiment(), at_most=8, nodes=[{"CPU": 2.0}]) == 2
    assert count_lanes(Experiment(), at_most=8, nodes=[{"CPU": 1.0}]) == 1
    assert count_lanes(Experiment(), at_most=8, nodes=[{"CPU": 2.0}, {"CPU": 2.0}]) == 4


def test_a_run_without_synthetic_rows_counts_no_generator():
    plain = changed(Experiment(), train__synthetic_ratio=0.0)
    assert lane_bundles(plain) == [{"CPU": 0.5}]


def test_custom_resources_place_the_pool_on_its_node_type():
    placed = changed(Experiment(), train__gpus_per_worker=1, pool__actor_resources={"generator": 0.5})
    students, generators = {"CPU": 4.0, "GPU": 1.0}, {"CPU": 16.0, "generator": 1.0}
    assert count_lanes(placed, at_most=8, nodes=[students, generators]) == 1
    assert count_lanes(placed, at_most=8, nodes=[students, students, generators]) == 2
    assert count_lanes(placed, at_most=8, nodes=[students, students]) == 0
