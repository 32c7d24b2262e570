"""How many rows a model takes at once."""

from tests.helpers.pretrained import NAME
from tgt_ray.core.batch import InputSpec, rows_at_once
from tgt_ray.teacher.labelers.image import TimmLabeler


def test_rows_at_once_go_by_the_largest_of_the_models():
    large, small = (TimmLabeler(name=NAME, img_size=size).build(InputSpec((3, 32, 32)), 2) for size in (224, 16))
    assert rows_at_once((3, 32, 32)) == rows_at_once((3, 32, 32), small) == 512
    assert rows_at_once((3, 32, 32), small, large) == 27
    assert rows_at_once((3, 32, 32), large, most=5) == 5
