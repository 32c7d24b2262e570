"""What Ray Train starts for a lane besides its workers."""

import pytest

from tgt_ray.distributed.ray_train import trainer_class


@pytest.mark.parametrize("workers", [1, 2])
def test_a_lane_starts_no_actor_for_data_sets_and_none_that_needs_the_dashboard(workers):
    made = trainer_class(workers)
    started = {type(each).__name__ for each in made(lambda: None)._create_default_callbacks()}
    by_ray = {type(each).__name__ for each in made.__mro__[2](lambda: None)._create_default_callbacks()}
    assert by_ray - started == {"DatasetsCallback", "PlacementGroupCleanerCallback"}
