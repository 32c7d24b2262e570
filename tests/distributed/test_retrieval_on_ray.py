"""Retrieval on Ray: documents and queries through the pool, and the same training as in one process."""

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy

from tests.helpers.retrieval import experiment
from tgt_ray.entrypoints import api

pytestmark = pytest.mark.ray


@pytest.mark.slow
def test_retrieval_gives_the_same_training_locally_and_on_ray(ray_cluster, beir, encoder, tmp_path):
    config = experiment(beir, encoder, task={"labelled": {"rows": 20}})
    local = api.run(config, storage=str(tmp_path / "one"), name="local", local=True)
    on_ray = api.run(config, storage=str(tmp_path / "two"), name="ray")
    # Embedded by a pool there.
    assert on_ray.record["teacher"]["labeler"]["quality"]["documents"] == {"count": 48, "cut": 0}
    assert len(list((tmp_path / "two/documents").iterdir())) == 1
    heads = [
        safetensors.numpy.load(next(done.glob("teachers/labeler-*.safetensors")).read_bytes())["head.weight"]
        for done in (tmp_path / "one", tmp_path / "two")
    ]
    np.testing.assert_allclose(*heads, atol=1e-6)
    for column in ("train_loss", "train_distance_real", "train_kl_synthetic"):
        np.testing.assert_allclose(local.metrics[column], on_ray.metrics[column], rtol=0.01, err_msg=column)
    shown = [pd.read_parquet(f"{done.folder}/gallery.parquet") for done in (local, on_ray)]
    assert shown[0].explored.tolist() == shown[1].explored.tolist()


@pytest.mark.slow
def test_two_workers_train_a_student_that_embeds_documents(ray_cluster, beir, encoder, tmp_path):
    student = {"type": "text_transformer", "layers": 0, "width": 24, "max_tokens": 30}
    config = experiment(
        beir,
        encoder,
        student=student,
        objective={"type": "embed_distill", "document_encoder": "student"},
        train={"workers": 2, "cpus_per_worker": 0.3},
        pool={"cpus_per_actor": 0.2},
    )
    done = api.run(config, storage=str(tmp_path), name="two")
    # Two reports: the second worker goes on after the first one has ranked documents.
    assert done.metrics.step.tolist() == [30, 60]
    assert done.metrics.train_distance_documents.is_monotonic_decreasing
