"""Metrics of classes."""

import numpy as np

from tgt_ray.tasks.metrics.classification import by_shots


def test_shots_group_classes_by_their_train_rows():
    recalls = {0: 90.0, 1: 80.0, 2: 70.0, 3: 40.0, 4: 10.0}
    counts = np.array([500, 101, 100, 20, 19])
    assert by_shots(recalls, counts) == {"many_shot": 85.0, "medium_shot": 55.0, "few_shot": 10.0}
    assert by_shots({0: 50.0}, np.array([5])) == {"few_shot": 50.0}
