"""The teacher pass beside lanes."""

import numpy as np
import pytest
import ray

from tgt_ray.core.signals.of_generator import LATENT
from tgt_ray.core.signals.of_labeler import LOGITS, TOP
from tgt_ray.distributed.cluster import nodes
from tgt_ray.distributed.teacher_pass import label_rows
from tgt_ray.teacher.versions import Changes, Versions
from tgt_ray.training.preparation import ask_teacher

pytestmark = pytest.mark.ray


def test_the_teacher_pass_does_not_wait_for_what_lanes_hold(ray_cluster, prepared, storage, digits, teacher):
    held = ray.util.placement_group([{"CPU": node["CPU"]} for node in nodes()])
    try:
        assert held.wait(60)
        record = prepared.prepared.teacher
        versions = Versions(digits.tables["train"], Changes(1, True, None, 7))
        asked = [
            (digits.tables["train"], (LATENT, LOGITS)),
            (digits.tables["validation"], (TOP,)),
            (versions, (LOGITS,)),
        ]
        train, validation, changed = label_rows(prepared.experiment, record, digits, asked, storage, beside_lanes=True)
    finally:
        ray.util.remove_placement_group(held)
    np.testing.assert_allclose(train["latent"], prepared.prepared.anchors.latents, atol=1e-4)
    np.testing.assert_allclose(train["logits"], prepared.prepared.student.columns["logits"], atol=1e-3)
    here = ask_teacher(prepared.experiment, teacher, versions, digits.input_shape, (LOGITS,), "cpu")
    np.testing.assert_allclose(changed["logits"], here["logits"], atol=1e-3)
    accuracy = 100 * np.mean(validation["top_class"] == digits.labels("validation"))
    assert accuracy == pytest.approx(record["labeler"]["quality"]["validation"]["accuracy"], abs=0.5)
